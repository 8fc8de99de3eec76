"""Names that break what is put together carelessly: quotes, dots, percent signs, braces, 63 bytes, keywords."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.clusters import Cluster
from harness.errors import RefusedError
from harness.matrix.proofs import location, prove_captured_on_workers, prove_source
from harness.matrix.stage import Stage, open_stage
from harness.matrix.tables import Table
from harness.postgres import Node

SCHEMA = "S\"ch'é; --"
SOURCE = Table(SCHEMA, "Ta'b\"le %s {0} $1 \\")
OTHER = Table(SCHEMA, "ünïcödé." + "x" * 40)
STREAM = Table(SCHEMA, 'St."re\'am" %I')
JOINED = Table(SCHEMA, "y" * 63)
# Columns: keywords, names of our own functions' variables, of 63 bytes that are equal in all but the last.
GROUP, AMOUNT, LONG, TWIN = "group", "A mount %s \"q\" 'p'", "z" * 62 + "1", "z" * 62 + "2"
OURS = ("shard_key", "seq_id", "action", "xid", "lsn", "new_id")


def _columns() -> sql.Composed:
    typed = [(GROUP, "text"), (AMOUNT, "numeric"), (LONG, "integer"), *((name, "integer") for name in OURS)]
    return sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in typed)


def begin(stage: Stage, placement: str) -> None:
    stage.run(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    for table in (SOURCE, OTHER):
        stage.run(sql.SQL('CREATE TABLE {} ("id" bigint PRIMARY KEY, {})').format(table.identifier, _columns()))
        if placement == "distributed":
            stage.run("SELECT create_distributed_table(%s::regclass, 'id')", [table.qualified])
    grouped = sql.SQL(
        "SELECT {group}, count(*) AS {count}, sum({amount}) AS {sum} FROM {source} GROUP BY {group}"
    ).format(
        group=sql.Identifier(GROUP),
        count=sql.Identifier('c"ount'),
        amount=sql.Identifier(AMOUNT),
        sum=sql.Identifier("%s"),
        source=SOURCE.identifier,
    )
    joined = sql.SQL(
        "SELECT a.id, a.{group}, b.{long} AS {twin}, b.seq_id, a.xid, a.action, a.new_id FROM {source} a"
        " JOIN {other} b ON a.id = b.id WHERE a.{amount} > 5"
    ).format(
        group=sql.Identifier(GROUP),
        long=sql.Identifier(LONG),
        twin=sql.Identifier(TWIN),
        source=SOURCE.identifier,
        other=OTHER.identifier,
        amount=sql.Identifier(AMOUNT),
    )
    for table, query in ((STREAM, grouped), (JOINED, joined)):
        created = stage.own.create(
            table.qualified, query.as_string(), schedule=None, mode="DIFFERENTIAL", placement=placement
        )
        assert (created.schema, created.name) == (table.schema, table.name)
        assert location(stage, table)[0] == placement


def write(stage: Stage, first: int) -> None:
    """40 rows into each, some of them changed, some of them gone: 36 stay."""
    for table in (SOURCE, OTHER):
        stage.run(
            sql.SQL(
                "INSERT INTO {} SELECT i, {} || i % 3, i, i, i, i, i, i, i, i FROM generate_series({}, {}) i"
            ).format(table.identifier, "g'\"%s", first, first + 39)
        )
        stage.run(
            sql.SQL("UPDATE {table} SET {group} = NULL, {amount} = {amount} + 1 WHERE id % 7 = 0").format(
                table=table.identifier, group=sql.Identifier(GROUP), amount=sql.Identifier(AMOUNT)
            )
        )
        stage.run(sql.SQL("DELETE FROM {} WHERE id BETWEEN {} AND {}").format(table.identifier, first, first + 3))


def check(stage: Stage, placement: str) -> None:
    """Capture, refresh, compare, drop."""
    begin(stage, placement)
    names = (STREAM.qualified, JOINED.qualified)
    for turn in range(3):
        write(stage, 1 + 100 * turn)
        if turn == 0:
            prove_source(stage, SOURCE, placement)
            if placement == "distributed":
                prove_captured_on_workers(stage, SOURCE)
        for name in names:
            assert stage.tables.refresh(name).action == "DIFFERENTIAL"
        stage.require_oracle(*names)
        stage.require_count(SOURCE.identifier, 36 * (turn + 1), "source")
    counted = sql.SQL("SELECT sum({})::int FROM {}").format(sql.Identifier('c"ount'), STREAM.identifier)
    assert stage.value(counted) == 108
    for name in names:
        stage.tables.drop(name)
    assert stage.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0


def test_columns_whose_captured_names_would_be_one_are_refused(database: Node) -> None:
    """A buffer's columns are the source's with four characters before them, cut off after 63 bytes."""
    with open_stage(Cluster("plain", database, ())) as stage:
        stage.run(
            sql.SQL("CREATE TABLE twins (id int PRIMARY KEY, {} int, {} int)").format(
                sql.Identifier(LONG), sql.Identifier(TWIN)
            )
        )
        with pytest.raises(RefusedError, match=r"z{59}"):
            stage.tables.create("ids", "SELECT id FROM twins", mode="DIFFERENTIAL")
        assert stage.own.list() == []
        assert stage.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0
        stage.run("INSERT INTO twins VALUES (1, 2, 3)")


def test_hostile_identifiers_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check(stage, "local")


@pytest.mark.citus(">= 13")
def test_hostile_identifiers_of_distributed_tables(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        check(stage, "distributed")
