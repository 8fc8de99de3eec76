"""The inspectors' role: printed, made, made again, refused; and proven on every node that it cannot write."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.clusters import Cluster, RunningCluster
from harness.errors import BadInputError, MissingPrivilegeError, NotACoordinatorError, RefusedError
from harness.inspectors.role import SETTINGS, apply_role, prove_role, role_statements, script
from harness.postgres import AdministeredNode

pytestmark = pytest.mark.citus(">= 14")
_ROLE = 'In"spector of'


@contextlib.contextmanager
def _without(cluster: Cluster[AdministeredNode], role: str) -> Iterator[None]:
    try:
        yield
    finally:
        for node in cluster.nodes:
            with node.connect() as connection:
                connection.execute("SET citus.enable_ddl_propagation = off")
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchall():
                    connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
                    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _settings(node: AdministeredNode, role: str) -> set[str]:
    return set(node.value("SELECT rolconfig FROM pg_roles WHERE rolname = %s", [role]))


def test_apply_role_twice_gives_the_same_role_on_every_node(citus_database: Cluster[AdministeredNode]) -> None:
    with _without(citus_database, _ROLE), citus_database.coordinator.connect() as connection:
        first, second = apply_role(connection, _ROLE), apply_role(connection, _ROLE)
        assert (first.was_there, second.was_there) == (False, True)
        for node in citus_database.nodes:
            assert _settings(node, _ROLE) == {f"{name}={value}" for name, value in SETTINGS}
            assert node.row(
                "SELECT rolcanlogin, rolsuper, pg_has_role(oid, 'pg_monitor', 'USAGE'),"
                " pg_has_role(oid, 'pg_read_all_data', 'USAGE'),"
                " has_function_privilege(oid, 'citus_remote_connection_stats()', 'EXECUTE')"
                " FROM pg_roles WHERE rolname = %s",
                [_ROLE],
            ) == (True, False, True, False, True)


def test_password_of_the_role_is_sent_as_a_verifier_only(
    cluster: RunningCluster, citus_database: Cluster[AdministeredNode]
) -> None:
    password = secrets.token_hex(12)
    with _without(citus_database, _ROLE), citus_database.coordinator.connect() as connection:
        marks = {node.name: node.log.mark() for node in cluster.nodes}
        connection.execute("SET log_statement = 'all'")
        apply_role(connection, _ROLE, password=password)
        for node in cluster.nodes:
            stored = node.value("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [_ROLE])
            assert stored.startswith("SCRAM-SHA-256$")
            assert password not in node.log.since(marks[node.name])
        assert "ALTER ROLE" in cluster.coordinator.log.since(marks[cluster.coordinator.name])
        own_dsn = make_conninfo(citus_database.coordinator.dsn(), user=_ROLE, password=password)
        with psycopg.connect(own_dsn) as own:
            assert own.execute("SELECT session_user").fetchall() == [(_ROLE,)]


@pytest.mark.allow_log("password authentication failed", "the nodes do not know the role's password")
@pytest.mark.allow_log("Connection matched file", "as above")
def test_proof_names_nodes_that_do_not_let_the_role_in(citus_database: Cluster[AdministeredNode]) -> None:
    with _without(citus_database, _ROLE), citus_database.coordinator.connect() as connection:
        applied = apply_role(connection, _ROLE, password=secrets.token_hex(8))
        assert not applied.is_proven
        assert [(node.is_readonly, bool(node.problem)) for node in applied.nodes] == [(False, True)] * 3


def test_proof_holds_where_nodes_let_the_role_in_and_breaks_with_its_setting(fresh_cluster: RunningCluster) -> None:
    fresh_cluster.create_role("looker")
    with fresh_cluster.coordinator.connect() as connection:
        assert apply_role(connection, "looker", adopt=True).is_proven
        with fresh_cluster.workers[1].connect() as worker:
            worker.execute("SET citus.enable_ddl_propagation = off")
            worker.execute("ALTER ROLE looker RESET default_transaction_read_only")
        proofs = prove_role(connection, "looker")
        assert [proof.is_readonly for proof in proofs] == [True, True, False]


def test_planted_write_through_the_fan_out_fails_on_every_node_as_the_role(fresh_cluster: RunningCluster) -> None:
    """25006 on each: a READ ONLY transaction on the coordinator alone would not (inspectors.md, finding 2)."""
    fresh_cluster.create_role("looker")
    with fresh_cluster.coordinator.connect() as connection:
        apply_role(connection, "looker", adopt=True)
        connection.execute("GRANT CREATE ON SCHEMA public TO looker")  # not for want of rights
    with fresh_cluster.coordinator.connect(user="looker") as connection, connection.transaction():
        answers = connection.execute(
            "SELECT success, result FROM run_command_on_all_nodes('CREATE TABLE public.planted (a int)')"
        ).fetchall()
    assert [(success, "read-only transaction" in result) for success, result in answers] == [(False, True)] * 3
    for node in fresh_cluster.nodes:
        assert node.value("SELECT to_regclass('public.planted')") is None


def test_role_reads_the_catalog_of_stream_tables_and_nothing_captured(
    citus_head_database: Cluster[AdministeredNode],
) -> None:
    with _without(citus_head_database, _ROLE), citus_head_database.coordinator.connect() as connection:
        apply_role(connection, _ROLE)
        assert citus_head_database.rows(
            "SELECT n.nspname::text, has_schema_privilege(%s, n.oid, 'USAGE') FROM pg_namespace n"
            " WHERE n.nspname LIKE 'pgtrickle%%' ORDER BY 1",
            [_ROLE],
        ) == [("pgtrickle", True), ("pgtrickle_changes", False)]
        assert citus_head_database.value(
            "SELECT bool_and(has_table_privilege(%s, c.oid, 'SELECT') AND NOT has_table_privilege(%s, c.oid, 'INSERT'))"
            " FROM pg_class c WHERE c.relnamespace = 'pgtrickle'::regnamespace AND c.relkind = 'r'",
            [_ROLE, _ROLE],
        )


@pytest.mark.parametrize("right", ["SUPERUSER", "CREATEROLE", "pg_read_all_data", "pg_write_all_data"])
def test_role_that_may_do_more_than_look_is_refused(citus_database: Cluster[AdministeredNode], right: str) -> None:
    with _without(citus_database, "too_much"), citus_database.coordinator.connect() as connection:
        connection.execute("CREATE ROLE too_much LOGIN")
        give = "GRANT {} TO too_much" if right.startswith("pg_") else "ALTER ROLE too_much {}"
        connection.execute(give.format(right).encode())
        with pytest.raises(RefusedError, match=right):
            apply_role(connection, "too_much", adopt=True)
        assert citus_database.value("SELECT rolconfig FROM pg_roles WHERE rolname = 'too_much'") is None


def test_role_that_somebody_uses_is_refused_unless_adopted(citus_database: Cluster[AdministeredNode]) -> None:
    with _without(citus_database, "shop"), citus_database.coordinator.connect() as connection:
        connection.execute("CREATE ROLE shop LOGIN")
        with pytest.raises(RefusedError, match="can write"):
            apply_role(connection, "shop")
        assert citus_database.value("SELECT rolconfig FROM pg_roles WHERE rolname = 'shop'") is None
        apply_role(connection, "shop", adopt=True)
        assert "default_transaction_read_only=on" in _settings(citus_database.coordinator, "shop")


def test_role_is_refused_by_who_may_not_make_it(fresh_cluster: RunningCluster) -> None:
    fresh_cluster.create_role("nobody")
    with (
        fresh_cluster.coordinator.connect(user="nobody") as connection,
        pytest.raises(MissingPrivilegeError),
    ):
        apply_role(connection, "looker")
    assert fresh_cluster.rows("SELECT FROM pg_roles WHERE rolname = 'looker'") == []


def test_role_on_a_worker_is_refused(citus_database: Cluster[AdministeredNode]) -> None:
    with citus_database.workers[0].connect() as connection, pytest.raises(NotACoordinatorError):
        apply_role(connection, "looker")


@pytest.mark.parametrize("name", ["", "pg_looker", "x" * 64, "ä" * 32, "a\0b"])
def test_name_that_no_role_can_have_is_bad_input(name: str) -> None:
    with pytest.raises(BadInputError, match="role="):
        role_statements(name)


def test_script_is_sql_that_makes_the_role(citus_database: Cluster[AdministeredNode]) -> None:
    with _without(citus_database, _ROLE), citus_database.coordinator.connect() as connection:
        for line in script(_ROLE).splitlines():
            if not line.startswith("--"):
                connection.execute(line.encode())
        for node in citus_database.nodes:
            assert _settings(node, _ROLE) == {f"{name}={value}" for name, value in SETTINGS}
            assert node.value(
                "SELECT has_function_privilege(%s, 'citus_remote_connection_stats()', 'EXECUTE')", [_ROLE]
            )
