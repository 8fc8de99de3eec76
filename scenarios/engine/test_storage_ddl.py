"""What its owner does to a stream table's own table: names, indexes and checks do no harm, writes are refused."""

from __future__ import annotations

import psycopg
import pytest

from harness.errors import CheckFailedError
from harness.postgres import Node
from scenarios.engine.shop import CHANGES, TOTALS, open_shop, refreshed

HARMLESS = {
    "rename": ("ALTER TABLE totals RENAME TO sums", "sums"),
    "move": ("CREATE SCHEMA other; ALTER TABLE totals SET SCHEMA other", "other.totals"),
    "index": ("CREATE INDEX ON totals (total)", "totals"),
    "unique": ("CREATE UNIQUE INDEX ON totals (customer)", "totals"),
    "check": ("ALTER TABLE totals ADD CHECK (n < 1000)", "totals"),
    "rewrite": ("ALTER TABLE totals SET UNLOGGED; ALTER TABLE totals SET LOGGED", "totals"),
    "full": ("VACUUM FULL totals", "totals"),
    "comment": ("COMMENT ON TABLE totals IS 'mine'; ALTER TABLE totals SET (fillfactor = 70)", "totals"),
}
REFUSED = (
    "INSERT INTO totals (__pgt_row_id, customer, __pgt_count) VALUES (1, 1, 1)",
    "UPDATE totals SET n = 0",
    "DELETE FROM totals WHERE false",
    "TRUNCATE totals",
    "MERGE INTO totals USING orders o ON totals.customer = o.id WHEN MATCHED THEN DELETE",
    "INSERT INTO totals SELECT * FROM totals ON CONFLICT DO NOTHING",
)
SETTINGS = (
    "default_transaction_isolation = 'serializable'",
    "search_path = ''",
    "standard_conforming_strings = off",
    "extra_float_digits = -15",
    "session_replication_role = replica",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "bytea_output = escape",
    "intervalstyle = 'sql_standard'",
    "timezone = 'Asia/Tokyo'",
    "client_encoding = 'LATIN1'",
    "lock_timeout = 1",
    "plan_cache_mode = force_generic_plan",
)


@pytest.mark.parametrize("what", HARMLESS)
def test_change_of_the_table_that_does_no_harm(database: Node, what: str) -> None:
    statements, name = HARMLESS[what]
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        for statement in statements.split("; "):
            connection.execute(statement.encode())
        for mode in (None, "FULL", None):
            connection.execute(CHANGES)
            assert refreshed(connection, stream_tables, name, mode=mode).action == (mode or "DIFFERENTIAL")
        stream_tables.drop(name)
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


def test_column_of_ones_own_does_not_stop_refreshes_and_is_seen_by_the_oracle(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        connection.execute("ALTER TABLE totals ADD COLUMN mine int NOT NULL DEFAULT 3")
        connection.execute(CHANGES)
        with pytest.raises(CheckFailedError, match="4 columns"):
            refreshed(connection, stream_tables, "totals")
        connection.execute("ALTER TABLE totals DROP COLUMN mine")
        assert refreshed(connection, stream_tables, "totals").action == "NO_DATA"


def test_everybodys_writes_are_refused_and_change_nothing(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        for statement in REFUSED:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="stream table"):
                connection.execute(statement.encode())
        with connection.cursor() as cursor, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):  # noqa: SIM117
            with cursor.copy("COPY totals FROM STDIN") as copy:
                copy.write("1\t1\t1\t1\t1\t1\n")
        assert refreshed(connection, stream_tables, "totals").action == "NO_DATA"


def test_settings_of_the_session_change_nothing(database: Node) -> None:
    query = r"""SELECT customer, count(*) AS n, sum(amount) AS t, min(note) AS low, max(placed) AS last, avg(score) AS s
        FROM public.orders WHERE note IS DISTINCT FROM 'a\b' GROUP BY customer"""
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("kept", query, None, "DIFFERENTIAL")
        stored = stream_tables.list()[0].query
        for setting in SETTINGS:
            with database.connect() as session:
                session.execute(b"SET " + setting.encode())
                with type(stream_tables)(session) as tables:
                    connection.execute(CHANGES)
                    done = tables.refresh("public.kept")
                    assert done.action == "DIFFERENTIAL", (setting, done.reason)
                    assert tables.explain("public.kept").mode == "DIFFERENTIAL"
                    assert tables.list()[0].query == stored
            assert refreshed(connection, stream_tables, "kept").action == "NO_DATA", setting
