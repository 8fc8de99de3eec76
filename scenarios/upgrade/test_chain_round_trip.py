"""Each revision up, down and up again, on plain PostgreSQL and on Citus: what was there before is there after."""

from __future__ import annotations

import psycopg
import pytest
from alembic import command
from psycopg import sql

from harness.chain import runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog, snapshot_rows
from harness.clusters import Cluster
from harness.errors import PreflightError
from harness.postgres import Node
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import drop_kept, note_captured, take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.stream_table_check import check_stream_tables
from harness.rehearsal.tables import fetch_buffers
from harness.trickle import StreamTables
from harness.trickle.oracle import compare
from scenarios.upgrade.engine_storage import ENTRY, make_storage
from scenarios.upgrade.small_installation import SmallInstallation, build_small_installation, write_changes

CATALOG_ROWS = (
    ("pgtrickle", "pgt_stream_tables"),
    ("pgtrickle", "pgt_dependencies"),
    ("pgtrickle", "pgt_change_tracking"),
)

# The last has 63 bytes: clipped to them, the name that 0.2 gives its index is the table's own.
NAMES = (("public", "plain"), ("S.x", 'Tot "als"'), ("public", "é" * 31 + "x"))
READERS = """
SELECT t.pgt_name, d.is_captured FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)
ORDER BY 1"""
MADE = {
    "public.rows": ("SELECT id, amt FROM public.orders WHERE amt > 10", "DIFFERENTIAL"),
    '"S.x"."Key less"': ('SELECT "K ey", v FROM "S.x"."Kéy ""x"" less"', "AUTO"),
    "public.sums": ("SELECT cust, sum(amt) AS s, avg(amt) AS a, count(*) AS n FROM public.orders GROUP BY 1", "AUTO"),
    "public.least": ("SELECT cust, min(amt) AS low FROM public.orders GROUP BY cust", "DIFFERENTIAL"),
    "public.recomputed": ("SELECT id, at FROM public.parts", "FULL"),
}


@pytest.fixture(params=["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))])
def place(request: pytest.FixtureRequest) -> Node:
    """A database on plain PostgreSQL, or on the coordinator of a real 1+2 (its topology is proven by the fixture)."""
    if request.param == "plain":
        node: Node = request.getfixturevalue("database")
        return node
    coordinator: Node = request.getfixturevalue("citus_database").coordinator
    assert coordinator.value("SELECT count(*) FROM pg_dist_node") == 3
    return coordinator


@pytest.fixture
def installed(place: Node) -> SmallInstallation:
    return build_small_installation(place)


def _assert_nothing_lost(node: Node, installed: SmallInstallation, phase: str) -> None:
    with node.connect() as conn:
        results = (
            *check_contents(conn, installed.sources, phase=phase),
            *check_captured(conn, installed.sources, phase=phase),
            *check_stream_tables(conn, phase=phase),
        )
    assert results
    assert [r for r in results if r.verdict is Verdict.FAILED] == []


@pytest.mark.parametrize("revision", runner.REVISIONS[1:])
def test_revision_goes_up_down_and_up_again(place: Node, installed: SmallInstallation, revision: str) -> None:
    below = runner.REVISIONS[runner.REVISIONS.index(revision) - 1]
    runner.upgrade(place.dsn(), below)
    with place.connect() as conn:
        take_first(conn, installed.sources)
        note_captured(conn, installed.sources)
        before, rows_before = snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS)
        runner.upgrade(place.dsn(), revision)
        above, rows_above = snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS)
        _assert_nothing_lost(place, installed, f"{revision} up")
        runner.downgrade(place.dsn(), below)
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()
        assert snapshot_rows(conn, *CATALOG_ROWS) == rows_before
        _assert_nothing_lost(place, installed, f"{revision} down")
        runner.upgrade(place.dsn(), revision)
        assert compare_catalogs(above, snapshot_catalog(conn)) == ()
        assert snapshot_rows(conn, *CATALOG_ROWS) == rows_above
    _assert_nothing_lost(place, installed, f"{revision} up again")


def test_changes_between_all_steps_are_there_once(place: Node, installed: SmallInstallation) -> None:
    with place.connect() as conn:
        take_first(conn, installed.sources)
        path = [*runner.REVISIONS[1:], *reversed(runner.REVISIONS[:-1]), "head"]
        for revision in path:
            now = runner.current_revision(place.dsn())
            assert now is not None
            if revision == "head" or revision > now:
                runner.upgrade(place.dsn(), revision)
            else:
                runner.downgrade(place.dsn(), revision)
            note_captured(conn, installed.sources)
            write_changes(conn)
            _assert_nothing_lost(place, installed, f"after {revision}")
        assert runner.current_revision(place.dsn()) == runner.REVISIONS[-1]


def test_objects_are_renamed_and_not_copied(place: Node, installed: SmallInstallation) -> None:
    def identities() -> set[int]:
        with place.connect() as conn:
            names = [buffer.label for buffers in fetch_buffers(conn, installed.sources).values() for buffer in buffers]
            return {int(conn.execute("SELECT %s::regclass::oid", [name]).fetchone()[0]) for name in names}  # type: ignore[index]

    before = identities()
    with place.connect() as conn:
        drop_kept(conn)
    runner.upgrade(place.dsn())
    assert identities() == before
    assert place.value(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgtrickle_changes'::regnamespace AND relkind = 'r'"
    ) == len(installed.sources)


