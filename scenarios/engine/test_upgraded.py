"""The demonstration of 0.2, upgraded: its stream tables are filled anew once, and follow their changes from then on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain.runner import upgrade
from harness.postgres import Node
from harness.rehearsal.demonstration import build_demonstration
from harness.rehearsal.tables import TableName
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal


def test_demonstration_is_taken_over(empty_database: Node) -> None:
    """Changes were captured before the upgrade and not applied, and some come after it."""
    upgrade(empty_database.dsn(), "0001")
    with empty_database.connect() as connection:
        made = build_demonstration(connection, rows=3_000, seed=20)
        assert made.pending_count > 0
        upgrade(empty_database.dsn())
        with StreamTables(connection) as stream_tables:
            listed = stream_tables.list()
            assert len(listed) == len(made.stream_tables)
            assert {table.storage_format for table in listed} == {None}
            active = [table.qualified for table in listed if table.status != "SUSPENDED"]
            for name in active:
                done = stream_tables.refresh(name)
                assert done.action == "REINITIALIZE", done
                assert_equal(connection, name)
            _delete_some(connection, made.sources)
            actions = {}
            for name in active:
                done = stream_tables.refresh(name)
                actions[name] = (done.action, done.reason)
                assert_equal(connection, name)
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                    connection.execute(b"DELETE FROM " + name.encode())
            wrong = {name: found for name, found in actions.items() if found[0] == "REINITIALIZE"}
            assert wrong == {}
            assert sum(action == "DIFFERENTIAL" for action, _reason in actions.values()) > len(active) / 2, actions
        keys = connection.execute(
            "SELECT count(*) FROM pgtrickle.pgt_stream_tables t WHERE t.storage_format IS NOT NULL AND NOT EXISTS"
            " (SELECT FROM pg_constraint c WHERE c.conrelid = t.pgt_relid AND c.contype = 'p')"
        ).fetchone()
        assert keys == (0,)


def _delete_some(connection: psycopg.Connection[TupleRow], sources: Iterable[TableName]) -> None:
    for source in sources:
        # What others refer to stays.
        with contextlib.suppress(psycopg.errors.IntegrityError):
            connection.execute(
                sql.SQL("DELETE FROM {0} WHERE ctid IN (SELECT ctid FROM {0} LIMIT 3)").format(source.identifier)
            )
