"""What stands in the way is found before the first change, named with what to do, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg import sql

from harness.chain import preflight, runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.errors import BadInputError, PreflightError, UnsupportedVersionError
from harness.postgres import Node
from harness.rehearsal.baseline_objects import install_source
from harness.rehearsal.tables import TableName
from scenarios.fixtures.servers import MakeServer
from scenarios.upgrade.small_installation import ORDERS, SmallInstallation, build_small_installation

CHECKOUT = Path(__file__).parents[2]
STABLE = ORDERS.stable_name
OID = "SELECT 'public.orders'::regclass::oid::text"


@pytest.fixture
def installed(database: Node) -> SmallInstallation:
    return build_small_installation(database)


def _refused(node: Node, *, down_to: str | None = None) -> set[tuple[str, str]]:
    """Go up (or down); the findings that it was refused with. Nothing has changed by it."""
    with node.connect() as conn:
        before = snapshot_catalog(conn)
        go = runner.upgrade if down_to is None else runner.downgrade
        with pytest.raises(PreflightError) as refused:
            go(node.dsn(), down_to or "head")
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()
    assert all(finding.hint and finding.message for finding in refused.value.findings)
    return {(finding.code, finding.subject) for finding in refused.value.findings}


def _alembic(node: Node) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HARNESS_DSN": node.dsn()}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def test_two_sources_with_one_stable_name(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute('CREATE SCHEMA "a.b"; CREATE SCHEMA a; CREATE TABLE "a.b".c (x int); CREATE TABLE a."b.c" (x int)')
        install_source(conn, TableName("a.b", "c"))
        install_source(conn, TableName("a", "b.c"))
    ((code, _),) = _refused(database)
    assert code == "stable_name_collision"
    with database.connect() as conn:
        before = snapshot_catalog(conn)
        plain = _alembic(database)
        assert plain.returncode != 0
        said = plain.stdout + plain.stderr
        assert "stable_name_collision" in said
        assert '"a.b".c' in said
        assert 'a."b.c"' in said
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()


@pytest.mark.parametrize(
    ("setup", "code"),
    [
        ("CREATE TABLE pgtrickle_changes.changes_{} (a int)", "name_taken"),
        (
            "CREATE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_{}() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "name_taken",
        ),
        (
            """CREATE TRIGGER pg_trickle_cdc_{} BEFORE UPDATE ON public.orders FOR EACH ROW
            EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
            "name_taken",
        ),
    ],
    ids=["relation", "function", "trigger"],
)
def test_a_name_that_is_taken(database: Node, installed: SmallInstallation, setup: str, code: str) -> None:
    database.sql(sql.SQL(setup.replace("{}", STABLE)))
    assert _refused(database) == {(code, "public.orders")}


@pytest.mark.parametrize(
    ("setup", "code"),
    [
        ("DROP TABLE pgtrickle_changes.changes_{}", "buffer_missing"),
        ("DROP TRIGGER pg_trickle_cdc_{} ON public.orders", "trigger_missing"),
        ("UPDATE pgtrickle.pgt_dependencies SET cdc_mode = 'WAL' WHERE source_relid = {}", "wal_mode"),
    ],
)
def test_capture_that_is_not_whole(database: Node, installed: SmallInstallation, setup: str, code: str) -> None:
    oid = str(database.value(OID))
    database.sql(sql.SQL(setup.replace("{}", oid)))
    assert _refused(database) == {(code, "public.orders")}


def test_a_source_that_is_gone(database: Node, installed: SmallInstallation) -> None:
    oid = str(database.value(OID))
    database.sql("DROP TABLE public.orders")
    assert _refused(database) == {("source_missing", oid)}


def test_a_frontier_from_another_server(database: Node, installed: SmallInstallation) -> None:
    database.sql(
        "UPDATE pgtrickle.pgt_stream_tables SET frontier = jsonb_set(frontier,"
        " ARRAY['sources', 'public.orders'::regclass::oid::text, 'lsn'], '\"FFF/0\"')"
    )
    assert _refused(database) == {("frontier_ahead", "public.by_cust")}


