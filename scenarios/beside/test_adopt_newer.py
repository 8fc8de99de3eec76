"""Stream tables of a real 0.66 or 0.67 are taken over and rebuilt, go up and down; the rest is refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.chain.newer import TAKEN_VERSIONS
from harness.engines.installed import (
    SERVER_SETTINGS,
    ExtensionMissingError,
    choose_extension_installation,
    extension_version,
)
from harness.errors import PreflightError
from harness.postgres import Node, Server
from harness.rehearsal.extension import demonstration
from harness.rehearsal.model import Verdict
from harness.rehearsal.options import STEPS, Progress, RehearsalOptions
from harness.rehearsal.run import rehearse
from harness.trickle import StreamTables
from harness.trickle.oracle import compare
from scenarios.beside import newer_installation
from scenarios.beside.newer_installation import MANY
from scenarios.fixtures.skips import skip_extension

Connection = psycopg.Connection[TupleRow]
# Functions and triggers of the extension's that are no members; the baseline's own capture has names by OID.
LEFT_BEHIND = r"""
SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.proname ~ '^(_pgt_guard_|pgt_ivm_)'
   OR p.proname ~ '^pg_trickle_cdc_(ins|upd|del)_fn_' OR p.proname ~ '^pg_trickle_cdc_.*fn_[0-9a-f]{16}$'
