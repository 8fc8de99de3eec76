"""The network between the nodes: cut, refused, half open, silent, slow; every worker is behind a proxy on loopback."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from harness.errors import ServerGoneError
from harness.faults import FAULTS, Link, Mode, fetch_backends, linked, worker_removed
from harness.faults.proxy import Direction
from harness.waiting import wait_until
from scenarios.faults.stages import DBNAME, PLACEMENTS, Stage
from scenarios.faults.stepping import Outcome, Stepping, Stop

pytestmark = [
    pytest.mark.citus(">= 13"),
    pytest.mark.allow_log("could not|connection .*(lost|reset|refused)|failed", "connections were cut on purpose"),
]
Record = Callable[[str, object], None]
_SILENCE_S = 0.7
# Sessions that the node of id 1 opened.
OF_THE_COORDINATOR = "citus_internal gpid=1%"


@pytest.fixture
def link(stage: Stage) -> Iterator[Link]:
    """The way to the second worker."""
    with linked(stage.site, stage.site.workers[1]) as made:
        yield made


def _places(stage: Stage) -> set[tuple[object, ...]]:
    return {row[:2] for rows in stage.shape().values() for row in rows}


def test_link_is_registered_on_every_node_and_put_back(stage: Stage) -> None:
    before = stage.shape()
    worker = stage.site.workers[0]
    with linked(stage.site, worker) as made:
        assert made.proxy.address in _places(stage)
        assert worker.address not in _places(stage)
        stage.change("distributed")
        assert stage.right_again("distributed", time.monotonic()) > 0
    assert stage.shape() == before
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(worker.dsn(DBNAME).replace(str(worker.port), str(made.proxy.port)))


def test_link_of_a_worker_that_was_out_and_came_back_is_put_back(stage: Stage) -> None:
    """Another number by then; it may be out at that very moment, too."""
    worker, before = stage.site.workers[1], stage.shape()
    with linked(stage.site, worker) as made:
        site = dataclasses.replace(stage.site, links={worker.name: made})
        with worker_removed(site, worker, "block_writes"):
            assert made.proxy.address not in {row[:2] for row in stage.shape()[stage.site.coordinator.name]}
        assert made.proxy.address in _places(stage)
    assert stage.shape() == before
    stage.change("distributed")
    stage.right_again("distributed", time.monotonic(), may_rebuild=True)


@pytest.mark.parametrize("mode", ["cut", "refuse"])
def test_cut_link_is_named_by_the_refresh(
    stage: Stage, link: Link, steps: Stepping, mode: Mode, record_property: Record
) -> None:
    with stage.fault(f"link_{mode}", link.broken(mode), record_property):
        with pytest.raises(psycopg.OperationalError), stage.connect() as connection:
            connection.execute("SELECT count(*) FROM entries_local")
        for name in PLACEMENTS:
            with pytest.raises(ServerGoneError) as refused:
                stage.refresh(name)
            assert str(link.proxy.port) in refused.value.message


def test_half_open_link_leaves_the_worker_with_sessions_of_nobody(
    stage: Stage, link: Link, record_property: Record
) -> None:
    worker = link.worker
    with stage.fault("link_half_open", link.broken("half_open"), record_property):
        with pytest.raises(ServerGoneError) as refused:
            stage.refresh("distributed")
        assert str(link.proxy.port) in refused.value.message
        orphans = {one.pid for one in fetch_backends(worker, DBNAME, application=OF_THE_COORDINATOR)}
        assert orphans, "the worker was not told"
    wait_until(
        "the worker to learn that they are nobody's",
        # Others came to it before it was behind the proxy, and have nothing to learn.
        lambda: orphans - {one.pid for one in fetch_backends(worker, DBNAME)},
        deadline_s=10,
    )


@pytest.mark.parametrize("direction", ["both", "back", "forth"])
def test_silent_link_makes_the_refresh_wait(
    stage: Stage, link: Link, steps: Stepping, direction: Direction, record_property: Record
) -> None:
    """It goes on as soon as the link does; what gives up, and when, docs/faults.md has."""
    number = steps.find_step(stage.dsn, "local", "BEGIN", stage.change)
    others = [name for name in stage.names if name != "local"]
    stage.change("local")
    stop = steps.order(stage.dsn, "local", number)
    assert isinstance(stop, Stop)
    outcomes: list[Outcome] = []
    with stage.fault(
        f"link_black_hole ({direction})",
        steps.ended_after(link.broken("black_hole", direction=direction), outcomes),
        record_property,
        names=others,
    ):
        steps.let_go()
        assert steps.is_silent(_SILENCE_S)
    assert [outcome.action for outcome in outcomes] == ["DIFFERENTIAL"], outcomes
    stage.require("local")


def test_slow_link_makes_refreshes_slow_and_right(stage: Stage, link: Link, record_property: Record) -> None:
    def once() -> float:
        stage.change("distributed")
        begun = time.monotonic()
        stage.refresh("distributed")
        return time.monotonic() - begun

    once()
    fast_s = min(once() for _round in range(3))
    with stage.fault("link_slow", link.broken("slow", latency_s=0.02), record_property):
        slow_s = min(once() for _round in range(3))
        stage.require("distributed")
    print(f"refresh: {fast_s:.3f} s, over a link with 20 ms each way {slow_s:.3f} s")  # noqa: T201
    assert slow_s > fast_s + 0.04, "a round trip at least"


def test_faults_of_links_take_the_link_that_is_there(stage: Stage, link: Link) -> None:
    site = dataclasses.replace(stage.site, links={link.worker.name: link}, nodes=(stage.site.nodes[0], link.worker))
    with FAULTS["link_refused"].inject(site, random.Random(1)) as words:  # noqa: S311 - a choice of one
        assert str(link.proxy.mode) == "refuse"
        assert link.worker.name in words
    assert str(link.proxy.mode) == "pass"
