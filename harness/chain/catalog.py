"""A database's definitions, rights and comments as values that compare: what the chain changed or left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from harness.chain.catalog_queries import QUERIES, SYSTEM
from harness.chain.connection import Connection


@dataclass(frozen=True)
class CatalogSnapshot:
    """Definitions by kind and subject; no OID of the database is in it."""

    entries: Mapping[tuple[str, str], str]

    def only(self, *prefixes: str) -> CatalogSnapshot:
        """The part whose subject begins with one of these, such as ``pgtrickle.``."""
        return CatalogSnapshot({key: value for key, value in self.entries.items() if key[1].startswith(prefixes)})


@dataclass(frozen=True)
class Difference:
    """One thing that two catalogs do not share: missing before (None), missing after (None), or changed."""

    kind: str
    subject: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """One line for people."""
        if self.before is None:
            return f"{self.kind} {self.subject} is new: {self.after}"
        if self.after is None:
            return f"{self.kind} {self.subject} is gone: {self.before}"
        return f"{self.kind} {self.subject} changed: {self.before} -> {self.after}"


def snapshot_catalog(connection: Connection) -> CatalogSnapshot:
    """The definitions, rights and comments of a database; only reads, in a transaction of its own.

    Args:
        connection: to the database; on Citus it tells of the coordinator.

    Returns:
        What the database is made of outside the system's own schemas.

    Raises:
        psycopg.Error: a catalog can't be read.
    """
    entries: dict[tuple[str, str], str] = {}
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        for kind, query in QUERIES.items():
            # The queries are this project's own; the empty parameter list makes '%%' one per cent sign.
            rows = connection.execute(query.replace("{system}", SYSTEM).encode(), ())
            for subject, definition in rows:
                entries[kind, subject] = definition
    return CatalogSnapshot(entries)


def compare_catalogs(before: CatalogSnapshot, after: CatalogSnapshot) -> tuple[Difference, ...]:
    """What two catalogs do not share, by kind and subject; empty when they are equal."""
    return tuple(
        Difference(kind, subject, before.entries.get((kind, subject)), after.entries.get((kind, subject)))
        for kind, subject in sorted(before.entries.keys() | after.entries.keys())
        if before.entries.get((kind, subject)) != after.entries.get((kind, subject))
    )


def snapshot_rows(connection: Connection, *relations: tuple[str, str]) -> Mapping[str, tuple[str, ...]]:
    """The rows of some tables as sorted text, to compare catalogs' contents; only reads.

    Args:
        connection: to the database.
        relations: schema and name of each.
    """
    found: dict[str, tuple[str, ...]] = {}
    for schema, name in relations:
        query = sql.SQL("SELECT to_jsonb(t)::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, name))
        found[f"{schema}.{name}"] = tuple(row[0] for row in connection.execute(query))
    return found
