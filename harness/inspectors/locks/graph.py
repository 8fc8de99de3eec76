"""Who waits for whom, over all nodes: one question to each, put together by Citus' global process ids."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg import sql

from harness.inspectors.live import SESSION_FIELDS, global_pid
from harness.inspectors.locks.modes import conflicts

if TYPE_CHECKING:
    from harness.inspectors.fan_out import ClusterNode
    from harness.inspectors.session import Session

# A prepared transaction keeps its locks under a number of its own, with no process (pid is NULL). The number of the
# transaction is one of these locks, and so leads to its name: in 14.0.1 the virtual number is that of the session that
# prepared it, and -1/<xid> only after a restart, so it cannot be put together.
# pg_blocking_pids() stops all lockers for a moment: it is asked for those who wait, never for all.
_QUERY = sql.SQL("""
    WITH l AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks),
    w AS MATERIALIZED (
        SELECT DISTINCT l.*, b.pid AS blocker
        FROM l CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS b(pid)
        WHERE NOT l.granted AND l.pid IS NOT NULL),
    p AS MATERIALIZED (
        SELECT x.gid, x.owner, x.database, x.prepared, t.virtualtransaction
        FROM pg_catalog.pg_prepared_xacts x
        JOIN l t ON t.pid IS NULL AND t.granted AND t.locktype = 'transactionid' AND t.transactionid = x.transaction),
    r AS MATERIALIZED (
        SELECT DISTINCT c.oid, n.nspname, c.relname, s.shardid, tn.nspname AS table_schema, tc.relname AS table_name
        FROM l
        JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
        JOIN pg_catalog.pg_class c ON c.oid = l.relation
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_dist_shard s
               ON s.shardid = substring(c.relname FROM '_(\\d{{1,18}})$')::bigint
              AND (pg_catalog.parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid, false)))[2] = c.relname
        LEFT JOIN pg_catalog.pg_class tc ON tc.oid = s.logicalrelid
        LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = tc.relnamespace
        WHERE l.pid IN (SELECT pid FROM w) OR {wants_held} AND l.pid IN (SELECT blocker FROM w))
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'waits', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'pid', w.pid, 'blocker', w.blocker, 'locktype', w.locktype, 'mode', w.mode,
                'schema', r.nspname, 'relation', r.relname, 'shardid', r.shardid,
                'table_schema', r.table_schema, 'table', r.table_name,
                'wait_ms', extract(epoch FROM clock_timestamp() - w.waitstart) * 1000,
                'prepared', (
                    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                        'gid', p.gid, 'mode', h.mode, 'user', p.owner, 'database', p.database,
                        'xact_ms', extract(epoch FROM clock_timestamp() - p.prepared) * 1000))
                    FROM l h JOIN p USING (virtualtransaction)
                    WHERE w.blocker = 0 AND h.granted AND h.pid IS NULL
                      AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid,
                           h.classid, h.objid, h.objsubid)
                          IS NOT DISTINCT FROM (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid,
                           w.transactionid, w.classid, w.objid, w.objsubid)),
                'held', (
                    SELECT pg_catalog.json_agg(DISTINCT h.mode || ' ' || hr.nspname || '.' || hr.relname)
                    FROM l h JOIN r hr ON hr.oid = h.relation
                    WHERE {wants_held} AND h.pid = w.blocker AND h.granted AND h.locktype = 'relation')))
            FROM w
            LEFT JOIN r ON r.oid = coalesce(w.relation, (
                -- Who waits for another's transaction holds the lock of the row that it is about.
                SELECT t.relation FROM l t WHERE t.pid = w.pid AND t.granted AND t.locktype = 'tuple' LIMIT 1))),
        'sessions', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object({session}))
            FROM pg_catalog.pg_stat_activity a
            LEFT JOIN pg_catalog.get_all_active_transactions() t ON t.process_id = a.pid
            WHERE EXISTS (SELECT FROM w WHERE a.pid IN (w.pid, w.blocker))
               OR (a.state <> 'idle' AND t.global_pid IS DISTINCT FROM pg_catalog.citus_backend_gpid()))))
