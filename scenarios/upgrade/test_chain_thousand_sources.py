"""1,000 sources under writers: every source moves once, and nobody waits long; an open transaction, and a deadline."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import sql

from harness.chain import runner
from harness.chain.runner import ChainEvent, ChainOptions
from harness.errors import CheckFailedError
from harness.postgres import Node
from harness.rehearsal.checks import check_row_counts
from harness.rehearsal.contents import note_captured
from harness.rehearsal.model import Verdict
from harness.rehearsal.tables import SourceTable
from harness.rehearsal.writers import Writers
from scenarios.upgrade.installations import (
    Installed,
    build_installation,
    check_all,
    connector,
    count_moved,
    slowest_ms,
    tell,
    write_to_each,
)

Record = Callable[[str, object], None]
# The revisions that move each source in a transaction of its own.
MOVING = ("0002", "0004", "0006")
HOLDER = "a long report"
# So long a transaction stays open at least.
LEAST_HOLD_S = 6.0


def _moved_once(events: Sequence[ChainEvent], count: int) -> None:
    """Each source was moved exactly once in each of the moving revisions."""
    moved = Counter((event.revision, event.source) for event in events if event.kind == "source_moved")
    assert set(moved.values()) == {1}
    assert Counter(revision for revision, _ in moved) == dict.fromkeys(MOVING, count)


def _assert_counted(node: Node, installed: Installed, writers: Writers) -> None:
    """The writers saw no error, and each source has as many rows as they counted."""
    assert writers.report().errors == ()
    with node.connect() as conn:
        results = check_row_counts(conn, installed.sources, writers.net_rows(), phase="end")
    assert [r for r in results if r.verdict is Verdict.FAILED] == []


@pytest.mark.slow
def test_thousand_sources_under_writers(database: Node, record_property: Record) -> None:
    installed = build_installation(database, sources=1000)
    assert len(installed.sources) == 1000
    began = time.monotonic()

    def now_s() -> float:
        return time.monotonic() - began

    events: list[ChainEvent] = []
    writers = Writers(
        connector(database), installed.sources, threads=4, seed=7, rate_limit=200, now_s=now_s, triggers_stay_home=True
    )
    with writers:
        # Time in which nothing but the writers works: the control.
        threading.Event().wait(12)
        begun_s = now_s()
        runner.upgrade(database.dsn(), on_event=events.append)
        ended_s = now_s()
    _moved_once(events, 1000)
    check_all(database, installed.sources, "head", wrong=installed.wrong)
    _assert_counted(database, installed, writers)
    total_s = ended_s - begun_s
    figures = {
        "upgrade_s": round(total_s, 2),
        "longest_stall_ms": round(slowest_ms(writers, begun_s, ended_s), 1),
        "control_slowest_write_ms": round(slowest_ms(writers, max(0.0, begun_s - total_s), begun_s), 1),
        "longest_source_ms": round(max(e.elapsed_ms or 0 for e in events if e.kind == "source_moved"), 1),
        "lock_retries": sum(event.kind == "waiting" for event in events),
        "writes_during": sum(begun_s <= sample.at_s <= ended_s for sample in writers.samples()),
    }
    for event in events:
        if event.kind == "revision_end":
            figures[f"revision_{event.revision}_s"] = round((event.elapsed_ms or 0) / 1000, 2)
    for name, value in figures.items():
        record_property(name, value)
    tell(f"1,000 sources: {figures}")
    # Generous, for machines that others share; what is usual is printed above.
    assert total_s <= 300
    # A stall is work of the sessions' own, so it grows with how slow the machine is just then: 78 ms where the upgrade
    # took 10 s alone, 2.3 s where it took 23 s beside an image build. Without the chain's pauses: 4.7 s in 7 s.
    assert figures["longest_stall_ms"] <= max(4000, 300 * total_s)


def _hold(node: Node, source: SourceTable, held: threading.Event, leave: threading.Event, hold_s: float) -> float:
    """A transaction that wrote to a source and stays open. Returns when it committed, by the monotonic clock."""
    with node.connect(autocommit=False) as conn:
        conn.execute("SELECT set_config('application_name', %s, false)", [HOLDER])
        conn.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(source.table.identifier))
        held.set()
        leave.wait(hold_s)
        conn.commit()
        return time.monotonic()


@pytest.fixture
def installed(database: Node) -> Installed:
    return build_installation(database)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["public.customers", "demo.readings", "demo.events"])
def test_an_open_transaction_holds_up_its_own_source_only(
    database: Node, installed: Installed, record_property: Record, table: str
) -> None:
    source = next((s for s in installed.sources if s.label == table), None)
    assert source is not None, [s.label for s in installed.sources]
    events: list[tuple[float, ChainEvent]] = []
    held, leave = threading.Event(), threading.Event()

    def hear(event: ChainEvent) -> None:
        events.append((time.monotonic(), event))
        moved = sum(each.kind == "source_moved" and each.revision == "0002" for _, each in events)
        waited_s = time.monotonic() - begun_s
        # Long enough that a chain which queues behind the holder would be seen to stall its writers.
        if moved == len(installed.sources) - 1 and waited_s > LEAST_HOLD_S:
            leave.set()

    writers = Writers(
        connector(database), installed.sources, threads=3, rate_limit=200, now_s=time.monotonic, triggers_stay_home=True
    )
    with writers, ThreadPoolExecutor(1) as pool:
        holder = pool.submit(_hold, database, source, held, leave, 120.0)
        assert held.wait(30)
        begun_s = time.monotonic()
        runner.upgrade(database.dsn(), on_event=hear)
        ended_s = time.monotonic()
        left_s = holder.result()
    heard = [event for _, event in events]
    _moved_once(heard, len(installed.sources))
    waits = [event for event in heard if event.kind == "waiting" and event.source == source.label]
    assert waits
    assert any(HOLDER in str(event.detail["holder"]) and "pid " in str(event.detail["holder"]) for event in waits)
    first = [event.source for event in heard if event.kind == "source_moved" and event.revision == "0002"]
    assert first[-1] == source.label, "all others are moved while it waits"
    others_done_s = [at_s for at_s, e in events if e.kind == "source_moved" and e.revision == "0002"][-2]
    assert others_done_s < left_s
    stall_ms = slowest_ms(writers, begun_s, ended_s)
    check_all(database, installed.sources, "head", wrong=installed.wrong)
    _assert_counted(database, installed, writers)
    after_s = ended_s - left_s
    record_property("longest_stall_ms", round(stall_ms, 1))
    tell(
        f"{source.label} held {left_s - begun_s:.1f} s: slowest write {stall_ms:.0f} ms, {len(waits)} tries,"
        f" others done after {others_done_s - begun_s:.1f} s, head {after_s:.2f} s after the holder left"
    )
    # A write that queued would have waited as long as the holder; a thread may be kept from the processor for a second.
    assert stall_ms < 1000 * LEAST_HOLD_S / 2
    # It tries again every 2.5 s at the latest, and the rest of the chain takes less than a second.
    assert after_s < 60


@pytest.mark.slow
@pytest.mark.parametrize("below", ["0001", "0003", "0005"])
def test_a_deadline_ends_the_wait_and_loses_nothing(database: Node, installed: Installed, below: str) -> None:
    runner.upgrade(database.dsn(), below)
    source = installed.sources[0]
    held, leave = threading.Event(), threading.Event()
    writers = Writers(connector(database), installed.sources, threads=2, rate_limit=100, triggers_stay_home=True)
    with writers, ThreadPoolExecutor(1) as pool:
        holder = pool.submit(_hold, database, source, held, leave, 60.0)
        try:
            assert held.wait(10)
            began_s = time.monotonic()
            with pytest.raises(CheckFailedError) as caught:
                runner.upgrade(database.dsn(), options=ChainOptions(deadline_s=5.0))
            took_s = time.monotonic() - began_s
        finally:
            leave.set()
        holder.result()
    assert source.table.name in caught.value.message
    assert HOLDER in caught.value.message
    assert "run the same command again" in caught.value.hint
    assert took_s < 40
    assert runner.current_revision(database.dsn()) == below
    _assert_counted(database, installed, writers)
    write_to_each(database, installed.sources, seed=5)
    check_all(database, installed.sources, "given up", wrong=installed.wrong)
    with database.connect() as conn:
        note_captured(conn, installed.sources)
    runner.upgrade(database.dsn(), options=ChainOptions(deadline_s=5.0))
    assert count_moved(database) == len(installed.sources)
    write_to_each(database, installed.sources, seed=6)
    check_all(database, installed.sources, "head", wrong=installed.wrong)
    tell(f"gave up above {below} after {took_s:.2f} s: {caught.value.message}")
