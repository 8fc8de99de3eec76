"""Changing a setting of a running server for good."""

from __future__ import annotations

import psycopg
from psycopg import sql

from harness.errors import BadInputError
from harness.postgres.configuration import check_settings
from harness.postgres.node import Node
from harness.waiting import wait_until

# Their values are lists: each element is quoted by itself.
_LIST_SETTINGS = frozenset(
    (
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
    )
)
# A reload takes milliseconds; a busy machine may need longer to run the postmaster.
_RELOAD_DEADLINE_S = 10.0


def change_setting(node: Node, setting: str, value: str) -> bool:
    """ALTER SYSTEM on ``node``, reload, and wait until new sessions have it.

    Args:
        node: a server on which we are superuser.
        setting: its name.
        value: as in the configuration file; a list is separated by commas.

    Returns:
        True if it needs a restart to be in force.

    Raises:
        BadInputError: there is no such setting, or it does not take this value.
    """
    check_settings({setting: value})
    parts = [part.strip() for part in value.split(",")] if setting.lower() in _LIST_SETTINGS else [value]
    name = sql.SQL(".").join(sql.Identifier(part) for part in setting.split("."))
    before = node.value("SELECT pg_catalog.pg_conf_load_time()")
    try:
        node.sql(
            sql.SQL("ALTER SYSTEM SET {} = {}").format(name, sql.SQL(", ").join(sql.Literal(part) for part in parts))
        )
    except (psycopg.DataError, psycopg.ProgrammingError, psycopg.OperationalError) as error:
        raise BadInputError(
            f"{setting} = {value!r} was refused: {error.diag.message_primary}",
            hint=error.diag.message_hint or "see pg_settings",
            node=node.name,
            sqlstate=error.sqlstate,
        ) from None
    node.sql("SELECT pg_catalog.pg_reload_conf()")
    # The postmaster reads the file first and passes the signal on: when our session has read it, new ones have.
    wait_until(
        f"{setting} to be loaded",
        lambda: node.value("SELECT pg_catalog.pg_conf_load_time()") > before,
        deadline_s=_RELOAD_DEADLINE_S,
        poll_s=0.001,
    )
    found = node.rows(
        "SELECT pending_restart FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) = pg_catalog.lower(%s)",
        [setting],
    )
    return bool(found and found[0][0])
