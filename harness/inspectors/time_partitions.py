"""`citus_time_partitions_inspector`: partitions by time with their bounds, and the gaps between them.

The view ``time_partitions`` is never read: one MINVALUE or MAXVALUE bound anywhere in the database makes it crash the
server (inspectors.md, finding 1). ``pg_get_expr(relpartbound, 0)`` says the same, and waits for no lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import (
    Cost,
    Envelope,
    Finding,
    Found,
    Inspector,
    Reason,
    Severity,
    Source,
    Unavailable,
)
from harness.inspectors.inputs import Listing, choice, flag, identifier, integer
from harness.inspectors.session import Session
from harness.inspectors.tables import quoted
from harness.inspectors.time_bounds import INTERVALS, Bound, count_missing, read_bounds

# Range, one column that is no expression (0 in partattrs), as the view has it. Which types are of time is asked later:
# the flag for the view needs all of them.
_QUERY: LiteralString = """
    SELECT n.nspname, p.relname, a.attname, pg_catalog.format_type(a.atttypid, NULL),
           d.logicalrelid IS NOT NULL, cn.nspname, c.relname, pg_catalog.pg_get_expr(c.relpartbound, 0), m.amname
      FROM pg_catalog.pg_partitioned_table t
      JOIN pg_catalog.pg_class p ON p.oid = t.partrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0]
      LEFT JOIN pg_catalog.pg_dist_partition d ON d.logicalrelid = p.oid
      LEFT JOIN (pg_catalog.pg_inherits i
                 JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
                 JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
                 LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam) ON i.inhparent = p.oid
     WHERE t.partstrat = 'r' AND t.partnatts = 1 AND t.partattrs[0] > 0
"""
_NOW: LiteralString = "SELECT pg_catalog.now()::timestamp"
_TIME_TYPES = ("date", "timestamp without time zone", "timestamp with time zone")


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which partitioned tables, and how far ahead partitions should be there."""

    schema: str | None = identifier(None, "only parents of this schema, as the catalog spells it")
    parent: str | None = identifier(None, "only parents of this name, as the catalog spells it")
    distributed_only: bool = flag(True, "only parents that Citus knows")
    time_only: bool = flag(True, "only parents partitioned by a date or a timestamp")
    interval: str = choice("auto", ("auto", *INTERVALS), "the width of a partition, to count missing ones")
    horizon_days: int = integer(30, 0, 3660, "how many days from now should be covered")


@dataclass(frozen=True)
class Row:
    """One partition; a parent that has none is one row with ``partition`` None.

    Attributes:
        schema, parent: the partitioned table.
        column, type: what it is partitioned by.
        position: its place among the partitions of its parent by the lower bound, from 1; DEFAULT comes last.
        partition_schema, partition: the partition.
        lower, upper: ISO 8601, in UTC where the column has a zone; MINVALUE and MAXVALUE; None for DEFAULT.
        gap_before: whether values between this partition and the one before it belong to neither.
        covers_now: whether a row of now would come here.
        missing_until_horizon: of the parent: how many partitions are missing between now and the horizon; None where
            no interval can be told.
    """

    schema: str
    parent: str
    column: str
    type: str
    position: int
    partition_schema: str | None
    partition: str | None
    lower: str | None
    upper: str | None
    is_default: bool
    access_method: str | None
    is_distributed: bool
    gap_before: bool
    covers_now: bool | None
    missing_until_horizon: int | None


@dataclass(frozen=True)
class _Partition:
    row: Row
    bound: Bound


def _is_wanted(inputs: Inputs, row: Row) -> bool:
    return (
        inputs.schema in (None, row.schema)
        and inputs.parent in (None, row.parent)
        and (row.is_distributed or not inputs.distributed_only)
        and (row.type in _TIME_TYPES or not inputs.time_only)
    )


def _read(record: tuple[Any, ...]) -> _Partition:
    schema, parent, column, kind, is_distributed, partition_schema, partition, expression, method = record
    bound = read_bounds(expression, is_time=kind in _TIME_TYPES)
    row = Row(
        schema=schema,
        parent=parent,
        column=column,
        type=kind,
        position=1,
        partition_schema=partition_schema,
        partition=partition,
        lower=bound.lower,
        upper=bound.upper,
        is_default=bound.is_default,
        access_method=method,
        is_distributed=is_distributed,
        gap_before=False,
        covers_now=None,
        missing_until_horizon=None,
    )
    return _Partition(row, bound)


