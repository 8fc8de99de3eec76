"""A node alone: plain by default, its own coordinator with Citus, closed to everybody without the password."""

from __future__ import annotations

import contextlib

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from scenarios.roles.conftest import MakeNode
from scenarios.roles.role_nodes import RoleNode

pytestmark = pytest.mark.citus(">= 13")


@pytest.fixture(scope="module")
def plain(make_module_node: MakeNode) -> RoleNode:
    node = make_module_node("plain", volume="empty", CITUS_ENABLE="", POSTGRES_USER="owner", POSTGRES_DB="shop")
    node.start("run", "-c", "work_mem=5MB", POSTGRES_SETTING_APP__TENANT="it's \\ one")
    return node


@pytest.fixture(scope="module")
def standalone(make_module_node: MakeNode) -> RoleNode:
    node = make_module_node("standalone", volume="empty")
    node.start(POSTGRES_SETTING_citus__max_adaptive_executor_pool_size="3", CITUS_SHARD_COUNT="6")
    return node


def test_without_citus_enable_a_node_is_a_plain_postgresql(plain: RoleNode) -> None:
    with psycopg.connect(plain.dsn(user="owner", dbname="shop")) as connection:
        row = connection.execute(
            "SELECT current_setting('shared_preload_libraries'), current_setting('work_mem'),"
            " current_setting('app.tenant'), current_setting('data_checksums'), current_setting('server_encoding'),"
            " (SELECT count(*) FROM pg_extension WHERE extname = 'citus')"
        ).fetchone()
        assert row == ("", "5MB", "it's \\ one", "on", "UTF8", 0)
        with pytest.raises(psycopg.Error):
            connection.execute("CREATE EXTENSION citus")
    assert plain.health() == (0, "healthy: plain")


def test_alone_with_citus_a_node_is_its_own_coordinator(standalone: RoleNode) -> None:
    with standalone.session() as client:
        found = client.rows("SELECT groupid, nodename, nodeport, shouldhaveshards, isactive FROM pg_dist_node")
        assert found == [(0, "127.0.0.1", standalone.port, True, True)]
        client.sql("CREATE TABLE items (id int PRIMARY KEY)")
        client.sql("SELECT create_distributed_table('items', 'id')")
        client.sql("INSERT INTO items SELECT generate_series(1, 100)")
        assert client.value("SELECT count(*) FROM items") == 100
        assert client.value("SELECT count(*) FROM citus_shards WHERE table_name = 'items'::regclass") == 6
        assert client.value("SHOW citus.max_adaptive_executor_pool_size") == "3"
        assert client.row("SELECT current_setting('wal_level'), current_setting('max_prepared_transactions')") == (
            "logical",
            "200",
        )
    assert standalone.health() == (0, "healthy: coordinator")


@pytest.mark.parametrize("host", ["127.0.0.1", "socket"])
@pytest.mark.parametrize("password", ["", "wrong"])
def test_nobody_gets_in_without_the_password(standalone: RoleNode, host: str, password: str) -> None:
    where = str(standalone.root / "sockets") if host == "socket" else host
    dsn = make_conninfo(
        host=where,
        port=standalone.port,
        user="postgres",
        password=password or None,
        dbname="postgres",
        passfile="/dev/null",
    )
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_every_rule_of_access_is_scram_and_none_is_for_replication(standalone: RoleNode) -> None:
    with standalone.session() as client:
        rules = client.rows("SELECT type, database, user_name, address, auth_method, error FROM pg_hba_file_rules")
        assert rules == [
            ("local", ["all"], ["all"], None, "scram-sha-256", None),
            ("host", ["all"], ["all"], "all", "scram-sha-256", None),
        ]
        assert client.value("SELECT count(*) FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256$%%'") == 0
    with pytest.raises(psycopg.OperationalError, match="replication"):
        psycopg.connect(standalone.dsn() + " replication=true")


def test_rules_of_ones_own_come_first(make_node: MakeNode) -> None:
    node = make_node("extra", CITUS_ENABLE="false")
    node.start()
    node.stop()
    (node.data_dir / "pg_hba_extra.conf").write_text("host replication all 127.0.0.1/32 scram-sha-256\n")
    (node.data_dir / "pg_hba_extra.conf").chmod(0o644)
    node.start()
    with psycopg.connect(node.dsn() + " replication=true", autocommit=True) as connection:
        assert connection.execute("IDENTIFY_SYSTEM").fetchone() is not None


def test_the_password_is_in_no_argument_environment_log_or_data(standalone: RoleNode) -> None:
    processes = [psutil.Process(standalone.pid), *psutil.Process(standalone.pid).children(recursive=True)]
    assert len(processes) > 5
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that ended meanwhile
            assert standalone.password not in " ".join(process.cmdline())
            if process.pid != standalone.pid:  # it was given to the entry point itself as a variable
                assert standalone.password not in str(process.environ())
    assert standalone.password not in standalone.log_path.read_text(encoding="utf-8")
    files = [path for path in standalone.root.rglob("*") if path.is_file()]
    assert len(files) > 900
    secret = standalone.password.encode()
    assert [path for path in files if secret in path.read_bytes()] == [standalone.root / "run" / "passfile"]
    assert (standalone.root / "run" / "passfile").stat().st_mode & 0o777 == 0o600
    assert (standalone.root / "run").stat().st_mode & 0o777 == 0o700


def test_a_password_by_file_is_in_no_environment_at_all(make_node: MakeNode) -> None:
    node = make_node("by-file", volume="empty", CITUS_ENABLE="false")
    secret = node.root / "secret"
    secret.write_text("p:a\\ss 'w\"ord$x\n", encoding="utf-8")
    secret.chmod(0o644)
    node.password = "p:a\\ss 'w\"ord$x"  # noqa: S105 - every character that a file of libpq's has a meaning for
    node.start(POSTGRES_PASSWORD=None, POSTGRES_PASSWORD_FILE=str(secret))
    with node.session() as client:
        assert client.value("SELECT 1") == 1
    assert node.health() == (0, "healthy: plain")
    for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert node.password not in str(process.environ())


def test_psql_of_the_entry_point_needs_no_password(standalone: RoleNode) -> None:
    done = standalone.psql("-At", "-c", "SELECT 41 + 1")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
