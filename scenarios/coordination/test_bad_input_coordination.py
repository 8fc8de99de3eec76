"""What cannot be is refused by naming it and the command that mends it: exit code 2, nothing changed."""

from __future__ import annotations

import pytest

from harness.errors import BadInputError, StreamTableNotFoundError, UnsupportedVersionError
from harness.postgres import Node
from harness.scheduler.sessions import Session
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.trickle.repair import repair
from scenarios.coordination.clients import client, st
from scenarios.coordination.stages import change, prepare


def _refused(node: Node, *arguments: str) -> str:
    """What a command says when it refuses."""
    with client(st(*arguments), node.dsn()) as refused:
        code, out, complaint = refused.end()
    assert code == 2, (code, out, complaint)
    assert "Traceback" not in complaint
    return " ".join(complaint.split())


@pytest.mark.parametrize(
    ("version", "mend"), [("0007", "harness migrate up"), ("0009", "harness migrate up"), ("9999", "pip install -U")]
)
def test_catalog_of_another_version_is_named_with_its_mend(database: Node, version: str, mend: str) -> None:
    prepare(database, is_distributed=False)
    change(database)
    before = database.rows("SELECT to_jsonb(t)::text FROM pgtrickle.pgt_stream_tables t")
    head = str(database.value("SELECT version_num FROM pgtrickle.alembic_version"))
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = %s", [version])
    for arguments in (("refresh", "balances"), ("list",), ("drop", "balances"), ("repair",)):
        complaint = _refused(database, *arguments)
        assert version in complaint
        assert mend in complaint
    with database.connect() as connection:
        with pytest.raises(UnsupportedVersionError, match=version):
            StreamTables(connection)
        with pytest.raises(UnsupportedVersionError, match=version):
            repair(connection)
    assert database.rows("SELECT to_jsonb(t)::text FROM pgtrickle.pgt_stream_tables t") == before
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = %s", [head])
    with database.connect() as connection, StreamTables(connection) as tables:
        tables.refresh("balances")
        assert_equal(connection, "balances")


def test_lease_of_a_table_that_was_dropped_is_refused(database: Node) -> None:
    prepare(database, is_distributed=False)
    with database.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        number = tables.list()[0].pgt_id
        tables.drop("balances")
        with pytest.raises(StreamTableNotFoundError, match="dropped") as caught, tables.leases.held(number, "balances"):
            pass
        assert caught.value.exit_code == 2
        assert "harness st list" in caught.value.hint
        assert database.value("SELECT count(*) FROM pgtrickle.st_locks") == 0
    assert "harness st list" in _refused(database, "refresh", "balances")


@pytest.mark.parametrize("schedule", ["every day", "0s", "61 * * * *", "5x"])
def test_schedule_that_cannot_be_read_changes_nothing(database: Node, schedule: str) -> None:
    prepare(database, is_distributed=False, schedule="1m")
    assert repr(schedule)[1:-1] in _refused(database, "alter", "balances", "--schedule", schedule)
    with database.connect() as connection, StreamTables(connection) as tables:
        with pytest.raises(BadInputError):
            tables.create("more", "SELECT id FROM entries", schedule)
        assert [(found.name, found.schedule) for found in tables.list()] == [("balances", "1m")]


def test_session_with_another_date_style_works(database: Node) -> None:
    with database.connect() as connection:
        connection.execute("SET DateStyle = 'German, DMY'")
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        with StreamTables(connection) as tables:
            tables.create("kept", "SELECT id FROM t", None)
            connection.execute("INSERT INTO t VALUES (1)")
            assert tables.refresh("kept").action == "DIFFERENTIAL"
            assert tables.list()[0].last_refresh_at is not None
            assert_equal(connection, "kept")
        assert connection.execute("SHOW DateStyle").fetchone() == ("German, DMY",)


def test_locked_source_is_no_wait_for_a_lease(database: Node) -> None:
    prepare(database, is_distributed=False)
    database.sql("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true")
    number = int(database.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables"))
    session = Session(database.dsn(), 3)
    try:
        with database.connect() as holder, StreamTables(holder) as tables, tables.leases.held(number, "balances"):
            outcome = session.refresh(number, "balances")
            assert outcome.is_locked
            assert outcome.has_met_holder
        with database.transaction() as person:
            person.execute("LOCK TABLE entries")
            outcome = session.refresh(number, "balances")
            assert outcome.is_locked
            assert not outcome.has_met_holder
    finally:
        session.close()
