"""Between two revisions: the session of the one before is still there, or somebody has refreshed a stream table."""

from __future__ import annotations

import threading

import pytest
from psycopg import sql

from harness.chain import runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.chain.status import fetch_status
from harness.errors import CheckFailedError, RefusedError
from harness.postgres import Node
from scenarios.upgrade.small_installation import ORDERS, build_small_installation, write_changes

# As in migrations/env.py, which only Alembic can import.
CHAIN_LOCK = 0x517CC1B7


def test_waits_for_a_session_that_is_about_to_end_and_no_longer(database: Node) -> None:
    """A closed or killed client's session may hold the chain's lock for a moment; another chain is refused."""
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [CHAIN_LOCK])
        timer = threading.Timer(0.5, other.close)
        timer.start()
        runner.upgrade(database.dsn(), "0002")
        timer.join()
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [CHAIN_LOCK])
        with pytest.raises(RefusedError, match="another migration chain"):
            runner.upgrade(database.dsn())


def test_what_was_refreshed_between_two_revisions_stays_consumed(database: Node) -> None:
    """Rows that came after 0002 began and were applied before 0004 are no rows of a transaction open across the cut."""
    build_small_installation(database)
    runner.upgrade(database.dsn(), "0002")
    with database.connect() as conn:
        write_changes(conn)
    with database.connect() as conn, conn.transaction():
        conn.execute("DELETE FROM public.by_cust")
        conn.execute(
            "INSERT INTO public.by_cust SELECT pgtrickle.pg_trickle_hash(q.cust::text), q.* FROM"
            " (SELECT cust, sum(amt) AS total, count(*) AS __pgt_count FROM public.orders GROUP BY cust) q"
        )
        conn.execute(
            "UPDATE pgtrickle.pgt_stream_tables SET frontier = jsonb_set(frontier, ARRAY['sources', %s, 'lsn'],"
            " to_jsonb(pg_current_wal_insert_lsn()::text))",
            [ORDERS.stable_name],
        )
    runner.upgrade(database.dsn())
    pending = sql.SQL(
        "SELECT count(*) FROM {} b, pgtrickle.pgt_stream_tables t"
        " WHERE pgtrickle.is_pending(t.frontier -> 'sources' -> {}, b.lsn, b.xid)"
    ).format(sql.Identifier("pgtrickle_changes", f"changes_{ORDERS.stable_name}"), sql.Literal(ORDERS.stable_name))
    assert database.value(pending) == 0
    assert not database.value("SELECT needs_reinit FROM pgtrickle.pgt_stream_tables")


def test_a_revision_given_up_on_its_way_down_comes_back_to_where_it_was(database: Node) -> None:
    """The version table still says 0004, and half of the buffers are without the column: asking for 0004 mends it."""
    build_small_installation(database)
    runner.upgrade(database.dsn(), "0004")
    with database.connect() as conn:
        before = snapshot_catalog(conn)
    with database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE public.orders IN ROW EXCLUSIVE MODE")
        with pytest.raises(CheckFailedError, match="could not lock"):
            runner.downgrade(database.dsn(), "0003", options=runner.ChainOptions(deadline_s=0.2))
    assert fetch_status(database.dsn()).interrupted == ("0004", "down")
    runner.downgrade(database.dsn(), "0004")
    assert fetch_status(database.dsn()).interrupted is None
    with database.connect() as conn:
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()