""")
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Actor:
    """A session of the whole cluster, or a transaction that was prepared on a node.

    Attributes:
        gpid: of a session; None for what is prepared.
        gid: of what is prepared; None for a session.
        node: where a session began; where it is prepared. None: not known.
        told: what is known of it (see `harness.inspectors.live.SESSION_FIELDS`).
    """

    gpid: int | None
    gid: str | None
    node: ClusterNode | None
    told: Mapping[str, Any] = field(compare=False)

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        if self.gpid is not None:
            return ("session", self.gpid, "")
        return ("prepared", self.node.nodeid if self.node else 0, self.gid or "")


@dataclass(frozen=True)
class Wait:
    """One waits for another.

    Attributes:
        waiter, blocker: who.
        node: where they meet.
        seen: the lock, as `_QUERY` has it.
        depth: how far the waiter is from somebody who waits for nobody; None: they wait in a circle.
    """

    waiter: Actor
    blocker: Actor
    node: ClusterNode
    seen: Mapping[str, Any] = field(compare=False)
    depth: int | None = None


def fetch_waits(session: Session, *, wants_held: bool = False) -> list[Wait]:
    """Ask every node who waits there, in one fan-out, and tell the whole cluster's story.

    Args:
        session: on the coordinator.
        wants_held: also which relations blockers hold locks of.

    Returns:
        In no order. A node that did not answer is in the envelope; what waits there is not seen.
    """
    gathered = session.on_all_nodes(_QUERY.format(session=SESSION_FIELDS, wants_held=sql.Literal(wants_held)))
    told: dict[int, Mapping[str, Any]] = {}
    local: dict[tuple[int, int], Mapping[str, Any]] = {}
    for node, answer in gathered.rows:
        for each in answer["sessions"] or ():
            local[node.nodeid, each["pid"]] = each
            gpid = global_pid(node, each)
            if not each["is_worker"] or gpid not in told:
                told[gpid] = each
    nodes = {node.nodeid: node for node in session.nodes}

    def actor(node: ClusterNode, pid: int) -> Actor:
        here = local.get((node.nodeid, pid), {"pid": pid})
        gpid = global_pid(node, here)
        return Actor(gpid, None, nodes.get(gpid // 10**10), told.get(gpid, here))

    waits = []
    for node, answer in gathered.rows:
        for seen in answer["waits"] or ():
            waiter = actor(node, seen["pid"])
            if seen["blocker"]:
                waits.append(Wait(waiter, actor(node, seen["blocker"]), node, seen))
                continue
            for each in seen["prepared"] or ():
                if conflicts(seen["mode"], each["mode"]):
                    waits.append(Wait(waiter, Actor(None, each["gid"], node, each), node, seen))
    return with_depths([wait for wait in waits if wait.waiter.key != wait.blocker.key])


def with_depths(waits: Sequence[Wait]) -> list[Wait]:
    """The same waits, each with the distance of its waiter from somebody who waits for nobody."""
    waiting = {wait.waiter.key for wait in waits}
    behind: dict[Key, list[Key]] = {}
    for wait in waits:
        behind.setdefault(wait.blocker.key, []).append(wait.waiter.key)
    distance = _distances(behind, (key for key in behind if key not in waiting))
    depths = [distance.get(wait.blocker.key) for wait in waits]
    return [
        Wait(wait.waiter, wait.blocker, wait.node, wait.seen, None if depth is None else depth + 1)
        for wait, depth in zip(waits, depths, strict=True)
    ]


def _distances(behind: Mapping[Key, Sequence[Key]], roots: Iterable[Key]) -> dict[Key, int]:
    found = dict.fromkeys(roots, 0)
    queue = deque(found)
    while queue:
        key = queue.popleft()
        for after in behind.get(key, ()):
            if after not in found:
                found[after] = found[key] + 1
                queue.append(after)
    return found
