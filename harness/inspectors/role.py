"""The role that inspectors log in as: it sees what a monitor sees, and can write on no node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.chain.connection import translated
from harness.citus import ask_nodes, fetch_presence, require_all, run_on_nodes
from harness.errors import BadInputError, NotACoordinatorError, RefusedError
from harness.inspectors.opening import Connection

DEFAULT_ROLE = "harness_inspector"
# Every process of ours looks at most four times at once, and a look has a session on the coordinator and one more on
# each node, the coordinator too: two such processes, and what only just ended.
_MOST_CONNECTIONS = 20
# What a session of the role has on every node. A READ ONLY transaction on the coordinator does not reach the nodes,
# settings of the role do: Citus carries ALTER ROLE .. SET there (inspectors.md, finding 2).
SETTINGS: tuple[tuple[str, str], ...] = (
    ("default_transaction_read_only", "on"),
    # What the longest look takes; a session that Citus opened on a node has no other limit.
    ("statement_timeout", "15s"),
    ("lock_timeout", "1s"),
    ("idle_in_transaction_session_timeout", "60s"),
    # No function that somebody left in public stands in for one of pg_catalog.
    ("search_path", "pg_catalog"),
)
# Memberships with which the role could read people's rows and Citus' passwords (finding 9), or write.
_TOO_MUCH: tuple[str, ...] = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_maintain",
    "pg_signal_backend",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_create_subscription",
)
_ATTRIBUTES: LiteralString = """
    SELECT r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls, r.rolconfig,
           ARRAY(SELECT m.rolname::text FROM pg_catalog.pg_roles m
                  WHERE m.rolname = ANY (%s) AND pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER') ORDER BY 1)
      FROM pg_catalog.pg_roles r WHERE r.rolname = %s
"""
_ATTRIBUTE_NAMES = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
_POOL_FUNCTION: LiteralString = "pg_catalog.citus_remote_connection_stats()"
_HAS_POOL_FUNCTION: LiteralString = (
    "SELECT pg_catalog.to_regprocedure('pg_catalog.citus_remote_connection_stats()') IS NOT NULL"
)
_HAS_STREAM_TABLES: LiteralString = "SELECT pg_catalog.to_regnamespace('pgtrickle') IS NOT NULL"
_PROOF: LiteralString = "SELECT pg_catalog.current_setting('default_transaction_read_only')"


@dataclass(frozen=True)
class NodeProof:
    """What one node said to the role.

    Attributes:
        node: role, address and group, for people.
        is_readonly: whether its sessions there are read-only by default; False where that could not be asked.
        problem: why it could not; the node's words, empty if it did.
    """

    node: str
    is_readonly: bool
    problem: str = ""


@dataclass(frozen=True)
class AppliedRole:
    """A role that was set up, and what each node makes of it."""

    role: str
    was_there: bool
    nodes: tuple[NodeProof, ...]

    @property
    def is_proven(self) -> bool:
        """Whether every node let the role in and keeps it from writing."""
        return all(node.is_readonly for node in self.nodes)


def role_statements(role: str = DEFAULT_ROLE, *, exists: bool = False) -> tuple[sql.Composed, ...]:
    """What makes the role, to be run on the coordinator; Citus carries all of it to the workers.

    Args:
        role: its name, as the catalog spells it.
        exists: whether it is there already.

    Raises:
        BadInputError: no role can have this name.
    """
    _check_name(role)
    name = sql.Identifier(role)
    verb = sql.SQL("ALTER" if exists else "CREATE")
    return (
        sql.SQL("{} ROLE {} LOGIN INHERIT CONNECTION LIMIT {}").format(verb, name, sql.Literal(_MOST_CONNECTIONS)),
        sql.SQL("GRANT pg_monitor TO {}").format(name),
        *(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            for setting, value in SETTINGS
        ),
    )


def stream_table_statements(role: str = DEFAULT_ROLE) -> tuple[sql.Composed, ...]:
    """What lets it read the catalog of stream tables, for `stream_table_inspector`; what was captured it cannot read.

    After the chain has made new tables it has to be run again.
    """
    _check_name(role)
    name = sql.Identifier(role)
    return (
        sql.SQL("GRANT USAGE ON SCHEMA pgtrickle TO {}").format(name),
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA pgtrickle TO {}").format(name),
    )


def node_statement(role: str = DEFAULT_ROLE) -> sql.Composed:
    """What is to be run on every node: the right to see how many connections each keeps to others.

    Citus does not carry rights on its own functions. Without it `citus_pool_inspector` has no outbound connections.
    """
    _check_name(role)
    return sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(_POOL_FUNCTION), sql.Identifier(role))


def script(role: str = DEFAULT_ROLE, *, exists: bool = False) -> str:
    """All of it as a script for psql on the coordinator, with what a person has to add.

    Raises:
        BadInputError: no role can have this name.
    """
    everywhere = sql.SQL("SELECT * FROM pg_catalog.run_command_on_all_nodes({})").format(
        sql.Literal(node_statement(role).as_string())
    )
    lines = [
        "-- On the coordinator, as a superuser. Citus carries the role and its settings to the workers.",
        *(f"{statement.as_string()};" for statement in role_statements(role, exists=exists)),
        "-- In a database with stream tables, so that their catalog can be read (not what was captured):",
        *(f"--   {statement.as_string()};" for statement in stream_table_statements(role)),
        "-- Its password, which psql asks for and sends encrypted:",
        f"--   \\password {sql.Identifier(role).as_string()}",
        "-- Nodes log in to each other as the role: pg_hba.conf, a password file or pg_dist_authinfo must let it in.",
        "-- What each node may tell it about its connections (Citus does not carry this):",
        f"{everywhere.as_string()};",
    ]
    return "\n".join(lines) + "\n"


def apply_role(
    connection: Connection, role: str = DEFAULT_ROLE, *, password: str | None = None, adopt: bool = False
) -> AppliedRole:
    """Make the role, or bring one of ours up to date, and prove on every node that it gets in and cannot write.

    Runs on the coordinator; leaves the role, its settings and its rights on every node. Running it again changes
    nothing.

    Args:
        connection: to the coordinator, in autocommit, as a superuser.
        role: its name.
        password: for it; sent as a SCRAM verifier, so that it is in no log. None: it stays as it is.
        adopt: take a role that is there and is none of ours. Its sessions are read-only from then on.

    Raises:
        BadInputError: no role can have this name.
        NotACoordinatorError: this is a worker, or a server without Citus.
        RefusedError: the role is there and is used for something else, or has more rights than a look may have.
        MissingPrivilegeError: the connection's role may not do it.
        NodesFailedError: a node did not grant; names it.
    """
    _check_name(role)
    presence = fetch_presence(connection)
    if not presence.is_coordinator:
        raise NotACoordinatorError(f"the role is made on a coordinator, and here is {presence}")
    found = connection.execute(_ATTRIBUTES, [list(_TOO_MUCH), role]).fetchone()
    if found is not None:
        _check_existing(role, found, adopt=adopt)
    with translated(f"role {role!r}"), connection.transaction():
        for statement in role_statements(role, exists=found is not None):
            connection.execute(statement)
        if connection.execute(_HAS_STREAM_TABLES).fetchall()[0][0]:
            for statement in stream_table_statements(role):
                connection.execute(statement)
        if password is not None:
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
            )
    if connection.execute(_HAS_POOL_FUNCTION).fetchall()[0][0]:
        require_all(run_on_nodes(connection, node_statement(role)))
    return AppliedRole(role, found is not None, prove_role(connection, role))


def prove_role(connection: Connection, role: str = DEFAULT_ROLE) -> tuple[NodeProof, ...]:
    """Ask every node, as the role, whether its sessions there are read-only by default; changes nothing.

    Citus opens connections to nodes as whoever the session is just then: SET ROLE is enough, no password is needed
    here, and how nodes let each other in is what is proven.

    Args:
        connection: to the coordinator, in autocommit, as a superuser or a member of the role.
        role: its name.
    """
    with translated(f"role {role!r}"), connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        answers = ask_nodes(connection, _PROOF)
    return tuple(
        NodeProof(answer.label, answer.succeeded and answer.result == "on", answer.message) for answer in answers
    )


def _check_name(role: str) -> None:
    if not role or "\0" in role or len(role.encode("utf-8", "replace")) > 63 or role.startswith("pg_"):
        raise BadInputError(f"role={role!r:.80} cannot be a role", hint="give 1 to 63 bytes that do not begin with pg_")


def _check_existing(role: str, found: Sequence[Any], *, adopt: bool) -> None:
    *flags, settings, memberships = found
    too_much = [name for name, is_set in zip(_ATTRIBUTE_NAMES, flags, strict=True) if is_set] + memberships
    if too_much:
        raise RefusedError(
            f"role {role!r} may do more than look: {', '.join(too_much)}", hint="take that from it, or use another role"
        )
    is_ours = "default_transaction_read_only=on" in (settings or [])
    if not (is_ours or adopt):
        raise RefusedError(
            f"role {role!r} is there and can write: whoever uses it could not any more",
            hint="use another name; if it is for inspectors only, say that it may be adopted",
        )
