"""Each revision up, down and up again, on plain PostgreSQL and on Citus: what was there before is there after."""

from __future__ import annotations

import pytest

from harness.chain import runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog, snapshot_rows
from harness.postgres import Node
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import drop_kept, note_captured, take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.stream_table_check import check_stream_tables
from harness.rehearsal.tables import fetch_buffers
from scenarios.upgrade.small_installation import SmallInstallation, build_small_installation, write_changes

CATALOG_ROWS = (
    ("pgtrickle", "pgt_stream_tables"),
    ("pgtrickle", "pgt_dependencies"),
    ("pgtrickle", "pgt_change_tracking"),
)


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
