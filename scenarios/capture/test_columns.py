"""Columns of every kind and name, and tables without a key: captured values are the table's own."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from scenarios.capture.capturing import Ground

# Each type with two values of it, as SQL writes them.
TYPES: dict[str, tuple[LiteralString, LiteralString, LiteralString]] = {
    "boolean": ("boolean", "true", "false"),
    "smallint": ("smallint", "'-32768'", "32767"),
    "integer": ("integer", "-1", "2147483647"),
    "bigint": ("bigint", "9223372036854775807", "0"),
    "numeric": ("numeric(20, 6)", "1234567.890123", "'NaN'"),
    "numeric-free": ("numeric", "0.00000000000000000000000001", "1e100"),
    "real": ("real", "0.1", "'Infinity'"),
    "double": ("double precision", "0.1", "'-0'"),
    "text": ("text", "E'tab\\t, \"quotes\" and ''quotes'' \\\\ 漢字'", "''"),
    "varchar": ("varchar(5)", "'abc  '", "''"),
    "char": ("char(5)", "'a'", "''"),
    "name": ("name", "'n'", "''"),
    "bytea": ("bytea", "'\\x00ff10'", "''"),
    "date": ("date", "'2026-11-21'", "'infinity'"),
    "time": ("time", "'23:59:59.999999'", "'00:00'"),
    "timetz": ("timetz", "'12:00+05'", "'00:00-11'"),
    "timestamp": ("timestamp", "'2026-11-21 10:00'", "'-infinity'"),
    "timestamptz": ("timestamptz", "'2026-11-21 10:00+03'", "'0001-01-01 00:00 BC'"),
    "interval": ("interval", "'1 mon 2 days -03:00'", "'0'"),
    "uuid": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"),
    "json": ("json", """'{{"b": 1,   "a": [1, null]}}'""", "'null'"),
    "jsonb": ("jsonb", """'{{"b": 1.0, "a": [1, null]}}'""", "'null'"),
    "inet": ("inet", "'10.0.0.1/8'", "'::1'"),
    "cidr": ("cidr", "'10.0.0.0/8'", "'::/0'"),
    "macaddr": ("macaddr", "'08:00:2b:01:02:03'", "'00:00:00:00:00:00'"),
    "point": ("point", "'(1,2)'", "'(-0.5,1e10)'"),
    "box": ("box", "'(1,1),(0,0)'", "'(2,2),(1,1)'"),
    "polygon": ("polygon", "'((0,0),(1,0),(1,1))'", "'((5,5),(6,6),(7,7))'"),
    "bit": ("bit varying(8)", "B'1010'", "B''"),
    "tsvector": ("tsvector", "'a b:3'", "''"),
    "int4range": ("int4range", "'[1,5)'", "'empty'"),
    "multirange": ("nummultirange", "'{{[1,2),[3,4)}}'", "'{{}}'"),
    "array": ("integer[][]", "'{{{{1,2}},{{3,NULL}}}}'", "'{{}}'"),
    "text-array": ("text[]", "ARRAY['a,b', NULL, '{{\"']", "'{{}}'"),
    "money": ("money", "'12.34'", "'-0.01'"),
    "pg_lsn": ("pg_lsn", "'0/1'", "'FF/0'"),
    "xid8": ("xid8", "'7'", "'18446744073709551615'"),
    "oid": ("oid", "4294967295", "0"),
    "enum": ("mood", "'sad'", "'happy'"),
    "domain": ("positive", "7", "8"),
    "composite": ("pair", "'(1,two)'", "'(,)'"),
}
OWN_TYPES: tuple[LiteralString, ...] = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE TYPE pair AS (a integer, b text)",
)
LARGE_VALUES: LiteralString = (
    "INSERT INTO {t} SELECT i, i, string_agg(md5(i || '-' || j), '') FROM generate_series(1, 12) i,"
    " generate_series(1, 1000) j GROUP BY i"
)
# Names of the engines' own columns and variables, and what has to be quoted.
HOSTILE_NAMES = (
    "new_id",
    "old_id",
    "action",
    "lsn",
    "xid",
    "seq_id",
    "shard_key",
    "Upper",
    'qu"ote',
    "it's",
    "a.b",
    "%s",
    "{}",
    "select",
    "n",
    "o",
    "__pgt_shard",
    "pk_hash",
    "change_id",
    " ",
    "漢字",
    "x" * 63,
)


@pytest.fixture(scope="module")
def made_types(any_ground: Ground) -> None:
    """An enum, a domain and a composite type, on every node."""
    with any_ground.cluster.coordinator.connect() as connection:
        for statement in OWN_TYPES:
            connection.execute(statement)


@pytest.mark.usefixtures("made_types")
def test_values_of_all_common_types_are_captured(ground: Ground) -> None:
    """One table with a column of each type: rows of values, of others, of NULLs, each changed to each."""
    with ground.cluster.coordinator.connect() as connection:
        name = ground.create(connection, "(id integer PRIMARY KEY)")
        adding = sql.SQL(", ").join(
            sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(f"c_{each}"), sql.SQL(TYPES[each][0])) for each in TYPES
        )
        connection.execute(sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(name), adding))
    with ground.captured("", name=name) as made:
        for row, which in enumerate((1, 2)):
            values = sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.SQL(each[which]).format(), sql.SQL(each[0])) for each in TYPES.values()
            )
            made.connection.execute(
                sql.SQL("INSERT INTO {} SELECT i * 2 + {}, {} FROM generate_series(1, 8) i").format(
                    made.table, sql.Literal(row), values
                )
            )
        made.run("INSERT INTO {t} (id) SELECT generate_series(100, 110)")
        made.assert_sums()
        for each, (written, one, _) in TYPES.items():
            column = sql.Identifier(f"c_{each}")
            made.connection.execute(
                sql.SQL(
                    "UPDATE {} SET {c} = CASE WHEN id % 3 = 0 THEN {v}::{t} WHEN id % 3 = 1 THEN NULL ELSE {c} END"
                ).format(made.table, c=column, v=sql.SQL(one).format(), t=sql.SQL(written))
            )
        made.assert_sums()
        made.run("DELETE FROM {t}")
        made.assert_sums()
        assert made.difference() == {}


def test_equal_rows_without_a_key_are_counted(ground: Ground) -> None:
    with ground.captured("(id integer, v text)", rows="INSERT INTO {t} VALUES (1, 'a'), (1, 'a'), (2, NULL)") as made:
        made.run("INSERT INTO {t} VALUES (1, 'a'), (1, 'a'), (2, NULL), (2, NULL), (3, NULL)")
        made.assert_sums()
        assert made.difference()["(1,a)"] == 2
        if made.placement != "distributed":  # Citus has no ctid to tell equal rows apart by
            made.run("DELETE FROM {t} WHERE ctid = (SELECT min(ctid) FROM {t} WHERE id = 1)")
            made.assert_sums()
            assert made.difference()["(1,a)"] == 1
        made.run("UPDATE {t} SET v = 'b' WHERE v IS NULL")
        made.run("UPDATE {t} SET v = 'a'")
        made.assert_sums()
        made.run("DELETE FROM {t} WHERE id <= 2")
        made.assert_sums()


def test_rows_of_nulls_are_captured(ground: Ground) -> None:
    with ground.captured("(id integer, v text, n numeric)") as made:
        made.run("INSERT INTO {t} SELECT i, NULL, NULL FROM generate_series(1, 20) i")
        made.run("UPDATE {t} SET v = 'x', n = 1 WHERE id <= 10")
        made.run("UPDATE {t} SET v = NULL, n = NULL")
        assert made.actions() == {"D": 30, "I": 50}
        made.assert_sums()


def test_null_as_the_distribution_column_is_refused_by_citus_and_else_captured(ground: Ground) -> None:
    with ground.captured("(id integer, v text)") as made:
        if made.placement == "distributed":
            with pytest.raises(psycopg.errors.Error, match="NULL"):
                made.run("INSERT INTO {t} VALUES (NULL, NULL)")
            assert made.actions() == {}
        else:
            made.run("INSERT INTO {t} VALUES (NULL, NULL)")
            assert made.actions() == {"I": 1}
        made.assert_sums()


def test_generated_columns_are_left_out_and_the_others_captured(ground: Ground) -> None:
    columns: LiteralString = "(id integer, a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED, b text)"
    with ground.captured(columns, rows="INSERT INTO {t} (id, a) SELECT i, i FROM generate_series(1, 20) i") as made:
        made.run("UPDATE {t} SET a = a + 1, b = 'x'")
        made.run("INSERT INTO {t} (id, a) VALUES (50, 5)")
        made.run("DELETE FROM {t} WHERE twice > 20")
        made.assert_sums()
        assert all("twice" not in column for column in _buffer_columns(made.connection, made.stable))


@pytest.mark.postgres(">= 18")
def test_virtual_columns_are_left_out_and_the_others_captured(ground: Ground) -> None:
    with ground.captured("(id integer, a integer, twice integer GENERATED ALWAYS AS (a * 2))") as made:
        made.run("INSERT INTO {t} (id, a) SELECT i, i FROM generate_series(1, 20) i")
        made.run("UPDATE {t} SET a = a + 1 WHERE twice > 20")
        made.assert_sums()


@pytest.mark.parametrize(
    "columns",
    [
        "(id integer, n bigint GENERATED ALWAYS AS IDENTITY, v text)",
        "(id integer, n bigint GENERATED BY DEFAULT AS IDENTITY, v text)",
        "(id integer, n bigserial, v text)",
    ],
    ids=["always", "by-default", "serial"],
)
def test_identity_columns_are_captured(ground: Ground, columns: LiteralString) -> None:
    with ground.captured(columns) as made:
        made.run("INSERT INTO {t} (id, v) SELECT i, 'a' FROM generate_series(1, 30) i")
        made.run("UPDATE {t} SET v = 'b' WHERE id <= 10")
        made.run("DELETE FROM {t} WHERE id > 20")
        made.assert_sums()


def test_columns_dropped_before_and_during_capture_are_followed(ground: Ground) -> None:
    with ground.cluster.coordinator.connect() as connection:
        name = ground.create(connection, "(gone text, id integer, a text, b integer, c text)")
        connection.execute(sql.SQL("ALTER TABLE {} DROP COLUMN gone").format(sql.Identifier(name)))
    with ground.captured(
        "", name=name, rows="INSERT INTO {t} SELECT i, 'a', i, 'c' FROM generate_series(1, 20) i"
    ) as made:
        made.run("UPDATE {t} SET b = b + 1")
        made.assert_sums()
        made.run("ALTER TABLE {t} DROP COLUMN a")
        made.reset()
        made.run("UPDATE {t} SET b = b + 1, c = 'd'")
        made.run("INSERT INTO {t} VALUES (100, 1, 'e')")
        made.assert_sums()
        made.run("ALTER TABLE {t} ADD COLUMN d numeric DEFAULT 1.5")
        made.reset()
        made.run("UPDATE {t} SET d = d + id")
        made.run("DELETE FROM {t} WHERE id < 10")
        made.assert_sums()


def test_toasted_values_are_captured_whole(ground: Ground) -> None:
    """Values that live outside the row, also where a statement does not touch them: the old image has them whole."""
    with ground.captured("(id integer, a integer, body text)", rows=LARGE_VALUES) as made:
        made.run(LARGE_VALUES)
        made.run("UPDATE {t} SET a = a + 1")
        made.run("UPDATE {t} SET body = body || 'x' WHERE id % 3 = 0")
        made.run("DELETE FROM {t} WHERE id % 4 = 0")
        made.assert_sums()
        # What was captured stays when the row that it came from is gone, and its space is used again.
        made.connection.execute(sql.SQL("VACUUM {}").format(made.table))
        made.assert_sums()


def test_hostile_names_are_captured(ground: Ground) -> None:
    with ground.cluster.coordinator.connect() as connection:
        name = "Ta\"ble %I $1 of '" + ground.placement
        adding = sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(each)) for each in HOSTILE_NAMES)
        connection.execute(sql.SQL("CREATE TABLE {} (id integer, {})").format(sql.Identifier(name), adding))
        ground.place(connection, name)
    with ground.captured("", name=name) as made:
        values = sql.SQL(", ").join(sql.SQL("i") for _ in HOSTILE_NAMES)
        made.connection.execute(
            sql.SQL("INSERT INTO {} SELECT i, {} FROM generate_series(1, 20) i").format(made.table, values)
        )
        for each in HOSTILE_NAMES:
            column = sql.Identifier(each)
            made.connection.execute(sql.SQL("UPDATE {} SET {c} = {c} + 1 WHERE id < 8").format(made.table, c=column))
        made.run("DELETE FROM {t} WHERE id > 15")
        made.assert_sums()


def test_column_names_that_are_equal_when_cut_are_refused_and_nothing_remains(ground: Ground) -> None:
    """A name may have 63 bytes, and the buffer puts ``new_`` before: two that differ only at the end become one."""
    with ground.cluster.coordinator.connect() as connection:
        first, second = (sql.Identifier("y" * 62 + end) for end in "ab")
        name = ground.create(connection, "(id integer)")
        table = sql.Identifier(name)
        connection.execute(sql.SQL("ALTER TABLE {} ADD {} integer, ADD {} integer").format(table, first, second))
        with pytest.raises(psycopg.errors.DuplicateColumn):
            connection.execute("SELECT pgtrickle.install_capture(%s::regclass)", [name])
        tracked = "SELECT count(*) FROM pgtrickle.pgt_change_tracking WHERE source_relid = %s::regclass"
        assert connection.execute(tracked, [name]).fetchone() == (0,)
        connection.execute(sql.SQL("DROP TABLE {}").format(table))


def _buffer_columns(connection: psycopg.Connection[tuple[object, ...]], stable: str) -> list[str]:
    return [
        str(row[0])
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attnum > 0 AND attrelid = %s::regclass",
            [f"pgtrickle_changes.changes_{stable}"],
        )
    ]