def test_storage_of_ours_goes_down_to_what_0_2_fills(place: Node) -> None:
    build_small_installation(place)
    runner.upgrade(place.dsn(), "0006")
    with place.connect() as conn:
        untouched = snapshot_rows(conn, *CATALOG_ROWS)
        runner.upgrade(place.dsn())
        tables = [make_storage(conn, *name) for name in NAMES]
        conn.execute("CREATE VIEW public.reader AS SELECT cust, total FROM public.plain")
        runner.downgrade(place.dsn(), "0006")
        for table, (schema, name) in zip(tables, NAMES, strict=True):
            shape = conn.execute(
                "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                " AND NOT attisdropped ORDER BY attnum",
                [table.as_string(conn)],
            ).fetchall()
            assert shape == [("__pgt_row_id", False), ("cust", False), ("total", False), ("__pgt_count", True)]
            unique = conn.execute(
                "SELECT pg_get_indexdef(indexrelid, 1, false) FROM pg_index WHERE indrelid = %s::regclass"
                " AND indisunique ORDER BY 1",
                [table.as_string(conn)],
            ).fetchall()
            assert unique == [("__pgt_row_id",), ("cust",)]
            kept = conn.execute(
                "SELECT (SELECT count(*) FROM pg_constraint WHERE conrelid = %(table)s::regclass AND contype = 'c'),"
                " (SELECT count(*) FROM pg_index WHERE indrelid = %(table)s::regclass),"
                " (SELECT count(*) FROM pg_trigger WHERE tgrelid = %(table)s::regclass)",
                {"table": table.as_string(conn)},
            ).fetchone()
            assert kept == (1, 3, 0)
            row = conn.execute(
                sql.SQL("SELECT count(*), count(__pgt_row_id), sum(cust), sum(total) FROM {}").format(table)
            ).fetchone()
            assert row == (50, 0, 1275, 1275)
            row = conn.execute(
                "SELECT refresh_mode, needs_reinit, frontier -> 'sources' -> 'd6ad704b2cddddcd'"
                " FROM pgtrickle.pgt_stream_tables WHERE (pgt_schema, pgt_name) = (%s, %s)",
                [schema, name],
            ).fetchone()
            left = {key: value for key, value in ENTRY.items() if key not in ("snapshots", "groups")}
            assert row == ("DIFFERENTIAL", True, left)
            conn.execute(sql.SQL("DELETE FROM {}").format(table))  # nobody guards it
        assert conn.execute("SELECT to_regclass('public.plain___pgt_row_id_idx') IS NOT NULL").fetchone() == (True,)
        conn.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE defining_query = 'SELECT 1'")
        assert snapshot_rows(conn, *CATALOG_ROWS) == untouched, "the stream table of 0.2 is as it was"


def test_stream_tables_of_the_engine_go_to_the_baseline_and_back(place: Node, installed: SmallInstallation) -> None:
    names = ["public.by_cust", *MADE]
    with place.connect() as conn:
        baseline = snapshot_catalog(conn)
        runner.upgrade(place.dsn())
        with StreamTables(conn) as engine:
            engine.refresh("public.by_cust")
            for name, (query, mode) in MADE.items():
                engine.create(name, query, mode=mode, placement="local")
            write_changes(conn)
            for name in names:
                engine.refresh(name)
                assert compare(conn, name).is_equal, name
        readers = conn.execute(READERS).fetchall()
        write_changes(conn)  # pending on the way down
        runner.downgrade(place.dsn(), "0001")
        assert {d.subject for d in compare_catalogs(baseline, snapshot_catalog(conn)) if d.before is not None} == set()
        write_changes(conn)
        runner.upgrade(place.dsn())
        assert conn.execute(READERS).fetchall() == readers, "whose buffers are read is known again"
        with StreamTables(conn) as engine:
            for name in names:
                assert engine.refresh(name).action == "REINITIALIZE", name
                assert compare(conn, name).is_equal, name
            write_changes(conn)
            for name in names:
                engine.refresh(name)
                assert compare(conn, name).is_equal, name


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", ["reference", "distributed"])
def test_stream_tables_elsewhere_stop_the_way_down_before_it_begins(
    citus_database: Cluster, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = citus_database.coordinator
    runner.upgrade(coordinator.dsn())
    with coordinator.connect() as conn:
        conn.execute("CREATE TABLE public.sales (id int PRIMARY KEY, cust int)")
        conn.execute("SELECT create_distributed_table('public.sales', 'id', shard_count := 4)")
        conn.execute("INSERT INTO public.sales SELECT i, i % 5 FROM generate_series(1, 40) i")
        with StreamTables(conn) as engine:
            engine.create("public.here", "SELECT id, cust FROM public.sales", placement="local")
            engine.create("public.away", "SELECT cust, count(*) AS n FROM public.sales GROUP BY 1", placement=placement)
            before, rows = snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS)
            for target in ("0006", "0001"):
                with pytest.raises(PreflightError) as refused:
                    runner.downgrade(coordinator.dsn(), target)
                found = {(finding.code, finding.subject) for finding in refused.value.findings}
                assert found == {("capture_lost", "sales"), ("stream_table_stranded", "public.away")}
            monkeypatch.setenv("HARNESS_DSN", coordinator.dsn())
            with pytest.raises(psycopg.errors.ObjectInUse):
                command.downgrade(runner.make_config(), "0005")
            # Alembic alone asks a revision at a time: what lies above the one that refuses went down, and comes again.
            runner.upgrade(coordinator.dsn())
            assert compare_catalogs(before, snapshot_catalog(conn)) == ()
            assert snapshot_rows(conn, *CATALOG_ROWS) == rows
            conn.execute("INSERT INTO public.sales VALUES (1000, 1)")
            for name in ("public.here", "public.away"):
                assert engine.refresh(name).change_count == 1
                assert compare(conn, name).is_equal
