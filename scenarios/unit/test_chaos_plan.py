"""A seed decides the plan, and nothing else does; what is drawn is what can be done."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from harness.chaos.clients import client_faults
from harness.chaos.ddl import Changes
from harness.chaos.model import MOST_SEED, Lane, Options
from harness.chaos.plan import DDL_KINDS, FAULT_KINDS, SCHEDULER_KINDS, SHAPE_KINDS, make_plan
from harness.errors import BadInputError
from harness.faults import FAULTS
from harness.faults.proxy import Proxy

PROGRAM = """
from harness.chaos.plan import make_plan
print([make_plan(seed, 10.0, has_citus=True) for seed in (0, 7, 2**63 - 1)])
"""


def test_same_seed_gives_same_plan_in_another_process() -> None:
    expected = str([make_plan(seed, 10.0, has_citus=True) for seed in (0, 7, 2**63 - 1)]) + "\n"
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == expected


def test_seeds_give_different_plans() -> None:
    plans = {make_plan(seed, 10.0, has_citus=True).steps for seed in range(50)}
    assert len(plans) == 50


@pytest.mark.parametrize("has_citus", [True, False])
def test_steps_of_a_lane_never_overlap_and_none_begins_after_the_end(has_citus: bool) -> None:
    for seed in range(100):
        plan = make_plan(seed, 10.0, has_citus=has_citus)
        assert list(plan.steps) == sorted(plan.steps, key=lambda step: (step.at_s, step.lane))
        for lane in Lane:
            steps = [step for step in plan.steps if step.lane is lane]
            assert all(step.at_s < 10.0 for step in steps)
            assert all(a.at_s + a.lasts_s <= b.at_s for a, b in pairwise(steps))


def test_every_fault_of_the_registry_is_drawn_by_some_plan_and_every_kind_exists() -> None:
    proxy = Proxy(("127.0.0.1", 1))
    try:
        known = set(client_faults(proxy))
    finally:
        proxy.close()
    assert set(FAULTS) <= set(FAULT_KINDS) | set(SHAPE_KINDS)
    assert set(FAULT_KINDS) | set(SHAPE_KINDS) == known
    drawn = {step.kind for seed in range(300) for step in make_plan(seed, 10.0, has_citus=True).steps}
    assert drawn == {*FAULT_KINDS, *SHAPE_KINDS, *DDL_KINDS, *SCHEDULER_KINDS}


def test_every_change_has_its_steps() -> None:
    for kind in DDL_KINDS:
        assert callable(getattr(Changes, f"_{kind}"))


def test_one_server_gets_no_step_that_needs_a_cluster() -> None:
    needs = {name for name, fault in FAULTS.items() if fault.needs_workers or fault.needs_citus}
    for seed in range(200):
        plan = make_plan(seed, 10.0, has_citus=False)
        assert not plan.has_links
        assert not {step.kind for step in plan.steps} & needs


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (Options(seconds=0), "--seconds 0"),
        (Options(seconds=-1), "--seconds -1"),
        (Options(seconds=float("nan")), "--seconds nan"),
        (Options(seconds=float("inf")), "--seconds inf"),
        (Options(seed=-1), "--seed -1"),
        (Options(seed=MOST_SEED + 1), f"--seed {MOST_SEED + 1}"),
        (Options(seed=MOST_SEED, runs=2), "--runs 2"),
        (Options(runs=0), "--runs 0"),
        (Options(runs=3, keep=True), "--keep"),
        (Options(is_plain=True, cluster="local"), "--plain"),
        (Options(keep=True, cluster="containers"), "--keep"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: Options, named: str) -> None:
    with pytest.raises(BadInputError, match=named):
        options.check()
