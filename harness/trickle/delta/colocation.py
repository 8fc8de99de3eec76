"""Which joins of distributed tables Citus is trusted with, each table being a union with what is taken back from it.

Citus 14.0.1 pushes a join of two such unions of colocated tables down whatever columns they are joined on: of
`r0.id = r1.a` it joins each shard with itself, and loses the rows that meet across shards (docs/findings.md; found by
the property test). Of plain tables it knows better. So whether a join is on the distribution columns is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.trickle.delta.aggregate import Aggregate
from harness.trickle.delta.derived import Derived
from harness.trickle.delta.join import Join
from harness.trickle.delta.project import Project
from harness.trickle.delta.rows import Rows
from harness.trickle.delta.scan import Scan
from harness.trickle.delta.staging import joins_of
from harness.trickle.delta.union_all import UnionAll
from harness.trickle.sources import Source


def below(rows: Rows) -> Iterator[Rows]:
    """The operators under one, itself first."""
    yield rows
    children: tuple[Rows, ...] = ()
    if isinstance(rows, Derived):
        children = (rows.rows,)
    elif isinstance(rows, UnionAll):
        children = rows.parts
    elif isinstance(rows, (Project, Aggregate)):
        children = tuple(item.rows for item in rows.rows.items)
    for child in children:
        yield from below(child)


def is_by_distribution(join: Join, sources: Mapping[int, Source]) -> bool:
    """Whether all distributed tables of a join are held equal in what they are distributed by.

    Args:
        join: of one FROM clause.
        sources: by OID.
    """
    distributed = [item for item in join.items if any(sources[relid].is_distributed for relid in item.rows.sources())]
    if len(distributed) < 2:
        return True
    keys = {item.alias: item.rows.source.distribution_column for item in distributed if isinstance(item.rows, Scan)}
    if len(keys) < len(distributed):
        return False
    group = {alias: alias for alias in keys}
    for link in join.links:
        if all(alias in keys and keys[alias] == column for alias, column in (link.left, link.right)):
            old, new = group[link.right[0]], group[link.left[0]]
            group = {alias: new if found == old else found for alias, found in group.items()}
    return len(set(group.values())) == 1


def joins_across(rows: Rows, sources: Mapping[int, Source]) -> bool:
    """Whether somewhere distributed tables are joined on other columns."""
    return any(not is_by_distribution(join, sources) for join in joins_of(rows))


def has_inner_groups(rows: Rows) -> bool:
    """Whether there are groups below the outermost operator, whose changes need what the rows below them were."""
    return any(isinstance(found, Aggregate) for found in list(below(rows))[1:])
