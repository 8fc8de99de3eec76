"""The database whose upgrade is rehearsed: it is reached here, and only ever read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from harness.errors import (
    BadInputError,
    ConnectionRefusedByInput,
    MissingPrivilegeError,
    ServerGoneError,
    UnsupportedVersionError,
)
from harness.postgres.installations import SUPPORTED_MAJORS

Connection: TypeAlias = psycopg.Connection[TupleRow]

# A host that does not answer is told after this long, where the DSN does not say how long.
_CONNECT_TIMEOUT_S = "10"


class CatalogState(StrEnum):
    """Whose the pgtrickle catalog of a database is."""

    ABSENT = "absent"
    EXTENSION = "extension"  # pg_trickle 0.2 owns it: pg_dump leaves its rows out
    CHAIN = "chain"  # at a revision of ours
    UNOWNED = "unowned"  # 0.2's tables, neither the extension nor a revision: a restored dump


@dataclass(frozen=True)
class SourceFacts:
    """What a look at the source says.

    Attributes:
        dsn: resolved to the one host that answered, with password; never print it.
        shown: the same, for people: without password.
        dbname, role: whose database, and who we are there.
        version: such as ``18.6``.
        major: such as 18.
        size_bytes: of the database, with indexes.
        encoding, collate, ctype, provider, locale: how the database sorts and stores text.
        catalog: whose the catalog is.
        extension_version: pg_trickle's, where it is installed.
        revision: of the chain, where there is one.
        extensions: every other extension and its version.
        is_superuser, is_standby, uses_tls: of the connection and its server.
    """

    dsn: str = field(repr=False)
    shown: str
    dbname: str
    role: str
    version: str
    major: int
    size_bytes: int
    encoding: str
    collate: str
    ctype: str
    provider: str
    locale: str | None
    catalog: CatalogState
    extension_version: str | None
    revision: str | None
    extensions: Mapping[str, str]
    is_superuser: bool
    is_standby: bool
    uses_tls: bool


def show_dsn(dsn: str) -> str:
    """Host, port, database and role of a DSN, for people; everything else, the password first of all, stays out.

    Raises:
        BadInputError: it is no connection string; the message does not repeat it.
    """
    parameters = _parse(dsn)
    return " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "dbname", "user") if parameters.get(key))


def _parse(dsn: str) -> dict[str, str]:
    try:
        parsed = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's message repeats a piece of the string, which may be a piece of the password.
        raise BadInputError(
            "--dsn is not a connection string",
            hint="use postgresql://role@host:port/database or 'host=... port=... dbname=... user=...'; "
            "a password with special characters is percent-encoded in the first and quoted in the second",
        ) from None
    return {key: str(value) for key, value in parsed.items() if value is not None}


def connect_source(dsn: str) -> Connection:
    """Connect to the source; no transaction of this connection can write.

    Args:
        dsn: as the user gave it.

    Returns:
        An autocommit connection with ``default_transaction_read_only`` on.

    Raises:
        BadInputError: the DSN cannot be read.
        ConnectionRefusedByInput: it does not lead to a database; says host, port, database, role and the reason.
        UnsupportedVersionError: the server's major version is not supported.
    """
    parameters = _parse(dsn)
    parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
    parameters.setdefault("application_name", "harness rehearse")
    parameters["options"] = f"{parameters.get('options', '')} -c default_transaction_read_only=on".strip()
    secret = parameters.get("password", "")
    try:
        connection = psycopg.connect(make_conninfo(**parameters), autocommit=True)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        if secret:
            reason = reason.replace(secret, "***")
        raise ConnectionRefusedByInput(
            f"cannot connect to {show_dsn(dsn) or 'the default database'}: {reason}",
            hint="check host, port, database, role and password; `psql` with the same values shows the same answer",
        ) from None
    try:
        # Where something between us and the server (a pooler) drops the options, this still holds.
        connection.execute("SET default_transaction_read_only = on")
        check_major(connection)
        # A snapshot is held while the dump runs: no limit of the role or the database may cut it off.
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
            connection.execute(sql.SQL("SET {} = 0").format(sql.Identifier(setting)))
    except BaseException:
        connection.close()
        raise
    return connection


def resolved_dsn(connection: Connection, dsn: str) -> str:
    """The DSN of the one server that answered, with the password that was used, wherever it came from."""
    info = connection.info
    parameters = _parse(dsn)
    for key in ("hostaddr", "service", "passfile", "load_balance_hosts", "target_session_attrs"):
        parameters.pop(key, None)
    parameters |= {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
    if info.password:
        parameters["password"] = info.password
    return make_conninfo(**parameters)


_FACTS = """
SELECT current_user::text, current_setting('server_version'), current_setting('server_version_num')::int / 10000,
       pg_catalog.pg_database_size(d.oid), pg_catalog.pg_encoding_to_char(d.encoding)::text, d.datcollate::text,
       d.datctype::text, d.datlocprovider::text, d.datlocale::text,
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
       pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_database d WHERE d.datname = current_database()
