"""What Citus' catalog says: is it there, its nodes, and where a relation lives (the plan's P1). Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

import psycopg

from harness.clusters.topology import NODES_QUERY, NodeRecord
from harness.errors import BadInputError, CitusMissingError

Connection = psycopg.Connection[Any]
# A relation is its OID, or (schema, name) as the catalog spells them: never SQL text, so no name needs quoting.
Relation = int | tuple[str, str]

_PRESENCE_QUERY: LiteralString = """
    SELECT extversion, pg_catalog.current_setting('citus.version', true)
      FROM pg_catalog.pg_extension WHERE extname = 'citus'
"""
_RELATION_QUERY: LiteralString = """
    SELECT c.oid
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_CLASS_QUERY: LiteralString = """
    SELECT n.nspname, c.relname, c.relkind::text, c.relispartition, a.amname,
           a.amname = 'columnar' OR EXISTS (
               SELECT FROM pg_catalog.pg_partition_tree(c.oid) t
                 JOIN pg_catalog.pg_class l ON l.oid = t.relid
                 JOIN pg_catalog.pg_am m ON m.oid = l.relam
                WHERE m.amname = 'columnar')
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
     WHERE c.oid = %s
"""
# citus_tables leaves out what is distributed by append or by range; pg_dist_partition has all.
_CITUS_QUERY: LiteralString = """
    SELECT p.partmethod::text, p.repmodel::text, p.colocationid,
           CASE WHEN p.partkey IS NOT NULL THEN pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) END,
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_shard s WHERE s.logicalrelid = p.logicalrelid),
           EXISTS (SELECT FROM pg_catalog.pg_dist_schema d
                     JOIN pg_catalog.pg_class c ON c.relnamespace = d.schemaid
                    WHERE c.oid = p.logicalrelid AND d.colocationid = p.colocationid)
      FROM pg_catalog.pg_dist_partition p
     WHERE p.logicalrelid = %s
"""
_METHODS = {"h": "hash", "r": "range", "a": "append"}


@dataclass(frozen=True)
class Presence:
    """Whether the database has Citus.

    Attributes:
        extension_version: of the extension in this database, such as ``14.0-1``; None without it.
        library_version: of the loaded library, such as ``14.0.1``; None where it is not loaded.
        group_id: the node's own group, 0 on a coordinator; None without the extension.
    """

    extension_version: str | None = None
    library_version: str | None = None
    group_id: int | None = None

    @property
    def is_available(self) -> bool:
        """Whether distributed tables can be used here: the extension is in the database, its library loaded."""
        return self.extension_version is not None and self.library_version is not None

    @property
    def is_coordinator(self) -> bool:
        """Whether this is Citus' coordinator."""
        return self.is_available and self.group_id == 0

    def __str__(self) -> str:
        if self.extension_version is None:
            return "no Citus"
        if self.library_version is None:
            return f"Citus {self.extension_version}, its library not loaded"
        return f"Citus {self.library_version}"


class Kind(StrEnum):
    """Where a relation lives, each way that Citus has told apart."""

    LOCAL = "local"
    MANAGED_LOCAL = "managed local"
    """On the coordinator only, with one shard in Citus' metadata (``citus_add_local_table_to_metadata``)."""
    REFERENCE = "reference"
    DISTRIBUTED = "distributed"
    """By a column; see ``Placement.distribution_method``."""
    SINGLE_SHARD = "single shard"
    """Without a column: one shard on one node (``create_distributed_table(.., NULL)``)."""
    SCHEMA_SHARDED = "schema sharded"
    """As a single shard, and all tables of its schema lie on one node together."""


@dataclass(frozen=True)
class Placement:
    """Where a relation lives and what it is.

    Attributes:
        relid, schema, name: which relation; the names as the catalog spells them, not quoted.
        kind: where it lives.
        relkind: as ``pg_class`` has it: r, p (partitioned), v, m or f.
        distribution_column: the column's name; None where there is none.
        distribution_method: ``hash``, ``range`` or ``append``; None without a column.
        shard_count: shards (not their copies); 0 for a table that Citus does not know.
        colocation_id: tables with an equal one lie together; None where it says nothing.
        access_method: such as ``heap`` or ``columnar``; None where there is none, as for a partitioned table or a view.
        is_partition: whether it is a partition of another table.
        is_columnar: whether it, or a partition of it, is columnar.
    """

    relid: int
    schema: str
    name: str
    kind: Kind
    relkind: str
    distribution_column: str | None
    distribution_method: str | None
    shard_count: int
    colocation_id: int | None
    access_method: str | None
    is_partition: bool
    is_columnar: bool

    @property
    def word(self) -> str:
        """What ``pgtrickle.placement_of`` says: ``local``, ``reference`` or ``distributed`` (revision 0003)."""
        if self.kind in {Kind.LOCAL, Kind.MANAGED_LOCAL}:
            return "local"
        return "reference" if self.kind is Kind.REFERENCE else "distributed"

    @property
    def is_distributed(self) -> bool:
        """Whether its rows lie in shards on workers: by a column, by its schema, or as one shard."""
        return self.word == "distributed"

    @property
    def is_reference(self) -> bool:
        """Whether every node has a copy."""
        return self.kind is Kind.REFERENCE

    @property
    def has_shards(self) -> bool:
        """Whether its rows lie in shards; the relation of its own name is an empty shell then."""
        return self.kind is not Kind.LOCAL

    @property
    def is_partitioned(self) -> bool:
        """Whether it has partitions (PostgreSQL's; shards are something else)."""
        return self.relkind == "p"