def _of_parent(partitions: list[_Partition], inputs: Inputs, now: Any) -> list[Row]:
    is_time = partitions[0].row.type in _TIME_TYPES
    partitions = sorted(partitions, key=lambda each: (each.bound.sort_key, each.row.partition or ""))
    bounds = [each.bound for each in partitions if each.row.partition is not None and not each.bound.is_default]
    missing = count_missing(bounds, now, inputs.horizon_days, inputs.interval) if is_time else None
    rows = []
    before: Bound | None = None
    for position, each in enumerate(partitions, start=1):
        is_bounded = each.row.partition is not None and not each.bound.is_default
        rows.append(
            replace(
                each.row,
                position=position,
                gap_before=is_bounded and before is not None and before.upper != each.bound.lower,
                covers_now=each.bound.covers(now) if is_time and is_bounded else None,
                missing_until_horizon=missing,
            )
        )
        before = each.bound if is_bounded else before
    if is_time and any(row.is_default for row in rows):
        # A row goes to DEFAULT where no other partition takes it.
        is_taken = any(row.covers_now for row in rows)
        rows = [replace(row, covers_now=not is_taken) if row.is_default else row for row in rows]
    return rows


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    now = session.rows(_NOW)[0][0]
    partitions = [_read(record) for record in session.rows(sql.SQL(_QUERY))]
    chosen = [each for each in partitions if _is_wanted(inputs, each.row)]
    if not chosen and inputs.parent is not None:
        raise Unavailable(Reason.NOT_FOUND, f"no table {inputs.parent!r} is partitioned by a range of one such column")
    rows: list[Row] = []
    for _, group in groupby(sorted(chosen, key=_parent_of), key=_parent_of):
        rows += _of_parent(list(group), inputs, now)
    unsafe = sorted(
        f"{quoted(each.row.partition_schema or '')}.{quoted(each.row.partition or '')}"
        for each in partitions
        if "MINVALUE" in (each.bound.lower, each.bound.upper) or "MAXVALUE" in (each.bound.lower, each.bound.upper)
    )
    warning = "do not read the view time_partitions, nor call time_partition_range: it would crash the server"
    return Found(
        rows,
        warnings=(warning,) if unsafe else (),
        facts={"unsafe_time_partitions_view": bool(unsafe), "unsafe_partitions": unsafe},
    )


def _parent_of(partition: _Partition) -> tuple[str, str]:
    return partition.row.schema, partition.row.parent


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    return [
        Finding(
            rule="unsafe_time_partitions_view",
            severity=Severity.WARNING,
            scope="table",
            target=partition,
            title="a bound is MINVALUE or MAXVALUE: reading the view time_partitions would crash the server",
            suggestion="do not read that view, nor use tools that do; or give the partition a bound",
        )
        for partition in envelope.facts.get("unsafe_partitions", ())
    ]


INSPECTOR = Inspector(
    name="citus_time_partitions_inspector",
    summary="Partitions by time: bounds, gaps, what covers now, how many are missing, without the view that crashes",
    cost=Cost.CATALOG,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("schema", "parent", "position", "partition_schema", "partition"),
    volatile=frozenset({"covers_now", "missing_until_horizon"}),
    sources=(
        Source(
            "pg_partitioned_table",
            (("partrelid", "oid"), ("partstrat", '"char"'), ("partnatts", "smallint"), ("partattrs", "int2vector")),
        ),
        Source("pg_inherits", (("inhrelid", "oid"), ("inhparent", "oid"))),
        Source(
            "pg_class",
            (
                ("oid", "oid"),
                ("relname", "name"),
                ("relnamespace", "oid"),
                ("relam", "oid"),
                ("relispartition", "boolean"),
                ("relpartbound", "pg_node_tree"),
            ),
        ),
        Source("pg_namespace", (("oid", "oid"), ("nspname", "name"))),
        Source("pg_attribute", (("attrelid", "oid"), ("attname", "name"), ("attnum", "smallint"), ("atttypid", "oid"))),
        Source("pg_am", (("oid", "oid"), ("amname", "name"))),
        Source("pg_dist_partition", (("logicalrelid", "regclass"),)),
        Source("pg_get_expr", (("returns", "text"),), "function", note="with 0 for the relation it opens none"),
    ),
    look=_look,
    severity=_severity,
)