def test_a_catalog_that_nobody_adopted(database: Node, installed: SmallInstallation) -> None:
    database.sql("DROP TABLE pgtrickle.alembic_version")
    assert _refused(database) == {("not_adopted", "pgtrickle")}
    plain = _alembic(database)
    assert plain.returncode != 0
    assert "harness migrate adopt" in plain.stdout + plain.stderr
    assert "Traceback" not in plain.stderr


def test_a_half_catalog(database: Node) -> None:
    runner.upgrade(database.dsn(), "0001")
    database.sql("DROP TABLE pgtrickle.pgt_stream_tables CASCADE")
    assert _refused(database) == {("half_catalog", "pgtrickle")}


def test_a_newer_catalog(database: Node, installed: SmallInstallation) -> None:
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = '0099'")
    with pytest.raises(UnsupportedVersionError, match="0099"):
        runner.upgrade(database.dsn())
    assert runner.current_revision(database.dsn()) == "0099"


def test_an_unknown_revision(database: Node) -> None:
    with pytest.raises(BadInputError, match="0042"):
        runner.upgrade(database.dsn(), "0042")


def test_a_prepared_transaction_on_a_source(make_server: MakeServer) -> None:
    node = make_server(settings={"max_prepared_transactions": "2"})
    build_small_installation(node)
    with node.connect() as conn:
        conn.execute("BEGIN; DELETE FROM public.orders WHERE id = 7; PREPARE TRANSACTION 'left alone'")
    assert _refused(node) == {("prepared_transaction", "orders")}
    node.sql("ROLLBACK PREPARED 'left alone'")
    runner.upgrade(node.dsn())


def test_going_below_the_baseline_with_stream_tables_left(database: Node, installed: SmallInstallation) -> None:
    runner.upgrade(database.dsn())
    assert _refused(database, down_to="base") == {("stream_table_left", "public.by_cust")}
    assert runner.current_revision(database.dsn()) == runner.REVISIONS[-1]


def test_going_down_under_a_live_lease(database: Node, installed: SmallInstallation) -> None:
    runner.upgrade(database.dsn())
    database.sql(
        "INSERT INTO pgtrickle.st_locks (pgt_id, locked_by, holder, deadline)"
        " SELECT pgt_id, pg_backend_pid(), 'somebody', now() + interval '1 hour' FROM pgtrickle.pgt_stream_tables"
    )
    assert _refused(database, down_to="0001") == {("lease_live", "public.by_cust")}
    database.sql("UPDATE pgtrickle.st_locks SET locked_at = now() - interval '2 h', deadline = now() - interval '1 h'")
    runner.downgrade(database.dsn(), "0001")


def test_going_down_with_a_stream_table_that_is_not_local(database: Node, installed: SmallInstallation) -> None:
    runner.upgrade(database.dsn())
    database.sql("UPDATE pgtrickle.pgt_stream_tables SET st_placement = 'reference'")
    assert _refused(database, down_to="0005") == {("stream_table_stranded", "public.by_cust")}


def test_an_installation_without_obstacles_has_no_finding(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        assert preflight.check_upgrade(conn) == ()


def test_timeouts_and_isolation_of_the_database_do_not_reach_the_chain(
    database: Node, installed: SmallInstallation
) -> None:
    with database.connect() as conn:
        for setting in (
            "statement_timeout = '20ms'",
            "transaction_timeout = '30ms'",
            "idle_in_transaction_session_timeout = '20ms'",
            "default_transaction_isolation = 'serializable'",
            "search_path = 'nowhere'",
        ):
            conn.execute(
                sql.SQL("ALTER DATABASE {} SET {}").format(
                    sql.Identifier(str(database.value("SELECT current_database()"))), sql.SQL(setting)
                )
            )
    runner.upgrade(database.dsn())
    runner.downgrade(database.dsn(), "0001")
