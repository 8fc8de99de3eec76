"""Alembic's environment: where the chain connects, one chain at a time, one transaction a revision.

The connection comes from ``Config.attributes["connection"]`` (``harness migrate``), from ``-x dsn=...``,
or from ``HARNESS_DSN``.
"""

from __future__ import annotations

import os

import psycopg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import OperationalError

VERSION_TABLE = "alembic_version"
VERSION_SCHEMA = "pgtrickle"
# Any number will do as long as nobody else uses it: the first half of the stable names' seed (D1).
CHAIN_LOCK = 0x517CC1B7
# A session that has just been closed, or whose client was killed, may hold it for a moment yet: the revision before
# this one had a session of its own.
CHAIN_LOCK_TIMEOUT = "5s"
# For DDL on the catalog itself, which no writer's trigger touches; sources have a stricter one of their own.
CATALOG_LOCK_TIMEOUT = "2s"

# What a database or a role may have set for its own sessions, and a chain can't work under; each with its reason.
SESSION = (
    ("search_path", "pg_catalog, pg_temp"),  # nobody's function or operator comes between
    ("client_min_messages", "notice"),  # the steps tell how far they are
    ("statement_timeout", "0"),  # a revision's loop is one statement, and has a deadline of its own
    ("transaction_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),  # a step must see what was committed before its locks
    ("standard_conforming_strings", "on"),  # the files are written for it
)


def _dsn() -> str:
    dsn = context.get_x_argument(as_dictionary=True).get("dsn") or os.environ.get("HARNESS_DSN")
    if not dsn or not isinstance(dsn, str):
        raise CommandError("no database is named: set HARNESS_DSN or pass -x dsn=...")
    return dsn


def _open() -> psycopg.Connection:
    try:
        return psycopg.connect(_dsn())
    except psycopg.OperationalError as error:
        raise CommandError(f"no connection to the database: {error}") from None


def _is_mutating() -> bool:
    return not context.get_context().opts.get("dont_mutate")


def _prepare(connection: Connection) -> None:
    """Refuse what would go wrong, and make the room for the version table."""
    # At once: a database may end sessions that are idle in a transaction for some milliseconds.
    settings = [[name for name, _ in SESSION], [value for _, value in SESSION]]
    connection.execute(
        text("SELECT set_config(n, v, false) FROM unnest(CAST(:names AS text[]), CAST(:values AS text[])) AS s(n, v)"),
        {"names": settings[0], "values": settings[1]},
    )
    connection.commit()
    connection.execute(text("SELECT set_config('lock_timeout', :value, false)"), {"value": CHAIN_LOCK_TIMEOUT})
    try:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": CHAIN_LOCK})
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise CommandError("another migration chain is at work on this database; wait until it ends") from None
        raise
    versioned = connection.execute(text("SELECT to_regclass('pgtrickle.alembic_version') IS NOT NULL")).scalar()
    catalog = connection.execute(text("SELECT to_regclass('pgtrickle.pgt_stream_tables') IS NOT NULL")).scalar()
    if catalog and not versioned:
        raise CommandError(
            "schema pgtrickle holds an installation that this chain did not make;"
            " take it over with `harness migrate adopt`"
        )
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS pgtrickle"))
    connection.execute(text("SELECT set_config('lock_timeout', :value, false)"), {"value": CATALOG_LOCK_TIMEOUT})
    connection.commit()


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        transaction_per_migration=True,
        version_table=VERSION_TABLE,
        version_table_schema=VERSION_SCHEMA,
    )
    if _is_mutating():
        _prepare(connection)
    context.run_migrations()
    connection.commit()


def run_online() -> None:
    """Run on a database."""
    connection = context.config.attributes.get("connection")
    if isinstance(connection, Connection):
        _run(connection)
        return
    engine = create_engine("postgresql+psycopg://", creator=_open, poolclass=pool.NullPool)
    try:
        with engine.connect() as own:
            _run(own)
    finally:
        engine.dispose()


def run_offline() -> None:
    """Write the script for psql."""
    context.configure(
        dialect_name="postgresql",
        transaction_per_migration=True,
        version_table=VERSION_TABLE,
        version_table_schema=VERSION_SCHEMA,
        literal_binds=True,
    )
    output = context.get_context().impl.static_output
    output("\\set ON_ERROR_STOP on")
    for name, value in SESSION:
        output(f"SELECT pg_catalog.set_config('{name}', '{value}', false);")
    output("CREATE SCHEMA IF NOT EXISTS pgtrickle;")
    context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
