"""The best SQL that a person would write by hand for a refresh: the same delta, the same transaction, its own table.

It knows more than the engine: which tables change, which columns are the key, that nobody else reads the buffer. On a
cluster it reads and deletes the buffer at each worker's own time, which loses what is committed in between; the engine
may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from harness.trickle.canonical import plain_query

Connection = psycopg.Connection[TupleRow]


class Home(StrEnum):
    """Where a stream table is: on one server, or on 1+2 in one of the three placements."""

    SERVER = "server"
    LOCAL = "local"
    REFERENCE = "reference"
    DISTRIBUTED = "distributed"

    @property
    def has_citus(self) -> bool:
        """Whether it is on the cluster."""
        return self is not Home.SERVER


@dataclass(frozen=True)
class Operator:
    """A query, and what a person knows of it.

    Attributes:
        name: for people.
        query: of the stream table, over the tables of `harness.bench.sales`.
        columns: of the table kept by hand, as SQL writes them.
        key: its primary key.
        values: its other columns.
        delta: its changes, a row for each key: the rows kept by key have ``stays``, groups have the numbers to add.
        distribution_column: what a person would distribute it by.
        is_beside_source: whether that is the source's own, so that the change goes in shard by shard.
        is_grouped: whether its values are numbers that add up; the first of them counts rows.
    """

    name: str
    query: str
    columns: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    delta: sql.SQL
    distribution_column: str
    is_beside_source: bool
    is_grouped: bool


# What came and went, equal rows added up, one row a key. {new} and {old} are the distribution column's images.
_BY_KEY = sql.SQL("""
    SELECT id, customer, max(product) FILTER (WHERE w > 0) AS product, max(amount) FILTER (WHERE w > 0) AS amount,
           bool_or(w > 0) AS stays
    FROM (SELECT id, customer, product, amount, sum(w) AS w
          FROM (SELECT new_id AS id, {new} AS customer, new_product AS product, new_amount AS amount, 1 AS w
                FROM hand_buffer WHERE action = 'I'
                UNION ALL
                SELECT old_id, {old}, old_product, old_amount, -1 FROM hand_buffer WHERE action = 'D') AS image
          WHERE {which} GROUP BY id, customer, product, amount HAVING sum(w) <> 0) AS net
    GROUP BY id, customer""")
_KEY = ("customer", "id")

FILTER = Operator(
    "filter",
    "SELECT id, customer, amount FROM facts WHERE amount >= 500",
    "id bigint, customer integer, amount numeric(12,2)",
    _KEY,
    ("amount",),
    _BY_KEY,
    "customer",
    is_beside_source=True,
    is_grouped=False,
)
FEW_GROUPS = Operator(
    "aggregate_1000",
    "SELECT few, count(*) AS n, sum(amount) AS total FROM facts GROUP BY few",
    "few integer, n bigint NOT NULL, total numeric",
    ("few",),
    ("n", "total"),
    sql.SQL(
        "SELECT coalesce(new_few, old_few) AS few, sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) AS n,"
        " sum(coalesce(new_amount, -old_amount)) AS total FROM hand_buffer GROUP BY 1"
    ),
    "few",
    is_beside_source=False,
    is_grouped=True,
)
MANY_GROUPS = Operator(
    "aggregate_100000",
    "SELECT customer, count(*) AS n, sum(amount) AS total FROM facts GROUP BY customer",
    "customer integer, n bigint NOT NULL, total numeric",
    ("customer",),
    ("n", "total"),
    sql.SQL(
        "SELECT {either} AS customer, sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) AS n,"
        " sum(coalesce(new_amount, -old_amount)) AS total FROM hand_buffer GROUP BY 1"
    ),
    "customer",
    is_beside_source=True,
    is_grouped=True,
)
DISTINCT = Operator(
    "distinct",
    "SELECT DISTINCT many FROM facts",
    "many integer, n bigint NOT NULL",
    ("many",),
    ("n",),
    sql.SQL(
        "SELECT coalesce(new_many, old_many) AS many, sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) AS n"
        " FROM hand_buffer GROUP BY 1 HAVING sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) <> 0"
    ),
    "many",
    is_beside_source=False,
    is_grouped=True,
)
JOIN = Operator(
    "join",
    "SELECT f.id, f.customer, f.amount, c.name FROM facts f JOIN customers c ON c.customer = f.customer",
    "id bigint, customer integer, amount numeric(12,2), name text",
    _KEY,
    ("amount", "name"),
    sql.SQL(
        "SELECT d.id, d.customer, d.amount, c.name, d.stays FROM ({by_key}) AS d"
        " JOIN customers c ON c.customer = d.customer"
    ),
    "customer",
    is_beside_source=True,
    is_grouped=False,
)
JOIN_3 = Operator(
    "join_3",
    "SELECT f.id, f.customer, f.amount, c.name, p.label FROM facts f JOIN customers c ON c.customer = f.customer"
    " JOIN products p ON p.product = f.product",
    "id bigint, customer integer, amount numeric(12,2), name text, label text",
    _KEY,
    ("amount", "name", "label"),
    sql.SQL(
        "SELECT d.id, d.customer, d.amount, c.name, p.label, d.stays FROM ({by_key}) AS d"
        " JOIN customers c ON c.customer = d.customer LEFT JOIN products p ON p.product = d.product"
    ),
    "customer",
    is_beside_source=True,
    is_grouped=False,
)
OPERATORS: dict[str, Operator] = {each.name: each for each in (FILTER, FEW_GROUPS, MANY_GROUPS, JOIN, JOIN_3, DISTINCT)}


class ByHand:
    """A table that a person keeps by hand, and its buffer.

    Args:
        connection: to the coordinator or the server.
        operator: what it holds.
        home: where it is.
    """

    def __init__(self, connection: Connection, operator: Operator, home: Home) -> None:
        self._connection = connection
        self._operator = operator
        self._home = home
        self._statements = self._plan()

    def make(self, table: str) -> None:
        """Make a table of the operator's columns beside the stream table, and fill it."""
        operator = self._operator
        name = sql.Identifier(table)
        self._connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, plain_query(operator.columns)))
        if self._home is Home.REFERENCE:
            self._connection.execute("SELECT create_reference_table(%s)", [table])
        elif self._home is Home.DISTRIBUTED:
            beside = "facts" if operator.is_beside_source else "none"
            self._connection.execute(
                "SELECT create_distributed_table(%s, %s, colocate_with => %s)",
                [table, operator.distribution_column, beside],
            )
        self.fill(table)
        self._connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, _names(operator.key)))
        self._connection.execute(sql.SQL("ANALYZE {}").format(name))

    def fill(self, table: str) -> None:
        """Put the query's rows into a table that is empty."""
        operator = self._operator
        query = "SELECT many, count(*) AS n FROM facts GROUP BY many" if operator is DISTINCT else operator.query
        shown = (*operator.key, *operator.values)
        self._connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ({}) AS q").format(
                sql.Identifier(table), _names(shown), _names(shown), plain_query(query)
            )
        )

    def recompute(self, table: str) -> None:
        """Compute the query into a table anew, in one transaction; readers see the old rows until it ends."""
        with self._connection.transaction():
            self._connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            self.fill(table)

    def refresh(self) -> None:
        """Bring the table up to date from its buffer, and empty that, in one transaction."""
        with self._connection.transaction():
            if not self._home.has_citus:
                self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for statement in self._statements:
                self._connection.execute(statement)
            if self._operator.is_grouped and not self._is_merged:
                self._remove_empty()
            self._connection.execute("DELETE FROM hand_buffer")

    # the statements

    @property
    def _is_merged(self) -> bool:
        return self._home in {Home.SERVER, Home.LOCAL} or self._is_pushed_down

    @property
    def _is_pushed_down(self) -> bool:
        return self._home is Home.DISTRIBUTED and self._operator.is_beside_source

    @property
    def _delta(self) -> sql.Composed:
        if self._home.has_citus:
            images: dict[str, sql.Composable] = dict.fromkeys(("new", "old", "either"), sql.SQL("shard_key"))
        else:
            images = {
                "new": sql.SQL("new_customer"),
                "old": sql.SQL("old_customer"),
                "either": sql.SQL("coalesce(new_customer, old_customer)"),
            }
        which = sql.SQL("amount >= 500") if self._operator is FILTER else sql.SQL("true")
        return self._operator.delta.format(by_key=_BY_KEY.format(which=which, **images), which=which, **images)

    def _plan(self) -> list[sql.Composed]:
        if self._home is Home.SERVER or self._is_pushed_down:
            return [self._merge(sql.SQL("({})").format(self._delta))]
        staged = sql.SQL("CREATE TEMPORARY TABLE hand_delta ON COMMIT DROP AS {}").format(self._delta)
        if self._is_merged:
            return [staged, self._merge(sql.SQL("hand_delta"))]
        return [staged, *self._upsert()]

    def _merge(self, delta: sql.Composable) -> sql.Composed:
        operator = self._operator
        gone = sql.SQL("t.n + d.n = 0") if operator.is_grouped else sql.SQL("NOT d.stays")
        comes = sql.SQL("d.n <> 0") if operator.is_grouped else sql.SQL("d.stays")
        shown = (*operator.key, *operator.values)
        return sql.SQL(
            "MERGE INTO hand AS t USING {} AS d ON {} WHEN MATCHED AND {} THEN DELETE WHEN MATCHED THEN UPDATE SET {}"
            " WHEN NOT MATCHED AND {} THEN INSERT ({}) VALUES ({})"
        ).format(delta, self._match(), gone, self._set("t", "d"), comes, _names(shown), _of("d", shown))

    def _upsert(self) -> Sequence[sql.Composed]:
        operator = self._operator
        shown = (*operator.key, *operator.values)
        insert = sql.SQL(
            "INSERT INTO hand AS t ({}) SELECT {} FROM hand_delta AS d {} ON CONFLICT ({}) DO UPDATE SET {}"
        )
        which = sql.SQL("") if operator.is_grouped else sql.SQL("WHERE d.stays")
        statements = [
            insert.format(_names(shown), _of("d", shown), which, _names(operator.key), self._set("t", "excluded"))
        ]
        if not operator.is_grouped:
            gone = sql.SQL("DELETE FROM hand AS t USING hand_delta AS d WHERE {} AND NOT d.stays").format(self._match())
            statements.insert(0, gone)
        return statements

    def _remove_empty(self) -> None:
        row = self._connection.execute("SELECT 1 FROM hand_delta WHERE n < 0 LIMIT 1").fetchone()
        if row is not None:
            key = _names(self._operator.key)
            self._connection.execute(
                sql.SQL("DELETE FROM hand WHERE {} IN (SELECT {} FROM hand_delta WHERE n < 0) AND n = 0").format(
                    key, key
                )
            )

    def _match(self) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("t.{0} = d.{0}").format(sql.Identifier(name)) for name in self._operator.key
        )

    def _set(self, old: str, new: str) -> sql.Composed:
        form = sql.SQL("{0} = {1}.{0} + {2}.{0}") if self._operator.is_grouped else sql.SQL("{0} = {2}.{0}")
        return sql.SQL(", ").join(
            form.format(sql.Identifier(name), sql.Identifier(old), sql.Identifier(new))
            for name in self._operator.values
        )


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _of(alias: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)
