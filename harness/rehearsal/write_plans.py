"""How to write to any table: statements that change some of its rows, made from its catalog entry alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from harness.rehearsal.tables import Column, Connection, SourceTable, TableName

_INTEGERS = {"smallint": 30_000, "integer": 2_000_000_000, "bigint": 2**62}
_NUMBERS = ("numeric", "real", "double precision")
_TEXTS = ("text", "character varying", "character", "name")


class WriteKind(StrEnum):
    """What a statement does to some rows."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    REINSERT = "reinsert"


@dataclass(frozen=True)
class Leaf:
    """A table that holds rows itself: the source, or one of its partitions.

    Attributes:
        relid: its OID.
        table: its name.
        blocks: how many pages it had when it was looked at.
    """

    relid: int
    table: TableName
    blocks: int


@dataclass(frozen=True)
class WritePlan:
    """What there is to know of a table to write to it.

    Attributes:
        source: the table.
        leaves: where its rows are.
        fixed: columns that an update leaves alone: of keys, unique indexes, foreign keys and partition keys.
        fresh: columns that a new row needs a new value in: of keys and unique indexes.
        is_counted: nothing but a write to the table itself changes how many rows it has, as far as the catalog says.
    """

    source: SourceTable
    leaves: tuple[Leaf, ...]
    fixed: frozenset[str]
    fresh: frozenset[str]
    is_counted: bool

    @property
    def free_columns(self) -> tuple[Column, ...]:
        """The columns that an update may change."""
        return tuple(c for c in self.source.captured if c.name not in self.fixed and c.identity != "a")

    @property
    def has_free_columns(self) -> bool:
        """Whether an update can change anything."""
        return bool(self.free_columns)


_LEAVES_QUERY = """
SELECT s.oid::bigint, c.oid::bigint, n.nspname::text, c.relname::text,
       (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint)::int
  FROM pg_catalog.unnest(%s::oid[]) s (oid)
  CROSS JOIN LATERAL (SELECT s.oid AS relid UNION SELECT relid FROM pg_catalog.pg_partition_tree(s.oid) WHERE isleaf) t
  JOIN pg_catalog.pg_class c ON c.oid = t.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2
"""

# Expressions in a unique index or a partition key have attribute number 0: their columns are not known, and a
# violation is tolerated.
_FIXED_QUERY = """
SELECT k.relid::bigint, a.attname::text, bool_or(k.is_unique), bool_or(k.is_foreign)
  FROM (SELECT indrelid AS relid, unnest(indkey::int2[]) AS attnum, true AS is_unique, false AS is_foreign
          FROM pg_catalog.pg_index WHERE indisunique OR indisexclusion
        UNION ALL SELECT conrelid, unnest(conkey), false, true FROM pg_catalog.pg_constraint WHERE contype = 'f'
        UNION ALL SELECT confrelid, unnest(confkey), false, false FROM pg_catalog.pg_constraint WHERE contype = 'f'
        UNION ALL SELECT p.partrelid, unnest(p.partattrs::int2[]), false, false
          FROM pg_catalog.pg_partitioned_table p) k
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.relid AND a.attnum = k.attnum
 WHERE k.relid = ANY (%s::oid[]) GROUP BY 1, 2
"""

_CASCADED_QUERY = """
SELECT conrelid::bigint FROM pg_catalog.pg_constraint
 WHERE contype = 'f' AND (confdeltype <> 'a' AND confdeltype <> 'r') AND conrelid = ANY (%s::oid[])
"""

_TRIGGERED_QUERY = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
               WHERE NOT t.tgisinternal AND n.nspname NOT IN ('pgtrickle', 'pgtrickle_changes')
                 AND t.tgrelid = ANY (%s::oid[]))
