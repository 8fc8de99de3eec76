"""What cannot be used is refused before anything is made: one line with the value and what to do, exit code 2."""

from __future__ import annotations

import pytest

from scenarios.roles.conftest import MakeNode
from scenarios.roles.role_nodes import RoleNode

pytestmark = pytest.mark.citus(">= 13")

# What is set, which words the line must have.
REFUSED: tuple[tuple[dict[str, str | None], tuple[str, ...]], ...] = (
    ({"CITUS_ENABLE": "maybe"}, ("CITUS_ENABLE='maybe'", "true or false")),
    ({"CITUS_ROLE": "wroker"}, ("CITUS_ROLE='wroker'", "coordinator or worker")),
    ({"CITUS_ENABLE": "false", "CITUS_ROLE": "wroker"}, ("CITUS_ROLE='wroker'",)),
    ({"CITUS_ROLE": "worker"}, ("CITUS_COORDINATOR_HOST is empty", "name the coordinator's host")),
    ({"CITUS_ROLE": "worker", "CITUS_COORDINATOR_HOST": ""}, ("CITUS_COORDINATOR_HOST is empty",)),
    ({"CITUS_ROLE": "worker", "CITUS_COORDINATOR_HOST": "a,b"}, ("CITUS_COORDINATOR_HOST='a,b'", "one name")),
    ({"CITUS_ROLE": "worker", "CITUS_COORDINATOR_HOST": "a:5432"}, ("CITUS_COORDINATOR_HOST='a:5432'",)),
    ({"CITUS_ROLE": "worker", "CITUS_COORDINATOR_HOST": "/tmp"}, ("CITUS_COORDINATOR_HOST='/tmp'",)),  # noqa: S108
    ({"CITUS_COORDINATOR_HOST": "db"}, ("CITUS_COORDINATOR_HOST='db' is set", "CITUS_ROLE is not")),
    (
        {"CITUS_ROLE": "worker", "CITUS_COORDINATOR_HOST": "db", "CITUS_COORDINATOR_PORT": "54a"},
        ("CITUS_COORDINATOR_PORT='54a'", "1 to 65535"),
    ),
    ({"CITUS_COORDINATOR_PORT": "65536"}, ("CITUS_COORDINATOR_PORT='65536'",)),
    ({"PGPORT": "0"}, ("PGPORT='0'",)),
    ({"CITUS_NODE_PORT": "99999999999999999999"}, ("CITUS_NODE_PORT=",)),
    ({"CITUS_NODE_HOST": "172.17.0.2"}, ("CITUS_NODE_HOST='172.17.0.2'", "is an address", "a name")),
    ({"CITUS_NODE_HOST": "fd00::2"}, ("CITUS_NODE_HOST='fd00::2'", "is an address")),
    ({"POSTGRES_PASSWORD": None}, ("no password", "POSTGRES_PASSWORD_FILE")),
    ({"POSTGRES_PASSWORD": ""}, ("no password",)),
    ({"POSTGRES_PASSWORD_FILE": "/dev/null"}, ("POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set",)),
    (
        {"POSTGRES_PASSWORD": None, "POSTGRES_PASSWORD_FILE": "/nonexistent/secret"},
        ("POSTGRES_PASSWORD_FILE='/nonexistent/secret'", "cannot be read"),
    ),
    ({"POSTGRES_PASSWORD": "one\ntwo"}, ("line break",)),
    ({"POSTGRES_PASSWORD": "dos\r"}, ("line break",)),
    ({"CITUS_NODE_PASSFILE": "/nonexistent/roles"}, ("CITUS_NODE_PASSFILE='/nonexistent/roles'",)),
    ({"POSTGRES_DB": "x" * 64}, ("POSTGRES_DB=", "63 bytes")),
    ({"POSTGRES_USER": "two\nlines"}, ("POSTGRES_USER", "line break")),
    ({"PGDATA": "data"}, ("PGDATA='data'", "absolute")),
    ({"PG_BINDIR": "/nonexistent"}, ("/nonexistent", "PG_BINDIR")),
    ({"CITUS_NODE_RUN_DIR": "/tmp"}, ("CITUS_NODE_RUN_DIR='/tmp'", "own")),  # noqa: S108
    ({"CITUS_NODE_RUN_DIR": "/proc/run"}, ("CITUS_NODE_RUN_DIR='/proc/run'",)),
    ({"POSTGRES_HOST_AUTH_METHOD": "trust"}, ("POSTGRES_HOST_AUTH_METHOD='trust'", "not obeyed")),
    ({"POSTGRES_SETTING_NO_SUCH_THING": "1"}, ('"no_such_thing"', "unrecognized")),
    ({"POSTGRES_SETTING_WORK_MEM": "much"}, ('"work_mem"', '"much"')),
    ({"POSTGRES_SETTING_MAX_CONNECTIONS": "0"}, ('"max_connections"', "valid range")),
    ({"POSTGRES_SETTING_PORT": "1234"}, ("setting port", "PGPORT")),
    ({"POSTGRES_SETTING_HBA_FILE": "mine"}, ("setting hba_file",)),
    ({"POSTGRES_SETTING_CITUS__SHARD_COUNT": "8"}, ("citus.shard_count", "given twice")),
    ({"POSTGRES_SETTING_MAX_PREPARED_TRANSACTIONS": "0"}, ("max_prepared_transactions=0",)),
    (
        {"CITUS_ENABLE": "false", "POSTGRES_SETTING_SHARED_PRELOAD_LIBRARIES": "pg_stat_statements, citus"},
        ("loads Citus", "CITUS_ENABLE=true"),
    ),
    (
        {"POSTGRES_SETTING_CITUS__DISTRIBUTED_EXECUTOR": "task-tracker"},
        ("citus.distributed_executor", "does not exist any more", "one executor"),
    ),
    ({"CITUS_DISTRIBUTED_EXECUTOR": "task-tracker"}, ("citus.distributed_executor", "does not exist any more")),
    (
        {"POSTGRES_SETTING_CITUS__MAX_WORKER_PROCESSES": "4"},
        ("citus.max_worker_processes", "does not exist any more", "max_worker_processes"),
    ),
    ({"CITUS_MAX_WORKER_PROCESSES": "4"}, ("citus.max_worker_processes", "register themselves")),
)