def fetch_presence(connection: Connection) -> Presence:
    """Is Citus in this database, and which? Runs on the node of the connection; a plain server answers no.

    Args:
        connection: to any PostgreSQL.
    """
    row = connection.execute(_PRESENCE_QUERY).fetchone()
    if row is None:
        return Presence()
    group = connection.execute("SELECT groupid FROM pg_catalog.pg_dist_local_group").fetchone()
    return Presence(row[0], row[1] or None, None if group is None else int(group[0]))


def has_citus(connection: Connection) -> bool:
    """Whether there can be anything but local tables.

    Raises:
        CitusMissingError: the extension is there and its library is not loaded: its tables can't be read, and to
            call them local would be wrong.
    """
    presence = fetch_presence(connection)
    if presence.extension_version is not None and not presence.is_available:
        raise CitusMissingError(
            f"this database has {presence}", hint="put citus into shared_preload_libraries and restart the server"
        )
    return presence.is_available


def fetch_nodes(connection: Connection) -> tuple[NodeRecord, ...]:
    """Every node that Citus has registered, by group; none without Citus.

    A coordinator that was never registered is missing: it is where the connection leads.
    """
    if not has_citus(connection):
        return ()
    return tuple(NodeRecord(*row) for row in connection.execute(NODES_QUERY).fetchall())


def fetch_workers(connection: Connection) -> tuple[NodeRecord, ...]:
    """The active primaries that are not the coordinator.

    The plan's ``get_worker_nodes`` counts a registered coordinator too: it asks for active primaries only.
    """
    return tuple(
        node for node in fetch_nodes(connection) if node.group_id > 0 and node.role == "primary" and node.is_active
    )


def fetch_relation(connection: Connection, relation: Relation) -> int:
    """The OID of a table, view, materialised view or foreign table on the node of the connection.

    Args:
        connection: to the node that is asked; OIDs differ between nodes.
        relation: an OID, which is taken as it is, or (schema, name).

    Raises:
        BadInputError: there is no such relation.
    """
    if isinstance(relation, int):
        return relation
    row = connection.execute(_RELATION_QUERY, relation).fetchone()
    if row is None:
        schema, name = relation
        raise BadInputError(
            f"there is no table {name!r} in schema {schema!r}",
            hint="names are as the catalog spells them, without quotes",
        )
    return int(row[0])


def _kind(method: str, replication: str, colocation_id: int, is_schema_sharded: bool) -> Kind:
    if method != "n":
        return Kind.DISTRIBUTED
    if replication == "t":
        return Kind.REFERENCE
    if colocation_id == 0:
        return Kind.MANAGED_LOCAL
    return Kind.SCHEMA_SHARDED if is_schema_sharded else Kind.SINGLE_SHARD


def fetch_placement(connection: Connection, relation: Relation) -> Placement:
    """Where a relation lives, as the node of the connection has it; on a plain server everything is local.

    The plan takes ``partmethod = 'n'`` for a reference table; Citus keeps single shards, sharded schemas and tables
    that it merely manages on the coordinator under it too. They are told apart by ``repmodel``, ``colocationid`` and
    ``pg_dist_schema`` (seen on Citus 14.0.1).

    Args:
        connection: to the coordinator, or a plain server.
        relation: an OID or (schema, name).

    Raises:
        BadInputError: there is no such relation.
        CitusMissingError: see `has_citus`.
    """
    relid = fetch_relation(connection, relation)
    row = connection.execute(_CLASS_QUERY, [relid]).fetchone()
    if row is None:
        raise BadInputError(f"there is no relation with OID {relid}", hint="it may have been dropped meanwhile")
    schema, name, relkind, is_partition, access_method, is_columnar = row
    found = None
    if has_citus(connection):
        found = connection.execute(_CITUS_QUERY, [relid]).fetchone()
    kind, column, method, shard_count, colocation_id = Kind.LOCAL, None, None, 0, None
    if found is not None:
        partmethod, replication, colocation, column, shard_count, is_schema_sharded = found
        kind = _kind(partmethod, replication, colocation, is_schema_sharded)
        method = _METHODS.get(partmethod)
        colocation_id = colocation or None
    return Placement(
        relid=relid,
        schema=schema,
        name=name,
        kind=kind,
        relkind=relkind,
        distribution_column=column,
        distribution_method=method,
        shard_count=shard_count,
        colocation_id=colocation_id,
        access_method=access_method,
        is_partition=is_partition,
        is_columnar=bool(is_columnar),
    )
