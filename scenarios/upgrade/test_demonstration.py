"""The demonstration, built small on a real server; writers on it; and its checks, each seen to fail where it must."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.errors import BadInputError
from harness.postgres import Node
from harness.rehearsal.checks import check_captured, check_contents, check_row_counts
from harness.rehearsal.contents import drop_kept, note_captured, take_first
from harness.rehearsal.demonstration import Demonstration, build_demonstration
from harness.rehearsal.model import CheckResult, Verdict
from harness.rehearsal.stream_table_check import check_stream_tables, wrong_stream_tables
from harness.rehearsal.tables import SourceTable, TableName, fetch_buffers, fetch_sources, fetch_table
from harness.rehearsal.writers import Writers
from harness.waiting import wait_until
from scenarios.fixtures.servers import MakeServer

Connection = psycopg.Connection[TupleRow]


@pytest.fixture
def baseline(database: Node) -> Node:
    """An empty catalog of 0.2.0."""
    runner.upgrade(database.dsn(), "0001")
    return database


@pytest.fixture
def demo(baseline: Node) -> Demonstration:
    """The demonstration with few rows."""
    with baseline.connect() as conn:
        return build_demonstration(conn, rows=5_000, seed=11)


def _failed(results: tuple[CheckResult, ...]) -> dict[str, str]:
    return {result.subject: result.detail for result in results if result.verdict is Verdict.FAILED}


def _buffer(conn: Connection, source: SourceTable) -> sql.Identifier:
    return fetch_buffers(conn, [source])[source.relid][0].identifier


def test_demonstration_has_what_it_says(demo: Demonstration, baseline: Node) -> None:
    assert len(demo.sources) == 24
    assert len(demo.stream_tables) >= 12
    with baseline.connect() as conn:
        assert {source.table for source in fetch_sources(conn)} == set(demo.sources)
        for source in fetch_sources(conn):
            pending = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(_buffer(conn, source))).fetchone()
            assert pending is not None
            assert pending[0] > 0, f"{source.label} has no change in its buffer"


def test_demonstration_key_hashes_are_0_2_s_own(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        buffer = _buffer(conn, fetch_table(conn, TableName("demo", "order_lines")))
        row = conn.execute(
            sql.SQL(
                "SELECT bool_and(pk_hash = pgtrickle.pg_trickle_hash_multi(ARRAY["
                "coalesce(new_order_id, old_order_id)::text, coalesce(new_line_no, old_line_no)::text])) FROM {}"
            ).format(buffer)
        ).fetchone()
    assert row == (True,)


def test_demonstration_same_seed_gives_the_same_rows(make_two: Callable[[], tuple[Node, Node]]) -> None:
    contents = []
    for node in make_two():
        with node.connect() as conn:
            build_demonstration(conn, sources=7, rows=2_000, seed=3)
            contents.append(
                conn.execute("SELECT md5(string_agg(o::text, ',' ORDER BY o::text)) FROM demo.order_lines o").fetchone()
            )
    assert contents[0] == contents[1]


@pytest.fixture
def make_two(database: Node, make_server: MakeServer) -> Callable[[], tuple[Node, Node]]:
    def make() -> tuple[Node, Node]:
        other = make_server(name="other")
        nodes = (database, other)
        for node in nodes:
            runner.upgrade(node.dsn(), "0001")
        return nodes

    return make


def test_demonstration_scales_to_more_sources(baseline: Node) -> None:
    with baseline.connect() as conn:
        made = build_demonstration(conn, sources=60, rows=1_000, seed=1)
        assert len(made.sources) == len(fetch_sources(conn)) == 60


@pytest.mark.parametrize(("sources", "rows"), [(0, 1000), (24, 5)])
def test_demonstration_senseless_size_is_refused(baseline: Node, sources: int, rows: int) -> None:
    with baseline.connect() as conn, pytest.raises(BadInputError):
        build_demonstration(conn, sources=sources, rows=rows, seed=1)


def test_checks_untouched_demonstration_passes_twice_and_wrong_before_is_told(
    demo: Demonstration, baseline: Node
) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        first = check_stream_tables(conn, phase="copy")
        wrong = wrong_stream_tables(first)
        for _ in range(2):
            assert not _failed(check_contents(conn, sources, phase="up"))
            assert not _failed(check_captured(conn, sources, phase="up"))
            again = check_stream_tables(conn, phase="up", wrong_before=wrong)
            assert [(r.subject, r.verdict) for r in again] == [(r.subject, r.verdict) for r in first]
        drop_kept(conn)
    assert wrong == {"demo.wrong_before"}
    skipped = {r.subject for r in first if r.verdict is Verdict.SKIPPED}
    assert skipped == {"demo.never_refreshed", "demo.staged", "demo.to_be_rebuilt"}
    assert len(demo.stream_tables) == len(first)


def _writer_count(writers: Writers) -> int:
    return len({sample.writer for sample in writers.samples()})


def test_writers_leave_a_database_that_passes_every_check(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        wrong = wrong_stream_tables(check_stream_tables(conn, phase="copy"))
        writers = Writers(baseline.connect, sources, seed=5, rate_limit=None, triggers_stay_home=True)
        with writers:
            take_first(conn, sources)  # while they write
            wait_until("500 commits", lambda: writers.report().commits >= 500, deadline_s=60)
            wait_until("all to have written", lambda: _writer_count(writers) == 4, deadline_s=60)
        report = writers.report()
        assert not report.errors
        # the first of each of the four is counted and not timed
        assert len(writers.samples()) == report.commits - 4
        assert {sample.source for sample in writers.samples()} == {source.label for source in sources}
        assert not _failed(check_contents(conn, sources, phase="up"))
        assert not _failed(check_captured(conn, sources, phase="up"))
        assert not _failed(check_stream_tables(conn, phase="up", wrong_before=wrong))
    assert len(demo.sources) == len(sources)


def test_writers_own_count_agrees_with_the_tables(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        with Writers(baseline.connect, sources, seed=6, rate_limit=None, triggers_stay_home=True) as writers:
            wait_until("300 commits", lambda: writers.report().commits >= 300, deadline_s=60)
        counted = writers.net_rows()
        assert set(counted) == {table.label for table in demo.sources}
        assert not _failed(check_row_counts(conn, sources, counted, phase="up"))
        short = {label: (low + 1, high + 1) for label, (low, high) in counted.items()}
        assert len(_failed(check_row_counts(conn, sources, short, phase="up"))) == len(sources)
        strangers = Writers(baseline.connect, sources, rate_limit=None)
        with strangers:
            pass
        assert not strangers.net_rows(), "a table has triggers of its own, so nothing can be counted"


def test_writers_survive_a_crash_and_lose_no_count(make_server: MakeServer) -> None:
    server = make_server(name="crashing")
    runner.upgrade(server.dsn(), "0001")
    with server.connect() as conn:
        build_demonstration(conn, rows=2_000, seed=2)
        sources = fetch_sources(conn)
        take_first(conn, sources)
    writers = Writers(server.connect, sources, seed=1, rate_limit=None, triggers_stay_home=True)
    with writers:
        wait_until("200 commits", lambda: writers.report().commits >= 200, deadline_s=60)
        wait_until("all to have written", lambda: _writer_count(writers) == 4, deadline_s=60)
        server.kill()
        server.start()
        before = writers.report().commits
        wait_until("commits after the crash", lambda: writers.report().commits >= before + 100, deadline_s=60)
        wait_until("all writers back", lambda: len(writers.report().outages) >= 4, deadline_s=60)
    report = writers.report()
    assert not report.errors
    with server.connect() as conn:
        assert not _failed(check_contents(conn, sources, phase="up"))
        assert not _failed(check_row_counts(conn, sources, writers.net_rows(), phase="up"))


def test_writers_error_in_a_capture_function_is_collected(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        source = fetch_table(conn, TableName("public", "customers"))
        conn.execute(sql.SQL("ALTER TABLE {} RENAME TO gone").format(_buffer(conn, source)))
        with Writers(baseline.connect, [source], seed=1, rate_limit=None) as writers:
            wait_until("an error", lambda: writers.report().errors, deadline_s=30)
    error = writers.report().errors[0]
    assert (error.source, error.sqlstate) == ("public.customers", "42P01")
    assert "pg_trickle_cdc_fn_" in error.context
    assert source.table in demo.sources


def test_check_captured_lost_changed_and_doubled_rows_are_found(demo: Demonstration, baseline: Node) -> None:
    names = ("moods", "measures", "log_lines", "arrays")
    lost, changed, doubled, rehashed = (TableName("demo", name) for name in names)
    assert {lost, changed, doubled, rehashed} <= set(demo.sources)
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        conn.execute("INSERT INTO demo.moods VALUES ('late@example.org', 'fine', 1)")
        assert note_captured(conn, sources) == 1
        buffers = {source.table: _buffer(conn, source) for source in sources}
        conn.execute(
            sql.SQL("DELETE FROM {0} WHERE change_id = (SELECT max(change_id) FROM {0})").format(buffers[lost])
        )
        conn.execute(sql.SQL("UPDATE {} SET new_exact = 1.0 WHERE new_exact = 1").format(buffers[changed]))
        conn.execute(sql.SQL("UPDATE {} SET new_exact = 7 WHERE action = 'I'").format(buffers[changed]))
        conn.execute(sql.SQL("UPDATE {} SET pk_hash = pk_hash + 1 WHERE action = 'D'").format(buffers[rehashed]))
        conn.execute(sql.SQL("INSERT INTO {0} SELECT * FROM {0} ORDER BY change_id LIMIT 1").format(buffers[doubled]))
        failed = _failed(check_captured(conn, sources, phase="up"))
    assert set(failed) == {lost.label, changed.label, doubled.label, rehashed.label}
    assert "1 captured row lost" in failed[lost.label]
    assert "changed" in failed[changed.label]
    assert "1 captured row there twice" in failed[doubled.label]


BEHIND_CAPTURE = {
    "public.customers": "UPDATE public.customers SET name = 'changed behind' WHERE id = 1",
    "demo.readings": "DELETE FROM demo.readings WHERE ctid = (SELECT min(ctid) FROM demo.readings_old)",
    "demo.nulls": "INSERT INTO demo.nulls VALUES (NULL, NULL, NULL)",
    "demo.measures": "UPDATE demo.measures SET exact = 5.0 WHERE exact = 5",
    "demo.documents": "UPDATE demo.documents SET at = point(at[0], at[1] + 1) WHERE id = 2",
}


def test_check_contents_change_behind_capture_is_found(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        conn.execute("UPDATE demo.measures SET exact = 5 WHERE id = (SELECT max(id) FROM demo.measures)")
        take_first(conn, sources)
        with conn.transaction():
            conn.execute("SET LOCAL session_replication_role = replica")
            for statement in BEHIND_CAPTURE.values():
                conn.execute(statement)
        failed = _failed(check_contents(conn, sources, phase="up"))
    assert set(failed) == set(BEHIND_CAPTURE)
    assert "1 rows in the table that nothing accounts for" in failed["demo.nulls"]
    assert len(demo.sources) == len(sources)


def test_check_contents_lost_captured_row_and_lost_buffer_are_found(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        conn.execute("INSERT INTO demo.staging VALUES (4, 'four')")
        buffers = {source.table.name: _buffer(conn, source) for source in sources}
        conn.execute(sql.SQL("DELETE FROM {} WHERE new_item = 'four'").format(buffers["staging"]))
        conn.execute(sql.SQL("DROP TABLE {}").format(buffers["texts"]))
        failed = _failed(check_contents(conn, sources, phase="up"))
    assert set(failed) == {"demo.staging", "demo.texts"}
    assert failed["demo.texts"] == "it has no change buffer"
    assert len(demo.sources) == len(sources)


def test_check_contents_truncate_drops_what_was_before(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        conn.execute("INSERT INTO demo.readings VALUES (1, '2030-01-01', 1)")
        conn.execute("TRUNCATE demo.readings")
        conn.execute("INSERT INTO demo.readings VALUES (2, '2030-01-02', 2), (3, '2020-01-02', 'NaN')")
        assert not _failed(check_contents(conn, sources, phase="up"))
    assert len(demo.sources) == len(sources)


def test_check_stream_tables_what_went_wrong_is_told_from_what_was_wrong(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        wrong = wrong_stream_tables(check_stream_tables(conn, phase="copy"))
        conn.execute("UPDATE demo.log_levels SET lines = lines + 1 WHERE level IS NULL AND code IS NULL")
        # a frontier that moved on its own: the rows between are taken for consumed
        conn.execute(
            "UPDATE pgtrickle.pgt_stream_tables"
            """ SET frontier = replace(frontier::text, '"lsn": "', '"lsn": "F')::jsonb"""
            " WHERE pgt_name = 'readings_by_day'"
        )
        # a frontier that lost a source
        conn.execute(
            "UPDATE pgtrickle.pgt_stream_tables SET frontier = jsonb_set(frontier, '{sources}', '{}')"
            " WHERE pgt_name = 'measures_kept'"
        )
        results = check_stream_tables(conn, phase="up", wrong_before=wrong)
        failed = _failed(results)
    assert set(failed) == {"demo.log_levels", "demo.readings_by_day", "demo.measures_kept"}
    assert "no entries for demo.measures" in failed["demo.measures_kept"]
    assert [r.subject for r in results if r.was_wrong_before] == ["demo.wrong_before"]
    assert len(results) == len(demo.stream_tables)


def test_check_stream_tables_leaves_sources_as_they_were(demo: Demonstration, baseline: Node) -> None:
    with baseline.connect() as conn:
        sources = fetch_sources(conn)
        take_first(conn, sources)
        assert any(result.verdict is Verdict.PASSED for result in check_stream_tables(conn, phase="copy"))
        assert not _failed(check_contents(conn, sources, phase="copy"))
        assert not _failed(check_captured(conn, sources, phase="copy"))
    assert len(demo.sources) == len(sources)