@pytest.fixture(scope="module")
def node(make_module_node: MakeNode) -> RoleNode:
    """A node on an empty volume: every refusal leaves it so."""
    return make_module_node("refused", volume="empty")


@pytest.mark.parametrize(("variables", "words"), REFUSED, ids=lambda part: "-".join(part)[:60] if part else "")
def test_bad_input_is_refused_by_name(node: RoleNode, variables: dict[str, str | None], words: tuple[str, ...]) -> None:
    said = node.refused(**variables)
    for word in words:
        assert word in said
    assert node.password not in said
    assert not list(node.data_dir.iterdir())


@pytest.mark.parametrize("arguments", [("run", "-x"), ("run", "-c", "work_mem"), ("go",), ("run", "-c")], ids=" ".join)
def test_arguments_that_are_none_are_refused(node: RoleNode, arguments: tuple[str, ...]) -> None:
    node.refused(*arguments)
    assert not list(node.data_dir.iterdir())


def test_settings_of_citus_are_known_to_citus_only_and_refused_before_the_port_is_open(make_node: MakeNode) -> None:
    node = make_node("settings")
    node.start()
    node.stop()
    said = node.refused(POSTGRES_SETTING_CITUS__NO_SUCH_THING="1")
    assert "citus.no_such_thing" in said
    assert "does not exist" in said
    said = node.refused(CITUS_SHARD_COUNT="many")
    assert "citus.shard_count='many'" in said
    assert "listening on IPv4" not in node.said()
    node.start()
    with node.session() as client:
        names = {row[0] for row in client.rows("SELECT name FROM pg_settings WHERE name LIKE 'citus.%%'")}
    assert not names & {"citus.distributed_executor", "citus.max_worker_processes"}
    assert "citus.max_adaptive_executor_pool_size" in names
    assert node.stop() == 0
    # Another life, another password: the data keep the one they were made with.
    said = node.refused(POSTGRES_PASSWORD="another")  # noqa: S106
    assert "password of role 'postgres' is another one" in said
    said = node.refused(POSTGRES_USER="somebody")
    assert "'somebody'" in said
    (node.data_dir / "PG_VERSION").write_text("12\n")
    said = node.refused()
    assert "PostgreSQL 12" in said


def test_a_directory_that_holds_something_else_is_left_alone(make_node: MakeNode) -> None:
    node = make_node("full", volume="empty")
    (node.data_dir / "letter").write_text("dear")
    said = node.refused()
    assert str(node.data_dir) in said
    assert "letter" in said
    assert [path.name for path in node.data_dir.iterdir()] == ["letter"]


def test_an_unknown_variable_is_named_and_ignored(make_node: MakeNode) -> None:
    node = make_node("unknown", CITUS_ENABLE="false")
    node.start(CITUS_ENABEL="true")
    assert any("CITUS_ENABEL is not known" in line for line in node.own_words())
