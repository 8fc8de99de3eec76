"""What the scenarios of adopting share: a look at everything, writes, and a whole way up, down and up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from psycopg import sql

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog, snapshot_rows
from harness.errors import PreflightError
from harness.postgres import Node
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import drop_kept, note_captured, take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.tables import SourceTable, fetch_buffers, fetch_sources
from scenarios.fixtures.rehearsals import Connection

CATALOG_ROWS = tuple(
    ("pgtrickle", name)
    for name in ("pgt_stream_tables", "pgt_dependencies", "pgt_refresh_history", "pgt_change_tracking")
)
STORAGE = (("shop", "by_cust"), ("shop", "days"))
KNOWN_HASHES = {"5": 8905914713984357400, "1000": -3423056992172536074}
HASHES = (
    "SELECT array_agg(pgtrickle.pg_trickle_hash(v)), pgtrickle.pg_trickle_hash_multi(ARRAY['b', '2']),"
    " pgtrickle.parse_duration_seconds('1h30m') FROM unnest(ARRAY['5', '1000']) v"
)


@dataclass(frozen=True)
class Everything:
    """What must be the same before and after a refusal: definitions, rows, and whose the objects are."""

    catalog: CatalogSnapshot
    rows: Mapping[str, tuple[str, ...]]
    members: tuple[str, ...]


def look(node: Node) -> Everything:
    with node.connect() as conn:
        buffers = conn.execute(
            "SELECT 'pgtrickle_changes', relname FROM pg_class"
            " WHERE relnamespace = 'pgtrickle_changes'::regnamespace AND relkind = 'r' ORDER BY 2"
        ).fetchall()
        relations = (*CATALOG_ROWS, *STORAGE, *((schema, name) for schema, name in buffers))
        members = conn.execute(
            "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend"
            " WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass"
            " AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_trickle') ORDER BY 1"
        ).fetchall()
        return Everything(snapshot_catalog(conn), snapshot_rows(conn, *relations), tuple(row[0] for row in members))


def sources_of(node: Node) -> tuple[SourceTable, ...]:
    with node.connect() as conn:
        return fetch_sources(conn)


def write(conn: Connection) -> None:
    conn.execute("INSERT INTO shop.orders (cust, amt) VALUES (1, 5), (NULL, 7)")
    conn.execute("UPDATE shop.orders SET amt = amt + 1 WHERE id BETWEEN 40 AND 45")
    conn.execute("DELETE FROM shop.orders WHERE id = 50")
    conn.execute("""INSERT INTO shop."Odd.Näme" VALUES (9, NULL), (9, NULL)""")
    conn.execute("UPDATE shop.parts SET at = '2026-08-02' WHERE id = 3")


def assert_captures(node: Node, conn: Connection, sources: tuple[SourceTable, ...], phase: str) -> None:
    note_captured(conn, sources)
    before = count_captured(conn, sources)
    write(conn)
    assert count_captured(conn, sources) > before
    results = (*check_contents(conn, sources, phase=phase), *check_captured(conn, sources, phase=phase))
    assert results
    assert [result for result in results if result.verdict is Verdict.FAILED] == [], node.name


def count_captured(conn: Connection, sources: tuple[SourceTable, ...]) -> int:
    total = 0
    for buffers in fetch_buffers(conn, sources).values():
        (buffer,) = buffers
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(buffer.identifier)).fetchone()
        assert row is not None
        total += row[0]
    return total


def assert_refused(node: Node, code: str, subject: str) -> PreflightError:
    before = look(node)
    with pytest.raises(PreflightError) as refusal:
        adopt(node.dsn())
    assert look(node) == before
    found = [finding for finding in refusal.value.findings if finding.code == code]
    assert subject in [finding.subject for finding in found]
    assert all(finding.hint and finding.message for finding in found)
    return refusal.value


def go_up_down_up(node: Node, sources: tuple[SourceTable, ...]) -> None:
    with node.connect() as conn:
        take_first(conn, sources)
        adopted, rows = snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS)
        runner.upgrade(node.dsn())
        assert_captures(node, conn, sources, "head")
        runner.downgrade(node.dsn(), "0001")
        assert compare_catalogs(adopted, snapshot_catalog(conn)) == ()
        assert snapshot_rows(conn, *CATALOG_ROWS) == rows
        assert_captures(node, conn, sources, "0001 again")
        runner.upgrade(node.dsn())
        assert_captures(node, conn, sources, "head again")
        drop_kept(conn)
    assert runner.current_revision(node.dsn()) == runner.REVISIONS[-1]