"""
_RELATIONS = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgtrickle' AND c.relkind IN ('r', 'p')
"""
CATALOG_TABLES = ("pgt_stream_tables", "pgt_dependencies", "pgt_refresh_history", "pgt_change_tracking")


def check_major(connection: Connection) -> int:
    """The server's major version.

    Raises:
        UnsupportedVersionError: it is not one that this project supports; names it.
    """
    number = connection.info.server_version
    major = number // 10000
    if major not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(
            f"the source runs PostgreSQL {major}.{number % 10000}; "
            f"supported are {' and '.join(map(str, SUPPORTED_MAJORS))}",
            hint="upgrade the server first, or rehearse on a database of a supported version",
        )
    return major


def fetch_facts(connection: Connection, dsn: str) -> SourceFacts:
    """Read what the source is. Changes nothing.

    Raises:
        UnsupportedVersionError: its major version is not supported.
    """
    check_major(connection)
    row = connection.execute(_FACTS).fetchone()
    assert row is not None, "every session has a database"  # noqa: S101
    role, version, major, size, encoding, collate, ctype, provider, locale, is_superuser, is_standby = row
    extensions: dict[str, str] = dict(
        connection.execute("SELECT extname::text, extversion FROM pg_catalog.pg_extension").fetchall()
    )
    extension_version = extensions.pop("pg_trickle", None)
    tables = {name for (name,) in connection.execute(_RELATIONS)}
    revision = None
    if "alembic_version" in tables:
        revisions = connection.execute("SELECT version_num FROM pgtrickle.alembic_version ORDER BY 1").fetchall()
        revision = ", ".join(number for (number,) in revisions) or None
    if extension_version is not None:
        catalog = CatalogState.EXTENSION
    elif revision is not None:
        catalog = CatalogState.CHAIN
    else:
        catalog = CatalogState.UNOWNED if tables & set(CATALOG_TABLES) else CatalogState.ABSENT
    return SourceFacts(
        dsn=resolved_dsn(connection, dsn),
        shown=f"host={connection.info.host} port={connection.info.port} dbname={connection.info.dbname} user={role}",
        dbname=connection.info.dbname,
        role=role,
        version=version.split()[0],
        major=major,
        size_bytes=size,
        encoding=encoding,
        collate=collate,
        ctype=ctype,
        provider=provider,
        locale=locale,
        catalog=catalog,
        extension_version=extension_version,
        revision=revision,
        extensions=extensions,
        is_superuser=bool(is_superuser),
        is_standby=is_standby,
        uses_tls=connection.pgconn.ssl_in_use,
    )


@contextmanager
def told_as_source_failure(shown: str) -> Iterator[None]:
    """Turn what a dying or refusing source throws into an error that names it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        message = error.diag.message_primary or "permission denied"
        raise MissingPrivilegeError(
            f"{shown}: {message}",
            hint="grant the role what it misses (pg_read_all_data reads everything), or use another",
            sqlstate=error.sqlstate,
        ) from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        reason = error.diag.message_primary or " ".join(str(error).split())
        raise ServerGoneError(
            f"the source ({shown}) went away: {reason}",
            hint="nothing was changed there; start again when it is back",
            sqlstate=error.sqlstate,
        ) from None
