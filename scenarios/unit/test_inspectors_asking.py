"""Who is asked again: nodes that nobody answers from are left alone for a while, those that say no are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.inspectors import asking
from harness.inspectors.asking import Answers, Asker, Silent
from harness.inspectors.contract import Cost, Reason
from harness.inspectors.fan_out import ClusterNode, gather
from harness.inspectors.limits import Limits
from harness.inspectors.redaction import Redactor

NODES = tuple(ClusterNode(number, number, "host", number) for number in range(3))
GOOD = (True, '{"readonly": "on", "rows": []}')
LOCKED = (False, "ERROR: canceling statement due to lock timeout")
DENIED = (False, "ERROR: permission denied for function citus_stat_counters")
LACKING = (False, 'ERROR: relation "pg_catalog.pg_dist_new" does not exist')
GONE = (False, "failed to connect to host:1")
LATE = "late"


@dataclass
class Scripted(Asker):
    """Nodes that answer as a test says; ``LATE`` is one that does not in time, which ends a round of all of them."""

    script: Mapping[int, tuple[bool, str] | str] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def _run(self, query: sql.Composed, timeout_ms: int) -> Answers:
        text = query.as_string()
        chosen = [nodeid for nodeid in self.script if f"'{{{nodeid}}}'" in text] or list(self.script)
        self.asked.append((",".join(map(str, chosen)), timeout_ms))
        answers = {nodeid: self.script[nodeid] for nodeid in chosen}
        if LATE in answers.values():
            raise psycopg.errors.QueryCanceled
        return {nodeid: each for nodeid, each in answers.items() if not isinstance(each, str)}


Ask = Callable[..., Scripted]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks nodes that answer so, where every round counts as slow."""
    monkeypatch.setattr(asking, "_SLOW_S", -1.0)

    def ask_nodes(*script: tuple[bool, str] | str, limits: Limits | None = None) -> Scripted:
        nobody: Any = None
        asker = Scripted(nobody, limits or Limits(), Cost.FAN_OUT, Silent(), script=dict(enumerate(script)))
        answers = asker.ask(NODES[: len(script)], "SELECT 1")
        assert set(answers) == set(range(len(script)))
        return asker

    return ask_nodes


@pytest.mark.parametrize("refusal", [LOCKED, DENIED, LACKING])
def test_node_that_says_no_is_asked_again_at_once(ask: Ask, refusal: tuple[bool, str]) -> None:
    assert ask(GOOD, refusal).silent.nodes == {}
    assert ask(GOOD, refusal, GONE).silent.nodes.keys() == {2}


@pytest.mark.parametrize("refusal", [LOCKED, DENIED])
def test_node_that_says_no_when_it_is_asked_alone_is_asked_again_too(ask: Ask, refusal: tuple[bool, str]) -> None:
    assert ask(GOOD, refusal, LATE).silent.nodes.keys() == {2}


def test_unreachable_node_is_left_alone_for_a_while(ask: Ask) -> None:
    silent = ask(GOOD, GONE, (False, "")).silent
    assert silent.why(1) == GONE[1]
    assert silent.nodes.keys() == {1, 2}


def test_late_node_is_left_alone_only_where_another_one_answered_in_time(ask: Ask) -> None:
    assert ask(LATE, GOOD, LATE).silent.nodes.keys() == {0, 2}
    assert ask(LATE, LATE, LATE).silent.nodes == {}
    assert ask(LATE, DENIED, LATE).silent.nodes == {}


def test_turn_is_a_second_where_there_is_time_and_never_takes_that_of_the_others(ask: Ask) -> None:
    _, *turns = ask(GOOD, LATE, GOOD).asked
    assert [who for who, _ in turns] == ["0", "1", "2"]
    assert all(900 <= turn_ms <= 1000 for _, turn_ms in turns)
    _, first, second, last = ask(LATE, LATE, LATE, limits=Limits(statement_timeout_ms=2000)).asked
    assert 350 <= first[1] <= second[1] + 1 <= 401
    assert 700 <= last[1] <= 800


# ------------------------------------------------------------------------------ what became of those that failed


def _reasons(*answers: tuple[bool, str]) -> list[str]:
    gathered = gather(NODES[: len(answers)], dict(enumerate(answers)), Redactor())
    return [each.reason.partition(":")[0] for each in gathered.failed]


def test_node_that_says_no_is_told_by_its_reason() -> None:
    assert _reasons(GOOD, LOCKED, DENIED) == ["lock_timeout", "insufficient_privilege"]
    late = (False, "ERROR: canceling statement due to statement timeout")
    assert _reasons(late, GONE, (False, "")) == ["statement_timeout", "node_unreachable", "node_unreachable"]
    assert _reasons((False, str(Reason.STATEMENT_TIMEOUT)), GOOD) == ["statement_timeout"]
    assert _reasons(GOOD, (False, "ERROR: division by zero")) == ["node_failed"]


def test_what_no_node_has_is_not_in_this_version_and_what_one_lacks_is_its_own_trouble() -> None:
    assert _reasons(LACKING, LACKING, LACKING) == ["unsupported_version"] * 3
    assert _reasons(GOOD, LACKING) == ["node_failed"]
    assert _reasons(LACKING, GONE) == ["node_failed", "node_unreachable"]
