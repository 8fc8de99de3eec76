"""Where a scheduler may run: on a writable coordinator, with its own catalog, beside none of another version."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import conninfo

from harness import __version__
from harness.chain.connection import describe_dsn
from harness.citus import fetch_presence
from harness.errors import (
    ConnectionRefusedByInput,
    NotACoordinatorError,
    UnsupportedVersionError,
)
from harness.logs import redact
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle.catalog import check_catalog

APPLICATION_NAME = "harness scheduler"
CONNECT_TIMEOUT_S = 5
# A server that vanished without a word is found dead within about a minute; the DSN may say otherwise.
_KEEPALIVE = {
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_COORDINATOR_QUERY = "SELECT nodename, nodeport FROM pg_catalog.pg_dist_node WHERE groupid = 0 AND noderole = 'primary'"
_OTHERS_QUERY = """
    SELECT a.pid, a.application_name, coalesce(a.client_addr::text, 'the same machine')
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database() AND a.application_name LIKE %s AND a.application_name <> %s
    ORDER BY a.pid LIMIT 1"""


def connect(dsn: str, *, deadline_s: float | None = None) -> DeadlineConnection:
    """A connection in autocommit, to whichever of the DSN's hosts takes it.

    Args:
        dsn: with several hosts, ``target_session_attrs=read-write`` finds the one that can be written.
        deadline_s: how long one answer may take, in seconds; None: as long as it takes.

    Raises:
        BadInputError: it is no DSN.
        ConnectionRefusedByInput: nobody takes it.
    """
    where = describe_dsn(dsn)
    given = conninfo.conninfo_to_dict(dsn)
    options = {name: value for name, value in _KEEPALIVE.items() if name not in given}
    options["application_name"] = f"{APPLICATION_NAME} {__version__}"
    if "connect_timeout" not in given:
        options["connect_timeout"] = str(CONNECT_TIMEOUT_S)
    try:
        opened = DeadlineConnection.connect(conninfo.make_conninfo(dsn, **options), autocommit=True)
    except psycopg.OperationalError as error:
        raise ConnectionRefusedByInput(
            f"no connection to {where}: {redact(str(error)).strip()}",
            hint="check host, port, database, role and password; with several hosts: one of them has to be writable",
            sqlstate=error.sqlstate,
        ) from None
    opened.deadline_s = deadline_s
    return opened


def prove(connection: psycopg.Connection[Any]) -> None:
    """Refuse a place where a scheduler may not run.

    Raises:
        NotACoordinatorError: a standby, or a worker of a cluster.
        UnsupportedVersionError: the catalog is not of this version.
    """
    where = f"{connection.info.host}:{connection.info.port}"
    row = connection.execute(
        "SELECT pg_catalog.pg_is_in_recovery(), current_setting('transaction_read_only')"
    ).fetchone()
    if row is None or row[0] or row[1] == "on":
        what = "a standby" if row is None or row[0] else "read-only"
        raise NotACoordinatorError(
            f"the server at {where} is {what}, and a scheduler writes",
            hint="name all hosts in the DSN, with target_session_attrs=read-write; --wait-for-coordinator waits",
            node=where,
        )
    if fetch_presence(connection).group_id not in {None, 0}:
        coordinator = connection.execute(_COORDINATOR_QUERY).fetchone()
        named = f"{coordinator[0]}:{coordinator[1]}" if coordinator else "unknown here"
        raise NotACoordinatorError(
            f"the server at {where} is a worker of a cluster, and a scheduler runs on its coordinator",
            hint=f"the coordinator is {named}: harness scheduler run --dsn 'host=... port=...'",
            node=where,
        )
    check_catalog(connection)


def refuse_another_version(connection: psycopg.Connection[Any]) -> None:
    """Refuse to work beside a scheduler of another version: the two need not agree on what is due, and how.

    Raises:
        UnsupportedVersionError: there is one; says where.
    """
    own = f"{APPLICATION_NAME} {__version__}"
    found = connection.execute(_OTHERS_QUERY, [f"{APPLICATION_NAME} %", own]).fetchone()
    if found is not None:
        pid, name, address = found
        other = str(name).removeprefix(f"{APPLICATION_NAME} ")
        raise UnsupportedVersionError(
            f"a scheduler of version {other} is at work (server process {pid}, from {address}), and this one is"
            f" {__version__}",
            hint=f"stop that one, or run the same: pip install pgtrickle-citus-harness=={other}",
        )
