"""How these tests ask: one look, its rows; and sizes by a way that shares nothing with the inspectors'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import sql

from harness.clusters import RunningCluster
from harness.inspectors import Envelope, Status, inspect
from harness.postgres import ServerNode
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors.patience import look_until_heard

# By Citus' own function for one placement each, as the superuser: a connection a shard, and SQL text of its own.
_SIZES = """
    SELECT s.shardid, p.groupid, r.success, r.result
      FROM pg_dist_shard s
      JOIN pg_dist_placement p USING (shardid)
      JOIN pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
      CROSS JOIN LATERAL master_run_on_worker(ARRAY[n.nodename], ARRAY[n.nodeport], ARRAY[
           format('SELECT pg_total_relation_size(%%L)', shard_name(s.logicalrelid, s.shardid))], false) r
     WHERE s.logicalrelid = %s::oid
"""


def look(standard: Standard, name: str, *, role: str | None = None, **values: Any) -> Envelope[Any]:
    """One look at everything there is, up to 1,000 rows; it must be complete."""
    envelope = look_until_heard(lambda: inspect(standard.dsn(role), name, {"limit": 1000, **values}))
    assert (envelope.status, envelope.reason) == (Status.OK, None), envelope
    assert not envelope.truncated
    return envelope


def relid(cluster: RunningCluster, schema: str, table: str) -> int:
    """The OID of a table on the coordinator."""
    found: int = cluster.value(
        "SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
        " AND relname = %s",
        [schema, table],
    )
    return found


def sizes_of(cluster: RunningCluster, schema: str, table: str) -> dict[tuple[int, int], int]:
    """Bytes of every copy of every shard of a table, by (shard, group), one after another."""
    rows = cluster.rows(_SIZES, [relid(cluster, schema, table)])
    assert rows
    assert all(success for _, _, success, _ in rows), rows
    return {(shardid, groupid): int(result) for shardid, groupid, _, result in rows}


def worker_of(standard: Standard, groupid: int) -> ServerNode:
    """The worker that is this group."""
    port = standard.cluster.value(
        "SELECT nodeport FROM pg_dist_node WHERE groupid = %s AND noderole = 'primary'", [groupid]
    )
    return next(node for node in standard.cluster.nodes if node.port == port)


def shards_on(node: ServerNode) -> set[tuple[str, str]]:
    """Schema and name of every relation on a node that Citus takes for a shard."""
    with node.connect() as connection:
        connection.execute("SET citus.override_table_visibility = off")
        found = connection.execute("""
            SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND relation_is_a_known_shard(c.oid)
        """)
        return {(schema, name) for schema, name in found}


def counters_of(standard: Standard, table: str, *columns: str) -> list[int]:
    """Sums of columns of every node's pg_stat_all_tables over the shards of a table of schema app, by their names."""
    names = [row.shard_name for row in look(standard, "list_shards", schema="app", table=table).rows]
    sums = [0] * len(columns)
    for node in standard.cluster.nodes:
        with node.connect() as connection:
            connection.execute("SET citus.override_table_visibility = off")
            query = sql.SQL("SELECT {} FROM pg_stat_all_tables WHERE schemaname = 'app' AND relname = ANY (%s)").format(
                sql.SQL(", ").join(sql.Identifier(column) for column in columns)
            )
            for row in connection.execute(query, [names]):
                sums = [total + value for total, value in zip(sums, row, strict=True)]
    return sums


def by(envelope: Envelope[Any], key: Callable[[Any], Any]) -> dict[Any, Any]:
    """The rows by a key that must be unique."""
    found = {key(row): row for row in envelope.rows}
    assert len(found) == len(envelope.rows)
    return found
