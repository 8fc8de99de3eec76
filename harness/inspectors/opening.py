"""The connection of an inspection and the transaction of a look: read-only, with limits, settings of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
from psycopg import conninfo, sql
from psycopg.pq import TransactionStatus

from harness.chain.connection import describe_dsn
from harness.errors import BadInputError, ConnectionRefusedByInput
from harness.inspectors.contract import Cost, Reason, Unavailable
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.limits import Limits
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session
from harness.logs import redact
from harness.postgres.deadlines import DeadlineConnection

Connection = psycopg.Connection[Any]
APPLICATION_NAME = "harness inspect"
# The first one that the inspectors are proven on; what older ones have is not what they read.
_OLDEST_CITUS = 14
# The server's own timeouts come first: this one ends a wait for a server that is frozen.
_DEADLINE_SPARE_S = 3.0
_SESSION: LiteralString = """
    SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'),
           coalesce(pg_catalog.current_setting('citus.version', true), ''), pg_catalog.current_database()
"""
_HERE: LiteralString = """
    SELECT pg_catalog.current_setting('citus.local_hostname'), pg_catalog.current_setting('port')::int
"""
_PLACE: LiteralString = """
    SELECT (SELECT groupid FROM pg_catalog.pg_dist_local_group), n.nodeid, n.groupid, n.nodename, n.nodeport,
           n.noderole::text, n.isactive, n.hasmetadata, n.metadatasynced, n.shouldhaveshards,
           coalesce((pg_catalog.to_jsonb(n) OPERATOR(pg_catalog.->>) 'nodeisclone')::boolean, false)
      FROM (VALUES (1)) one LEFT JOIN pg_catalog.pg_dist_node n ON true
     ORDER BY n.groupid, n.noderole, n.nodeid
"""


def connect(dsn: str, limits: Limits) -> DeadlineConnection:
    """A connection to the coordinator, read-only from its first statement on.

    Raises:
        BadInputError: it is no DSN.
        ConnectionRefusedByInput: it leads to no database; says where it went, without the password.
    """
    where = describe_dsn(dsn)
    given = conninfo.conninfo_to_dict(dsn).get("options") or ""
    try:
        return DeadlineConnection.connect(
            conninfo.make_conninfo(
                dsn,
                application_name=APPLICATION_NAME,
                connect_timeout=limits.connect_timeout_s,
                client_encoding="UTF8",
                options=f"{given} -c default_transaction_read_only=on".strip(),
            ),
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        raise ConnectionRefusedByInput(
            f"no connection to {where}: {redact(str(error)).strip()}",
            hint="check host, port, database, role and password",
            sqlstate=error.sqlstate,
        ) from None


def require_idle(connection: Connection) -> None:
    """A look has a transaction of its own.

    Raises:
        BadInputError: the connection is in a transaction, or not in autocommit.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE or not connection.autocommit:
        raise BadInputError(
            "an inspection needs a connection in autocommit that is in no transaction",
            hint="open one of its own, or give the DSN",
        )


def _begin(limits: Limits, cost: Cost) -> sql.Composed:
    """One round trip. What the role has set (search path, formats, visibility of shards) makes no difference."""
    settings: dict[str, str] = {
        "statement_timeout": str(limits.timeout_ms(cost)),
        "lock_timeout": str(limits.lock_timeout_ms),
        "idle_in_transaction_session_timeout": str(4 * limits.timeout_ms(cost)),
        "default_transaction_read_only": "on",
        "search_path": "pg_catalog",
        "client_encoding": "UTF8",
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "client_min_messages": "warning",
    }
    return sql.SQL("; ").join(
        [
            sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"),
            *(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), value) for name, value in _literals(settings)),
        ]
    )


def citus_settings(limits: Limits, cost: Cost) -> sql.Composed:
    """Settings of a look where Citus is loaded, and how long a statement may take from here on."""
    settings = {
        "statement_timeout": str(limits.timeout_ms(cost)),
        "citus.node_connection_timeout": str(limits.node_timeout_ms(cost)),
        # A SET LOCAL of ours is none of the nodes' business, nor are shards hidden from us.
        "citus.propagate_set_commands": "none",
        "citus.override_table_visibility": "off",
        # What a session keeps open to a node that froze meanwhile would be waited for until statement_timeout.
        "citus.max_cached_conns_per_worker": "0",
    }
    return sql.SQL("; ").join(
        sql.SQL("SET LOCAL {} = {}").format(sql.SQL(".").join(map(sql.Identifier, name.split("."))), value)
        for name, value in _literals(settings)
    )


def _literals(settings: dict[str, str]) -> list[tuple[str, sql.Literal]]:
    return [(name, sql.Literal(value)) for name, value in settings.items()]


@contextlib.contextmanager
def transaction(connection: Connection, limits: Limits, cost: Cost) -> Iterator[None]:
    """A READ ONLY transaction that is always rolled back; a connection that was lost meanwhile is left as it is.

    While it lasts, the session's default is read-only too: nothing gets out of it by ending the transaction.
    """
    require_idle(connection)
    is_ours = connection.info.parameter_status("default_transaction_read_only") == "on"
    if not is_ours:
        connection.execute("SET default_transaction_read_only = on")
    if isinstance(connection, DeadlineConnection):
        connection.deadline_s = limits.timeout_ms(cost) / 1000 + _DEADLINE_SPARE_S
    connection.execute(_begin(limits, cost))
    try:
        yield
    finally:
        if not connection.closed:
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute("ROLLBACK" if is_ours else "ROLLBACK; SET default_transaction_read_only = off")


def open_session(connection: Connection, limits: Limits, cost: Cost, redactor: Redactor) -> Session:
    """What a look gets, inside its transaction.

    Raises:
        Unavailable: Citus' extension is there without its library, or this is no coordinator.
    """
    extension, library, database = connection.execute(_SESSION).fetchall()[0]
    session = Session(connection, (), 0, database, library, redactor, limits, cost)
    if extension is None:
        here = ClusterNode(0, 0, connection.info.host or "localhost", connection.info.port)
        return replace(session, nodes=(here,), citus_version="")
    if not library:
        raise Unavailable(
            Reason.NOT_PRELOADED, "Citus' library is not loaded: put citus into shared_preload_libraries and restart"
        )
    connection.execute(citus_settings(limits, cost))
    rows = connection.execute(_PLACE).fetchall()
    group = int(rows[0][0] or 0)
    if group != 0:
        raise Unavailable(Reason.NOT_COORDINATOR, f"this is group {group}, a worker: give the coordinator's address")
    nodes = tuple(ClusterNode(*row[1:]) for row in rows if row[1] is not None)
    if not any(node.is_coordinator for node in nodes):
        # Never registered: Citus asks it by this address.
        host, port = connection.execute(_HERE).fetchall()[0]
        nodes = (ClusterNode(0, 0, host, port, should_have_shards=False), *nodes)
    return replace(session, nodes=nodes, local_group=group, citus_version=library)


def require_citus(session: Session) -> None:
    """What an inspector that needs Citus can be asked about.

    Raises:
        Unavailable: the database has no Citus, or one that is too old.
    """
    if not session.citus_version:
        raise Unavailable(
            Reason.CITUS_MISSING, f"the database {session.database} has no Citus: it needs CREATE EXTENSION citus"
        )
    major = session.citus_version.partition(".")[0]
    if major.isdigit() and int(major) < _OLDEST_CITUS:
        raise Unavailable(
            Reason.UNSUPPORTED_VERSION,
            f"this is Citus {session.citus_version}: the inspectors are for Citus {_OLDEST_CITUS} and newer",
        )