"""


def fetch_write_plans(
    conn: Connection, sources: Sequence[SourceTable], *, triggers_stay_home: bool = False
) -> tuple[WritePlan, ...]:
    """Look at these tables once.

    Args:
        conn: where they are.
        sources: the tables.
        triggers_stay_home: the tables' own triggers are known to change no source's number of rows; otherwise, where
            any has one, no source's rows are counted.

    Returns:
        In the order of ``sources``; one without rows of its own and without partitions is left out.
    """
    relids = [source.relid for source in sources]
    leaves: dict[int, list[Leaf]] = {}
    for relid, leaf, schema, name, blocks in conn.execute(_LEAVES_QUERY, [relids]):
        leaves.setdefault(relid, []).append(Leaf(leaf, TableName(schema, name), blocks))
    fixed: dict[int, set[str]] = {}
    fresh: dict[int, set[str]] = {}
    for relid, column, is_unique, is_foreign in conn.execute(_FIXED_QUERY, [relids]):
        fixed.setdefault(relid, set()).add(column)
        if is_unique and not is_foreign:
            fresh.setdefault(relid, set()).add(column)
    cascaded = {row[0] for row in conn.execute(_CASCADED_QUERY, [relids])}
    triggered = conn.execute(_TRIGGERED_QUERY, [relids]).fetchone()
    may_be_written = bool(triggered and triggered[0]) and not triggers_stay_home
    return tuple(
        WritePlan(
            source,
            tuple(leaves[source.relid]),
            frozenset(fixed.get(source.relid, ())),
            frozenset(fresh.get(source.relid, ())),
            is_counted=not may_be_written and source.relid not in cascaded,
        )
        for source in sources
        if source.relid in leaves
    )


def _some_rows(leaf: Leaf, rng: random.Random, count: int) -> sql.Composed:
    """``FROM`` some rows in a row, from a random page on: no scan of the table, whatever its size and keys."""
    start = sql.Literal(f"({rng.randrange(max(1, leaf.blocks))},0)")
    return sql.SQL("FROM ONLY {} WHERE ctid >= {}::tid LIMIT {}").format(
        leaf.table.identifier, start, sql.Literal(count)
    )


def _fresh_value(column: Column, rng: random.Random) -> sql.Composable | None:
    """An expression for a value that no row has yet, another for each row of a statement; None: copy the row's own."""
    ordinal, own = sql.SQL("(row_number() OVER ())"), sql.Identifier(column.name)
    value: sql.Composable | None = None
    highest = _INTEGERS.get(column.base_type)
    if highest is not None:
        value = sql.SQL("({} + {})").format(sql.Literal(rng.randrange(highest // 2, highest - 1000)), ordinal)
    elif column.base_type == "numeric":
        value = sql.SQL("({} + {})").format(sql.Literal(rng.randrange(10**9)), ordinal)
    elif column.base_type in _TEXTS:
        # what the row has goes last, so that a domain that wants an @ or a suffix is content
        value = sql.SQL("({} || {} || {})").format(sql.Literal(f"{rng.getrandbits(40):x}-"), ordinal, own)
    elif column.base_type == "uuid":
        value = sql.SQL("md5({} || {})::uuid").format(sql.Literal(f"{rng.getrandbits(64):x} "), ordinal)
    elif column.base_type == "date":
        value = sql.SQL("({} + {}::int)").format(own, sql.Literal(rng.randrange(1, 4)))
    elif column.base_type.startswith("timestamp"):
        value = sql.SQL("({} + {} * interval '1 microsecond')").format(own, sql.Literal(rng.randrange(1, 10**9)))
    return value


def _changed_value(column: Column, leaf: Leaf, rng: random.Random) -> sql.Composable:
    """A value that the column takes: a simple one of its type, or what another row of the table has in it."""
    if rng.random() < 0.5:
        if column.base_type in _INTEGERS or column.base_type in _NUMBERS:
            return sql.Literal(rng.randrange(1, 10))
        if column.type_name == "text":
            return sql.Literal(f"w{rng.getrandbits(32):x}")
        if column.base_type == "boolean":
            return sql.SQL("NOT {}").format(sql.Identifier(column.name))
    donor = _some_rows(leaf, rng, 1)
    return sql.SQL("coalesce((SELECT {column} {donor}), {column})").format(
        column=sql.Identifier(column.name), donor=donor
    )


def _insert_query(plan: WritePlan, leaf: Leaf, rng: random.Random, count: int) -> sql.Composed:
    names, values = [], []
    for column in plan.source.captured:
        if column.identity == "a" or (column.name in plan.fresh and (column.draws_value or column.identity)):
            continue
        fresh = _fresh_value(column, rng) if column.name in plan.fresh else None
        names.append(sql.Identifier(column.name))
        values.append(fresh or sql.Identifier(column.name))
    if not names:
        return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(plan.source.table.identifier)
    comma = sql.SQL(", ")
    return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM (SELECT * {}) r").format(
        plan.source.table.identifier, comma.join(names), comma.join(values), _some_rows(leaf, rng, count)
    )


def _chosen(leaf: Leaf, rng: random.Random, count: int, lock: sql.SQL) -> sql.Composed:
    """The rows to change. Rows that another writer holds are skipped: a wait must be the migration's, not theirs."""
    return sql.SQL("ctid = ANY (ARRAY(SELECT ctid {} {} SKIP LOCKED)) AND tableoid = {}").format(
        _some_rows(leaf, rng, count), lock, sql.Literal(leaf.relid)
    )


def write_query(plan: WritePlan, kind: WriteKind, rng: random.Random, *, count: int = 1) -> sql.Composed:
    """One statement that changes some rows of a table, chosen at random; it may find none, or violate a constraint.

    Args:
        plan: the table.
        kind: what to do. A table with no column that may change gets an INSERT in place of an UPDATE.
        rng: where chance comes from: the same state gives the same statement.
        count: at most how many rows.
    """
    leaf = rng.choice(plan.leaves)
    if kind is WriteKind.UPDATE:
        free = plan.free_columns
        if free:
            assigned = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column.name), _changed_value(column, leaf, rng))
                for column in rng.sample(free, k=min(len(free), rng.randint(1, 2)))
            )
            chosen = _chosen(leaf, rng, count, sql.SQL("FOR NO KEY UPDATE"))
            return sql.SQL("UPDATE {} SET {} WHERE {}").format(plan.source.rows_from, assigned, chosen)
        kind = WriteKind.INSERT
    if kind is WriteKind.INSERT:
        return _insert_query(plan, leaf, rng, count)
    deleted = sql.SQL("DELETE FROM {} WHERE {}").format(
        plan.source.rows_from, _chosen(leaf, rng, count, sql.SQL("FOR UPDATE"))
    )
    if kind is WriteKind.DELETE:
        return deleted
    names = sql.SQL(", ").join([sql.Identifier(column.name) for column in plan.source.captured])
    return sql.SQL(
        "WITH gone AS ({} RETURNING {}) INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone"
    ).format(deleted, names, plan.source.table.identifier, names, names)
