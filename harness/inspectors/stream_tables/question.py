"""What every node is asked about stream tables, in one fan-out: what capture keeps there, and what waits in buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from harness.inspectors.stream_tables.records import Records
from harness.trickle.frontier import GROUP_BITS, read_cut
from harness.trickle.repair.look import HERE_QUERY, THERE_QUERY

if TYPE_CHECKING:
    from harness.inspectors.fan_out import ClusterNode
    from harness.inspectors.session import Session

# A buffer is counted up to here: whoever is this far behind need not know it to the row, and counting takes 1 s for
# about a million.
MOST_ROWS = 100_000
_STATEMENT_CHARACTERS = 400
# A buffer's shards are on their nodes only, so what counts them must be put together there; ts_stat() is the built-in
# function that runs a query given as text, read-only, with the caller's rights, and counts words: one for each stream
# table and shard. The text is made of names of pg_catalog, quoted, and of our own condition. All shards are one query,
# and what has no page is not counted: 25 queries took four times as long as one. Who may not read a buffer gets what
# the server's statistics guess.
_QUESTION = sql.SQL("""
    WITH cuts(pgt_id, stable, place, condition) AS MATERIALIZED ({cuts}),
    buffers AS MATERIALIZED (
        SELECT c.oid, c.relname, substring(c.relname FROM 9 FOR 16) AS stable,
               substring(c.relname FROM '^changes_[0-9a-f]{{16}}_(\\d{{1,18}})$')::bigint AS shardid,
               pg_catalog.pg_relation_size(c.oid) AS pages_bytes, c.reltoastrelid,
               pg_catalog.has_column_privilege(c.oid, 'xid', 'SELECT')
               AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AS is_readable
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'pgtrickle_changes' AND c.relkind = 'r'
          AND c.relname ~ '^changes_[0-9a-f]{{16}}(_\\d{{1,18}})?$' AND {is_placed}),
    wanted AS MATERIALIZED (
        SELECT b.*, u.pgt_id, u.condition, pg_catalog.format('%s-%s', u.pgt_id, b.relname) AS word
        FROM buffers b JOIN cuts u ON u.stable = b.stable AND u.place = (b.shardid IS NOT NULL)),
    counts AS MATERIALIZED (
        SELECT x.word, x.ndoc FROM (
            SELECT pg_catalog.string_agg(pg_catalog.format(
                '(SELECT %L AS w FROM pgtrickle_changes.%I AS __pgt_b WHERE %s LIMIT {most})',
                w.word, w.relname, w.condition), ' UNION ALL ') AS branches
            FROM wanted w WHERE w.is_readable AND w.pages_bytes > 0) t,
        pg_catalog.ts_stat('SELECT pg_catalog.array_to_tsvector(ARRAY[r.w]) FROM (' || t.branches || ') r') x)
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'kept', ({kept}),
        'buffers', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'stable', b.stable, 'shardid', b.shardid, 'bytes', CASE WHEN b.pages_bytes = 0 AND b.reltoastrelid = 0
                    THEN 0 ELSE pg_catalog.pg_total_relation_size(b.oid) END))
            FROM buffers b),
        'pending', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'pgt_id', w.pgt_id, 'stable', w.stable, 'shardid', w.shardid, 'exact', w.is_readable,
                'capped', w.is_readable AND coalesce(k.ndoc, 0) >= {most},
                'rows', CASE WHEN w.is_readable THEN coalesce(k.ndoc, 0) ELSE
                    -- What pg_stat_all_tables shows as n_live_tup.
                    pg_catalog.pg_stat_get_live_tuples(w.oid) END))
            FROM wanted w LEFT JOIN counts k USING (word)),
        'holders', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'pid', a.pid, 'age_s', extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start),
                'state', a.state, 'user', a.usename, 'app', a.application_name,
                'query', pg_catalog.left(a.query, {characters}), 'stable', w.stable))
            FROM pg_catalog.pg_stat_activity a
            JOIN (SELECT l.pid, pg_catalog.array_agg(DISTINCT substring(c.relname FROM 9 FOR 16)) AS stable
                  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
                  WHERE l.mode = 'RowExclusiveLock' AND l.granted AND n.nspname = 'pgtrickle_changes'
                    AND c.relname ~ '^changes_[0-9a-f]{{16}}'
                  GROUP BY 1) w USING (pid)
            -- Whoever may not see a session's transaction knows of its locks.
            WHERE a.backend_xid IS NOT NULL OR a.query = '<insufficient privilege>'),
        'prepared', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object('gid', x.gid,
                'age_s', extract(epoch FROM pg_catalog.clock_timestamp() - x.prepared)))
            FROM pg_catalog.pg_prepared_xacts x WHERE x.database = pg_catalog.current_database())))