UNION ALL SELECT t.tgname FROM pg_trigger t WHERE t.tgname ~ '^pgt_(dml|truncate)_guard$|^pgt_ivm_'
"""
TABLES = ("shop.large", "shop.pages", "shop.regions", "shop.totals", "shop.weights")


def _build(conn: Connection) -> None:
    conn.execute("CREATE EXTENSION pg_trickle")
    _, refused = demonstration.build(conn)
    assert refused == ()
    conn.execute("SELECT pgtrickle.create_stream_table('shop.sums', 'SELECT count(*) AS n FROM shop.totals', '1h')")
    conn.execute("SELECT pgtrickle.refresh_stream_table('shop.totals')")
    conn.execute("UPDATE shop.orders SET amt = amt + 1 WHERE id % 10 = 0")  # waits, and is not carried over
    conn.execute("DELETE FROM shop.visits WHERE cust = 3")


@pytest.fixture(scope="module")
def newer_server() -> Iterator[Server]:
    """A server with the real library, and an installation that it made; the library is not preloaded any more."""
    try:
        installation = choose_extension_installation()
    except ExtensionMissingError as error:
        skip_extension(error.message)
    if extension_version(installation) not in TAKEN_VERSIONS:
        skip_extension(f"{installation.bindir} has pg_trickle {extension_version(installation)}, not {TAKEN_VERSIONS}")
    server = Server.create(installation, name="newer", settings=SERVER_SETTINGS)
    try:
        server.start()
        server.create_database("made")
        with contextlib.closing(server.connect("made")) as conn:
            _build(conn)
        server.create_database("many")
        with contextlib.closing(server.connect("many")) as conn:
            newer_installation.build(conn)
        server.close()
        # ALTER SYSTEM writes an empty list as one library without a name, with which no server starts (PostgreSQL 18).
        server.set("shared_preload_libraries", "plpgsql")
        server.restart()
        yield server
    finally:
        server.destroy()


@pytest.fixture
def newer(newer_server: Server) -> Iterator[Node]:
    """A copy of the installation: a copied database keeps its OIDs, which names of its objects hold."""
    with newer_server.temporary_database("newer", template="made") as node:
        yield node
        node.close()


def contents(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        "shop.totals": conn.execute("SELECT cust, total, n FROM shop.totals ORDER BY 1").fetchall(),
        "shop.weights": conn.execute("SELECT weight, n FROM shop.weights ORDER BY 1").fetchall(),
    }


def test_stream_tables_are_taken_over_and_kept_up_to_date(newer: Node) -> None:
    with contextlib.closing(newer.connect()) as conn:
        before = contents(conn)
    report = adopt(newer.dsn(), mode="differential")
    assert report.extension_version in TAKEN_VERSIONS
    assert report.rebuilt == tuple(sorted((*TABLES, "shop.sums")))
    assert report.converted == ("shop.weights",)
    with contextlib.closing(newer.connect()) as conn:
        assert contents(conn) == before, "each keeps its rows until its first refresh"
        assert conn.execute("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trickle'").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM pg_proc WHERE probin LIKE '%trickle%'").fetchone() == (0,)
        assert conn.execute(LEFT_BEHIND).fetchall() == []
        conn.execute("INSERT INTO shop.orders VALUES (900001, 5, 91, 'between')")  # at 0001
    runner.upgrade(newer.dsn())
    with contextlib.closing(newer.connect()) as conn:
        conn.execute("UPDATE shop.parts SET weight = 99 WHERE id < 10")
        with StreamTables(conn) as tables:
            for name in (*TABLES, "shop.sums"):
                assert tables.refresh(name).action in ("REINITIALIZE", "FULL")
            assert [name for name in (*TABLES, "shop.sums") if not compare(conn, name).is_equal] == []
            conn.execute("UPDATE shop.orders SET amt = amt * 2 WHERE id % 7 = 0")
            conn.execute("DELETE FROM shop.parts WHERE id > 290")
            for name in (*TABLES, "shop.sums"):
                tables.refresh(name)
        assert [name for name in (*TABLES, "shop.sums") if not compare(conn, name).is_equal] == []


def test_stream_tables_of_many_kinds_are_taken_over(newer_server: Server) -> None:
    with newer_server.temporary_database("many_taken", template="many") as node:
        assert adopt(node.dsn(), mode="differential").rebuilt == tuple(sorted(MANY))
        runner.upgrade(node.dsn())
        with contextlib.closing(node.connect()) as conn, StreamTables(conn) as tables:
            for changes in ("", newer_installation.CHANGES):
                conn.execute(changes.encode())
                for name in MANY:
                    tables.refresh(name)
                assert [name for name in MANY if not compare(conn, name).is_equal] == []


def test_taken_over_it_goes_down_to_the_baseline_and_up_again(newer: Node) -> None:
    adopt(newer.dsn(), mode="differential")
    for _ in range(2):
        runner.upgrade(newer.dsn())
        runner.downgrade(newer.dsn(), "0001")
    assert runner.current_revision(newer.dsn()) == "0001"


@pytest.mark.parametrize(
    ("change", "code", "subject", "words"),
    [
        ("UPDATE pgtrickle.pgt_stream_tables SET temporal_mode = true WHERE pgt_name = 'totals'",
         "feature_not_taken", "shop.totals", "temporal_mode"),
        ("UPDATE pgtrickle.pgt_stream_tables SET topk_offset = 3 WHERE pgt_name = 'large'",
         "feature_not_taken", "shop.large", "topk_offset"),
        ("UPDATE pgtrickle.pgt_stream_tables SET refresh_tier = 'frozen' WHERE pgt_name = 'pages'",
         "feature_not_taken", "shop.pages", "never refreshed"),
        ("UPDATE pgtrickle.pgt_dependencies SET cdc_mode = 'WAL' WHERE source_relid = 'shop.visits'::regclass",
         "source_not_taken", "shop.pages", "captured by WAL"),
        ("INSERT INTO pgtrickle.pgt_watermark_groups (group_name, source_relids) VALUES ('nightly', '{}')",
         "arrangement_not_taken", "nightly", "pgt_watermark_groups"),
        ("CREATE VIEW shop.mine AS SELECT pgt_name FROM pgtrickle.pgt_stream_tables",
         "object_depends", "shop.mine", "view shop.mine depends on table pgtrickle.pgt_stream_tables"),
        ("CREATE TABLE pgtrickle_changes.changes_mine (a int)",
         "object_depends", "pgtrickle_changes.changes_mine", "depends on schema"),
    ],
    ids=["temporal", "offset", "frozen", "wal", "watermarks", "view", "table"],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_by_name(newer: Node, change: str, code: str, subject: str, words: str) -> None:
    with contextlib.closing(newer.connect()) as conn:
        conn.execute("SET event_triggers = off")
        conn.execute(change.encode())
    with pytest.raises(PreflightError) as refused:
        adopt(newer.dsn(), mode="differential")
    (finding,) = refused.value.findings
    assert finding.code == code
    assert subject in finding.subject
    assert words in finding.message
    assert finding.hint
    with contextlib.closing(newer.connect()) as conn:
        assert conn.execute("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trickle'").fetchone() == (1,)
        assert conn.execute("SELECT to_regclass('pgtrickle.alembic_version')").fetchone() == (None,)


def test_rows_that_an_older_version_left_are_refused_by_table(newer: Node) -> None:
    """0.30 and before made it by their own script, so it is a member after every update, and would leave with them."""
    with contextlib.closing(newer.connect()) as conn:
        conn.execute("SET event_triggers = off")
        conn.execute("CREATE TABLE pgtrickle.pgt_subscriptions (stream_table text, channel text)")
        conn.execute("ALTER EXTENSION pg_trickle ADD TABLE pgtrickle.pgt_subscriptions")
        conn.execute("INSERT INTO pgtrickle.pgt_subscriptions VALUES ('shop.totals', 'listeners')")
    with pytest.raises(PreflightError) as refused:
        adopt(newer.dsn(), mode="differential")
    (finding,) = refused.value.findings
    assert (finding.code, finding.subject) == ("arrangement_not_taken", "pgtrickle.pgt_subscriptions")
    assert "1 row(s)" in finding.message
    with contextlib.closing(newer.connect()) as conn:
        conn.execute("DELETE FROM pgtrickle.pgt_subscriptions")
    assert len(adopt(newer.dsn(), mode="differential").rebuilt) == 6


def test_immediate_is_refused_unless_it_may_change(newer: Node) -> None:
    with pytest.raises(PreflightError) as refused:
        adopt(newer.dsn())
    assert [(finding.code, finding.subject) for finding in refused.value.findings] == [
        ("immediate_stream_table", "shop.weights")
    ]


def test_rehearsal_takes_it_over_in_a_base_backup(newer_server: Server) -> None:
    with newer_server.temporary_database("rehearsed", template="made") as node:
        with pytest.raises(PreflightError) as refused:
            rehearse(RehearsalOptions(dsn=node.dsn()))
        (finding,) = refused.value.findings
        assert finding.code == "other_version"
        assert "--copy physical" in finding.hint
        with contextlib.closing(node.connect()) as conn:
            conn.execute("UPDATE pgtrickle.pgt_stream_tables SET fuse_mode = 'on' WHERE pgt_name = 'pages'")
        told: list[Progress] = []
        with pytest.raises(PreflightError) as refused:
            rehearse(RehearsalOptions(dsn=node.dsn(), copy="physical"), told.append)
        assert [(one.code, one.subject) for one in refused.value.findings] == [("feature_not_taken", "shop.pages")]
        assert {one.step for one in told} == {"look"}, "nothing was copied"
        with contextlib.closing(node.connect()) as conn:
            conn.execute("UPDATE pgtrickle.pgt_stream_tables SET fuse_mode = 'off'")
        result = rehearse(RehearsalOptions(dsn=node.dsn(), copy="physical", seed=2))
    assert [check for check in result.checks if check.verdict is Verdict.FAILED] == []
    assert [(step.name, step.verdict) for step in result.steps] == [(name, Verdict.PASSED) for name in STEPS]
    assert result.stream_tables == 6
