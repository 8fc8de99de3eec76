"""What is due, in which order, when: the scheduler's plan, without a server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from harness.errors import BadInputError
from harness.scheduler.entries import Entry, Look
from harness.scheduler.order import Memory, Plan, describe_cycle, find_cycles, plan, ready
from harness.trickle.definition import check_words
from harness.trickle.schedules import After, Cron, Every, due_at, read_schedule

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def entry(number: int, schedule: str | None = "10s", *, age_s: float = 20, reads: tuple[int, ...] = ()) -> Entry:
    return Entry(
        pgt_id=number,
        name=f"public.t{number}",
        has_table=True,
        schedule=schedule,
        status="ACTIVE",
        needs_reinit=False,
        is_populated=True,
        fresh_at=ago(age_s),
        refreshed_at=ago(age_s - 0.1),
        updated_at=ago(3_600),
        failures=0,
        reason=None,
        reads=frozenset(reads),
    )


def seen(*entries: Entry) -> Look:
    return Look(NOW, {one.pgt_id: one for one in entries})


def planned(*entries: Entry, memories: dict[int, Memory] | None = None) -> Plan:
    return plan(seen(*entries), memories or {}, 100.0, errors_until_error=3)


def begins(*entries: Entry, running: tuple[int, ...] = ()) -> list[int]:
    return [due.entry.pgt_id for due in ready(planned(*entries), seen(*entries), running)]


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("30s", Every(30)),
        ("1h30m", Every(5_400)),
        ("90", Every(90)),
        ("1w", Every(604_800)),
        (" After ", After()),
        ("@hourly", Cron("0 * * * *")),
        ("*/5 * * * *", Cron("*/5 * * * *")),
    ],
)
def test_schedule_is_read(text: str, schedule: object) -> None:
    assert read_schedule(text) == schedule


@pytest.mark.parametrize("text", ["", "soon", "0s", "-5m", "1 h", "61 * * * *", "0 0 30 2 *", "@sometimes", "9" * 30])
def test_schedule_that_cannot_be_read_is_named_with_the_command_that_mends_it(text: str) -> None:
    with pytest.raises(BadInputError) as raised:
        read_schedule(text)
    assert repr(text) in raised.value.message
    assert "harness st alter" in raised.value.hint


@pytest.mark.parametrize("text", ["after", "@daily", "15 3 * * mon"])
def test_schedules_that_are_no_spans_can_be_asked_for(text: str) -> None:
    assert check_words(text, "AUTO", "auto")[0] == text


def test_cron_is_due_at_its_moment_in_utc_whatever_the_zone_of_the_server() -> None:
    zone = datetime(2026, 11, 21, 14, 59, 30, tzinfo=UTC).astimezone().tzinfo
    fresh_at = datetime(2026, 11, 21, 14, 59, 30, tzinfo=UTC).astimezone(zone)
    assert due_at(Cron("0 15 * * *"), fresh_at) == datetime(2026, 11, 21, 15, 0, tzinfo=UTC)


def test_due_are_those_that_are_old_enough_the_oldest_first() -> None:
    made = planned(entry(1, "10s", age_s=12), entry(2, "10s", age_s=9), entry(3, "10s", age_s=60), entry(4, None))
    assert [due.entry.pgt_id for due in made.due] == [3, 1]
    assert made.next_at == NOW + timedelta(seconds=1)


def test_cron_that_was_missed_many_times_is_due_once() -> None:
    assert begins(entry(1, "* * * * *", age_s=7_200)) == [1]
    assert begins(entry(1, "* * * * *", age_s=20)) == []


def test_pause_after_a_failure_is_kept() -> None:
    assert planned(entry(1), memories={1: Memory(1, not_before=101.0)}).due == []
    assert len(planned(entry(1), memories={1: Memory(1, not_before=99.0)}).due) == 1


def test_status_decides_who_is_refreshed() -> None:
    base = entry(1)
    assert begins(replace(base, status="SUSPENDED")) == []
    assert begins(replace(base, status="ERROR", failures=3)) == []
    assert begins(replace(base, status="ERROR", needs_reinit=True)) == [1], "a change of a source put it there"
    assert begins(replace(base, status="ERROR", needs_reinit=True, failures=3)) == []
    assert begins(replace(base, fresh_at=ago(1), needs_reinit=True)) == [1]
    fresh = replace(base, status="INITIALIZING", is_populated=False, fresh_at=None)
    assert begins(replace(fresh, updated_at=ago(5))) == [], "who made it fills it"
    assert begins(replace(fresh, updated_at=ago(300))) == [1], "unless they died"


def test_what_is_read_goes_first_and_nothing_runs_beside_it() -> None:
    chain = (entry(1), entry(2, reads=(1,)), entry(3, reads=(2,)), entry(4))
    assert begins(*chain) == [1, 4]
    assert begins(*chain, running=(1,)) == [4]
    assert begins(entry(1, age_s=5), *chain[1:]) == [2, 4]
    # The reader of a reader is not begun beside what is at the bottom, either.
    assert begins(entry(1), entry(2, age_s=5, reads=(1,)), entry(3, reads=(2,)), running=(1,)) == []
    assert begins(entry(1), entry(2, reads=(1,)), running=(2,)) == [], "its reader is being refreshed"


def test_reader_of_a_source_that_is_always_due_is_not_left_behind() -> None:
    source, reader = entry(1, "1s", age_s=4), entry(2, "10s", age_s=15, reads=(1,))
    assert begins(source, reader) == [2], "the source was refreshed since the reader is due"


def test_after_follows_each_refresh_of_what_it_reads_once() -> None:
    source, reader = entry(1, None, age_s=5), entry(2, "after", age_s=20, reads=(1,))
    (due,) = planned(source, reader).due
    assert due.entry.pgt_id == 2
    assert planned(source, reader, memories={2: Memory(followed=due.follows)}).due == []
    assert planned(source, entry(2, "after", age_s=1, reads=(1,))).due == []


def test_after_that_reads_no_stream_table_is_refused_by_name() -> None:
    made = planned(entry(1, "after"))
    assert made.due == []
    assert "public.t1" in made.refused[1][0]
    assert "harness st alter public.t1 --schedule" in made.refused[1][1]


def test_unreadable_schedule_stops_its_own_table_alone() -> None:
    made = planned(entry(1, "soon"), entry(2))
    assert [due.entry.pgt_id for due in made.due] == [2]
    assert "'soon'" in made.refused[1][0]
    assert "harness st alter" in made.refused[1][1]


def test_stream_table_without_a_table_is_refused_by_name() -> None:
    made = planned(replace(entry(1), has_table=False), entry(2))
    assert [due.entry.pgt_id for due in made.due] == [2]
    assert "public.t1 has no table" in made.refused[1][0]


def test_circles_are_found_and_named_and_the_others_go_on() -> None:
    three = (entry(1, reads=(3,)), entry(2, reads=(1,)), entry(3, reads=(2,)))
    entries = (*three, entry(4), entry(5, reads=(6,)), entry(6, reads=(5,)))
    known = seen(*entries).entries
    cycles = find_cycles(known)
    assert sorted(sorted(cycle) for cycle in cycles) == [[1, 2, 3], [5, 6]]
    message, hint = describe_cycle(known, cycles[0])
    assert "public.t" in message
    assert message.count("->") >= 2
    assert "harness st drop" in hint
    assert begins(*entries) == [4]
    assert find_cycles(seen(entry(1), entry(2, reads=(1,))).entries) == []
