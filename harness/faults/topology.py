"""Changes of a cluster's shape while it is used: shards move, workers come, are drained, and go."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

from harness.clusters.configuration import node_settings
from harness.clusters.running import node_password_file
from harness.clusters.template import NEW_IDENTITY, fetch_citus_template
from harness.errors import BadInputError, ServerError
from harness.faults.site import Site
from harness.faults.undoing import insist, start_all
from harness.postgres.identity import server_user
from harness.postgres.passwords import write_secret
from harness.postgres.server import Server
from harness.postgres.server_node import ServerNode
from harness.settings import load_citus_settings

# Copying a shard of a test takes a second; behind writers and on a busy machine more.
_MOVE_DEADLINE_S = 60.0
# All that a worker has, or that is to be spread.
_MOVES_DEADLINE_S = 120.0
# Undoing is tried again, so one try is shorter: a subscription that never catches up is waited for two hours by Citus
# (citus.logical_replication_timeout), and the next move comes through (docs/findings.md).
_PUT_BACK_TRY_S = 40.0
_PUT_BACK_DEADLINE_S = 150.0
# A server that ends a statement says so within this many seconds; one that is frozen does not.
_ANSWER_S = 10.0
# How shards are copied: by logical replication writers go on (F12), and each shard takes a second; else they wait.
TransferMode = Literal["force_logical", "block_writes"]


@dataclass(frozen=True)
class Placement:
    """One shard of a distributed table, and where it is.

    Attributes:
        shard_id: Citus' number.
        table: of which table.
        node: name of the worker that has it.
    """

    shard_id: int
    table: str
    node: str


def fetch_placements(site: Site) -> list[Placement]:
    """All shards of hash-distributed tables, one of each colocated group, by number; runs on the coordinator."""
    names = {worker.address: worker.name for worker in site.nodes}
    rows = site.rows(
        "SELECT DISTINCT ON (p.colocationid, s.shardminvalue) s.shardid, s.logicalrelid::text, n.nodename, n.nodeport"
        " FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_dist_partition p USING (logicalrelid)"
        " JOIN pg_catalog.pg_dist_placement l USING (shardid)"
        " JOIN pg_catalog.pg_dist_node n ON n.groupid = l.groupid AND n.noderole = 'primary'"
        " WHERE p.partmethod = 'h' ORDER BY p.colocationid, s.shardminvalue, s.shardid"
    )
    # A worker behind a proxy is registered at the proxy.
    names |= {link.proxy.address: name for name, link in site.links.items()}
    return [
        Placement(int(number), str(table), names.get((str(host), int(port)), f"{host}:{port}"))
        for number, table, host, port in rows
    ]


def move_shard(
    site: Site,
    shard_id: int,
    source: str,
    target: str,
    mode: TransferMode = "force_logical",
    *,
    deadline_s: float = _MOVE_DEADLINE_S,
) -> None:
    """`citus_move_shard_placement`, with all that is colocated; writers go on but for its last moment (F12, F16).

    Runs on the coordinator. Leaves: the shard on the target. One that was not moved is where it was, and what was made
    for it (slot, subscription, half a copy) is in pg_dist_cleanup: Citus sweeps it, and the next move does.

    Args:
        site: the cluster.
        shard_id: which shard.
        source, target: names of workers.
        mode: whether writers go on meanwhile.
        deadline_s: the server ends the move after this many seconds.

    Raises:
        psycopg.Error: it was not moved; `psycopg.errors.QueryCanceled` at the deadline.
        WaitTimeoutError: the coordinator does not answer; or the shard was moved and its old copy is not dropped.
    """
    places = {name: _registered(site, name) for name in (source, target)}
    _move(
        site,
        "SELECT pg_catalog.citus_move_shard_placement(%s::bigint, %s, %s::int, %s, %s::int, %s)",
        [shard_id, *places[source], *places[target], mode],
        deadline_s,
    )


def _move(site: Site, statement: LiteralString, values: list[Any], deadline_s: float) -> None:
    """A statement that moves shards, in a session of its own, and what it leaves to be dropped is dropped.

    The server ends it: one whose client went away at a deadline would move on, against the next try. The client's own
    deadline comes later, for a coordinator that is frozen.
    """
    with closing(site.coordinator.connect(site.dbname, deadline_s=deadline_s + _ANSWER_S)) as connection:
        connection.execute("SELECT pg_catalog.set_config('statement_timeout', %s, false)", [f"{deadline_s:g}s"])
        connection.execute(statement, values)
    clean_up(site)


def _registered(site: Site, name: str) -> tuple[str, int]:
    link = site.links.get(name)
    if link is not None:
        return link.proxy.address
    found = next((node for node in site.nodes if node.name == name), None)
    if not isinstance(found, ServerNode):
        raise BadInputError(f"there is no node {name!r}", hint=", ".join(node.name for node in site.nodes))
    return found.address


@contextmanager
def shard_moved(site: Site, rng: random.Random) -> Iterator[Placement]:
    """A shard, with all that is colocated, is moved to another worker, and moved back at the end.

    Runs on the coordinator. Leaves: the shard where it was, and nodes that died meanwhile started for that.

    Args:
        site: a cluster with two workers or more.
        rng: chooses the shard and its new place.

    Yields:
        The shard, and where it was.

    Raises:
        BadInputError: there is no shard, or no other worker.
        psycopg.Error: it could not be moved; then it is where it was.
    """
    found = fetch_placements(site)
    if not found or len(site.workers) < 2:
        raise BadInputError("no shard can be moved", hint="it takes a distributed table and two workers")
    moved = rng.choice(found)
    target = rng.choice([worker.name for worker in site.workers if worker.name != moved.node])
    try:
        move_shard(site, moved.shard_id, moved.node, target)
        yield moved
    finally:

        def put_back() -> None:
            start_all(site.nodes)
            now = next((one for one in fetch_placements(site) if one.shard_id == moved.shard_id), None)
            if now is not None and now.node != moved.node:
                move_shard(site, moved.shard_id, now.node, moved.node, deadline_s=_PUT_BACK_TRY_S)

        insist(f"shard {moved.shard_id} to be back on {moved.node}", put_back, deadline_s=_PUT_BACK_DEADLINE_S)


def rebalance(site: Site, mode: TransferMode = "force_logical", *, deadline_s: float = _MOVES_DEADLINE_S) -> None:
    """`rebalance_table_shards`: shards of all tables are spread evenly over the workers; runs on the coordinator.

    Leaves: the shards where the rebalancer wants them; nothing is put back.

    Args:
        site: the cluster.
        mode: whether writers go on meanwhile.
        deadline_s: the server ends it after this many seconds.

    Raises:
        psycopg.Error: a shard could not be moved; those moved before stay moved.
        WaitTimeoutError: the coordinator does not answer; or what was moved away is not dropped.
    """
    _move(site, "SELECT pg_catalog.rebalance_table_shards(shard_transfer_mode => %s)", [mode], deadline_s)


@contextmanager
def worker_drained(site: Site, worker: ServerNode, mode: TransferMode = "force_logical") -> Iterator[None]:
    """All shards leave a worker, and new ones avoid it; at the end it takes shards again and all are spread evenly.

    Runs on the coordinator (`citus_drain_node`). Leaves: pg_dist_node as before; which shard is where may differ.

    Args:
        site: a cluster with two workers or more.
        worker: one of them.
        mode: whether writers go on while shards move.

    Raises:
        psycopg.Error: a shard could not be moved.
    """
    address = _registered(site, worker.name)
    try:
        _drain(site, address, mode)
        yield
    finally:

        def put_back() -> None:
            start_all(site.nodes)
            site.sql(
                "SELECT pg_catalog.citus_set_node_property(%s, %s::int, 'shouldhaveshards', true)",
                list(address),
                deadline_s=15,
            )
            rebalance(site, mode, deadline_s=_PUT_BACK_TRY_S)

        insist(f"{worker.name} to have shards again", put_back, deadline_s=_PUT_BACK_DEADLINE_S)


def _drain(site: Site, address: tuple[str, int], mode: TransferMode, deadline_s: float = _MOVES_DEADLINE_S) -> None:
    _move(site, "SELECT pg_catalog.citus_drain_node(%s, %s::int, %s)", [*address, mode], deadline_s)


def clean_up(site: Site) -> None:
    """What moves left to be dropped later is dropped now: a worker that leaves before that keeps it for ever.

    Runs on the coordinator (``citus_cleanup_orphaned_resources``, which passes by what a session still uses).

    Raises:
        WaitTimeoutError: something of it stays in use.
    """

    def cleaned() -> None:
        site.sql("CALL pg_catalog.citus_cleanup_orphaned_resources()", deadline_s=30)
        if site.rows("SELECT FROM pg_catalog.pg_dist_cleanup LIMIT 1"):
            raise ServerError("shards that were moved away are not dropped yet", node=site.coordinator.name)

    insist("shards that were moved away to be dropped", cleaned)


@contextmanager
def worker_removed(site: Site, worker: ServerNode, mode: TransferMode = "force_logical") -> Iterator[None]:
    """A worker is drained and taken out of the cluster; at the end it is added again and gets shards.

    Runs on the coordinator (`citus_remove_node`, `citus_add_node`). Its server runs on, alone.
    Leaves: the worker at its address under another node id and group (F5: numbers of rows captured there begin anew),
    all others as before; which shard is where may differ.

    Args:
        site: a cluster with two workers or more.
        worker: one of them.
        mode: whether writers go on while shards move.

    Raises:
        psycopg.Error: a shard could not be moved, or the worker could not be removed.
    """
    address = _registered(site, worker.name)
    try:
        _drain(site, address, mode)
        site.sql("SELECT pg_catalog.citus_remove_node(%s, %s::int)", list(address), deadline_s=30)
        yield
    finally:

        def put_back() -> None:
            start_all(site.nodes)
            # Adds it, or leaves one alone that is there.
            site.sql("SELECT pg_catalog.citus_add_node(%s, %s::int)", list(address), deadline_s=60)
            site.sql(
                "SELECT pg_catalog.citus_set_node_property(%s, %s::int, 'shouldhaveshards', true)",
                list(address),
                deadline_s=15,
            )
            rebalance(site, mode, deadline_s=_PUT_BACK_TRY_S)

        insist(f"{worker.name} to be in the cluster again", put_back, deadline_s=_PUT_BACK_DEADLINE_S)


@contextmanager
def worker_added(site: Site, mode: TransferMode = "force_logical") -> Iterator[Server]:
    """A new worker is started and added and gets its share of the shards; at the end it is drained and destroyed.

    Runs on the coordinator and on a server of its own, made for the block. Leaves: pg_dist_node as before; which shard
    is where may differ.

    Args:
        site: a cluster on this machine.
        mode: whether writers go on while shards move.

    Yields:
        The new worker; ``site`` itself does not list it.

    Raises:
        ServerStartError: it does not start.
        psycopg.Error: it could not be added.
    """
    coordinator = site.local(site.coordinator)
    with ExitStack() as stack:
        server = Server.create(
            coordinator.installation,
            name=f"added-{secrets.token_hex(3)}",
            settings=node_settings(load_citus_settings()),
            password=coordinator.password,
            template=fetch_citus_template(coordinator.installation),
        )
        stack.callback(server.destroy)
        user = server_user()
        write_secret(server.root / ".pgpass", node_password_file({"*": coordinator.password}), user.uid, user.gid)
        server.start()
        server.sql(NEW_IDENTITY)
        # Citus brings what is set for databases along, also for those that it does not serve: all have to be there.
        here = server.rows("SELECT datname FROM pg_catalog.pg_database")
        for row in coordinator.rows("SELECT datname FROM pg_catalog.pg_database ORDER BY 1"):
            if row not in here:
                server.create_database(str(row[0]))
        if site.dbname != "postgres":
            server.sql("CREATE EXTENSION citus", dbname=site.dbname)
        stack.callback(_take_out, site, server, mode)
        site.sql("SELECT pg_catalog.citus_add_node(%s, %s::int)", list(server.address), deadline_s=60)
        rebalance(site, mode)
        yield server


def _take_out(site: Site, server: Server, mode: TransferMode) -> None:
    def put_back() -> None:
        start_all((*site.nodes, server))
        if not site.rows(
            "SELECT FROM pg_catalog.pg_dist_node WHERE nodename = %s AND nodeport = %s", list(server.address)
        ):
            return
        _drain(site, server.address, mode, _PUT_BACK_TRY_S)
        site.sql("SELECT pg_catalog.citus_remove_node(%s, %s::int)", list(server.address), deadline_s=30)

    insist(f"{server.name} to be out of the cluster", put_back, deadline_s=_PUT_BACK_DEADLINE_S)