""")
# On a worker a distributed buffer has a shell, and on any node there may be a shard that was moved away.
_PLACED = sql.SQL("""
    NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid = c.oid)
    AND (c.relname !~ '^changes_[0-9a-f]{16}_' OR EXISTS (
        SELECT FROM pg_catalog.pg_dist_placement p JOIN pg_catalog.pg_dist_local_group g USING (groupid)
        WHERE p.shardid = substring(c.relname FROM '(\\d{1,18})$')::bigint))
""")


@dataclass(frozen=True)
class NodeAnswer:
    """What a node has: see `_QUESTION`."""

    node: ClusterNode
    kept: str
    buffers: Sequence[Mapping[str, Any]]
    pending: Sequence[Mapping[str, Any]]
    holders: Sequence[Mapping[str, Any]]
    prepared: Sequence[Mapping[str, Any]]


def ask(session: Session, records: Records) -> list[NodeAnswer]:
    """Ask every node, in one fan-out.

    Args:
        session: on the coordinator, or on a plain server.
        records: what the catalog says: where each stream table last stopped is a part of the question.
    """
    is_cluster = bool(session.citus_version)
    question = _QUESTION.format(
        cuts=_cuts(session, records),
        is_placed=_PLACED if is_cluster else sql.SQL("true"),
        kept=THERE_QUERY if is_cluster else HERE_QUERY,
        most=sql.SQL(str(MOST_ROWS + 1)),
        characters=sql.Literal(_STATEMENT_CHARACTERS),
    )
    return [
        NodeAnswer(
            node,
            str(answer["kept"]),
            answer["buffers"] or (),
            answer["pending"] or (),
            answer["holders"] or (),
            answer["prepared"] or (),
        )
        for node, answer in session.on_all_nodes(question).rows
    ]


def _cuts(session: Session, records: Records) -> sql.Composable:
    """For each stream table and captured source the condition, as text, that a row of the buffer is not taken yet."""
    frontiers = {table.pgt_id: table.frontier for table in records.tables}
    rows = []
    for source in records.sources:
        if not source.is_tracked:
            continue
        cut = read_cut(frontiers.get(source.pgt_id), source.stable_name)
        is_distributed = source.placement == "distributed"
        condition: sql.Composable = sql.SQL("true")
        if cut is not None:
            writer = sql.SQL("(__pgt_b.seq_id >> {})").format(sql.Literal(GROUP_BITS)) if is_distributed else None
            condition = sql.SQL("NOT ({})").format(cut.holds(sql.SQL("__pgt_b.xid"), writer))
        text = condition.as_string(session.connection)
        rows.append(
            sql.SQL("({}::bigint, {}::text, {}::boolean, {}::text)").format(
                *(sql.Literal(value) for value in (source.pgt_id, source.stable_name, is_distributed, text))
            )
        )
    if not rows:
        return sql.SQL("SELECT NULL::bigint, NULL::text, NULL::boolean, NULL::text WHERE false")
    return sql.SQL("VALUES {}").format(sql.SQL(", ").join(rows))
