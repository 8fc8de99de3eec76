"""A transaction open across the cut: an LSN frontier counts its rows as consumed (peer.md), a horizon does not (F20).

0.2 cuts by LSN: A inserts and stays open, B inserts and commits, a refresh stops at an LSN above both, A commits.
A's row lies below the frontier and was never seen. The chain notices such a row where A is still open when it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.chain.runner import ChainEvent
from harness.postgres import Node
from harness.rehearsal.baseline_objects import create_stream_table, install_source, refresh_full
from harness.rehearsal.model import Verdict
from harness.rehearsal.stream_table_check import check_stream_tables
from scenarios.upgrade.small_installation import ORDERS, by_cust

Connection = psycopg.Connection[TupleRow]
STABLE = "d6ad704b2cddddcd"
# By the old rule and by the new one: which orders are still to be applied?
BY_LSN = """
SELECT coalesce(new_id, old_id) FROM pgtrickle_changes.changes_d6ad704b2cddddcd, pgtrickle.pgt_stream_tables t
WHERE lsn > (t.frontier -> 'sources' -> %s ->> 'lsn')::pg_lsn ORDER BY 1"""
BY_RULE = """
SELECT coalesce(new_id, old_id) FROM pgtrickle_changes.changes_d6ad704b2cddddcd, pgtrickle.pgt_stream_tables t
WHERE pgtrickle.is_pending(t.frontier -> 'sources' -> %s, lsn, xid) ORDER BY 1"""


@pytest.fixture
def installed(database: Node) -> Iterator[Connection]:
    """Order 1 is consumed by a refresh, A holds order 2 open across it, order 3 comes after. Yields A's connection."""
    runner.upgrade(database.dsn(), "0001")
    with database.connect() as conn, database.connect(autocommit=False) as a:
        conn.execute("CREATE TABLE public.orders (id int PRIMARY KEY, cust int, amt numeric)")
        install_source(conn, ORDERS)
        stream_table = create_stream_table(conn, by_cust())
        # In a subtransaction, whose own transaction id no snapshot lists.
        a.execute("BEGIN; SAVEPOINT s; INSERT INTO public.orders VALUES (2, 2, 2)")
        conn.execute("INSERT INTO public.orders VALUES (1, 1, 1)")
        refresh_full(conn, stream_table)
        conn.execute("INSERT INTO public.orders VALUES (3, 3, 3)")
        yield a
        a.rollback()


def _ids(node: Node, query: str) -> list[int]:
    return [row[0] for row in node.rows(query, [STABLE])]


def _upgrade_while_open(node: Node, a: Connection) -> list[ChainEvent]:
    """Run the chain; A commits once the chain says that it waits for A."""
    events: list[ChainEvent] = []
    waits = threading.Event()

    def listen(event: ChainEvent) -> None:
        events.append(event)
        if event.kind == "waiting":
            waits.set()

    chain = threading.Thread(target=runner.upgrade, args=(node.dsn(),), kwargs={"on_event": listen})
    chain.start()
    assert waits.wait(20), "the chain did not wait for the open transaction"
    a.commit()
    chain.join(30)
    assert not chain.is_alive()
    return events


def test_rows_open_across_the_cut_are_kept_where_the_lsn_loses_them(database: Node, installed: Connection) -> None:
    events = _upgrade_while_open(database, installed)
    assert runner.current_revision(database.dsn()) == runner.REVISIONS[-1]
    assert _ids(database, BY_LSN) == [3], "the counter-example: by LSN the row of A is lost"
    assert _ids(database, BY_RULE) == [2, 3]
    waits = [event for event in events if event.kind == "waiting"]
    assert f"pid {installed.info.backend_pid}" in str(waits[0].detail["holder"])
    saved = [event.detail.get("rows_saved_from_the_cut") for event in events if event.revision == "0004"]
    assert 1 in saved


def test_the_stream_table_check_goes_by_the_new_rule(database: Node, installed: Connection) -> None:
    """As of its frontier the stream table is right: by LSN, the row of A would seem to be missing from it."""
    _upgrade_while_open(database, installed)
    with database.connect() as conn:
        (result,) = check_stream_tables(conn, phase="up", wrong_before=frozenset())
        assert result.verdict is Verdict.PASSED, result.detail
        conn.execute("UPDATE public.by_cust SET total = total + 1")
        (result,) = check_stream_tables(conn, phase="up", wrong_before=frozenset())
        assert result.verdict is Verdict.FAILED


def test_consumed_rows_are_not_taken_again(database: Node, installed: Connection) -> None:
    installed.rollback()
    runner.upgrade(database.dsn())
    assert _ids(database, BY_RULE) == _ids(database, BY_LSN) == [3]


def test_the_way_down_marks_what_an_lsn_cannot_say(database: Node, installed: Connection) -> None:
    _upgrade_while_open(database, installed)
    events: list[ChainEvent] = []
    runner.downgrade(database.dsn(), "0001", on_event=events.append)
    assert database.value("SELECT needs_reinit FROM pgtrickle.pgt_stream_tables") is True
    assert [event.detail["stream_table"] for event in events if event.kind == "reinit"] == ["public.by_cust"]


def test_the_way_down_keeps_pending_rows_pending(database: Node, installed: Connection) -> None:
    installed.rollback()
    runner.upgrade(database.dsn())
    database.sql("INSERT INTO public.orders VALUES (4, 4, 4)")
    runner.downgrade(database.dsn(), "0002")
    assert database.value("SELECT needs_reinit FROM pgtrickle.pgt_stream_tables") is False
    assert _ids(database, BY_LSN) == [3, 4]


def test_a_horizon_goes_down_as_an_lsn_where_one_parts_the_rows(database: Node, installed: Connection) -> None:
    """A refresh of the new engine stopped at a horizon; rows behind it are pending, rows before it are consumed."""
    installed.rollback()
    runner.upgrade(database.dsn())
    database.sql("INSERT INTO public.orders VALUES (4, 4, 4)")
    database.sql(
        "UPDATE pgtrickle.pgt_stream_tables SET frontier = jsonb_set(frontier, '{sources,d6ad704b2cddddcd,horizons}',"
        " jsonb_build_object('0', pg_snapshot_xmin(pg_current_snapshot())::text))"
    )
    database.sql("INSERT INTO public.orders VALUES (5, 5, 5)")
    assert _ids(database, BY_RULE) == [5]
    runner.downgrade(database.dsn(), "0003")
    assert _ids(database, BY_LSN) == [5]
    assert database.value("SELECT needs_reinit FROM pgtrickle.pgt_stream_tables") is False
    assert (
        database.value("SELECT frontier #> '{sources,d6ad704b2cddddcd,horizons}' FROM pgtrickle.pgt_stream_tables")
        is None
    )


def test_rule_knows_the_horizon_of_each_node(database: Node) -> None:
    runner.upgrade(database.dsn())
    entry = '{"lsn": "0/10", "horizons": {"0": "100", "2": "5"}}'
    rule = "SELECT pgtrickle.is_pending(%s::jsonb, %s::pg_lsn, %s::xid8, %s)"
    asked = [("0/5", "99", 0), ("0/5", "100", 0), ("0/5", "5", 2), (None, "4", 2), ("0/99", None, 0), (None, "1", 1)]
    assert [database.value(rule, [entry, *one]) for one in asked] == [False, True, True, False, False, True]
    assert database.value(rule, [None, "0/1", "1", 0]) is True
