"""Every fault by its name, for whoever draws them at random: where it applies, and how one is made."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from psycopg import sql

from harness.errors import EnvironmentMissingError, ServerError
from harness.faults import backends, links, nodes, resources, topology, transactions
from harness.faults.proxy import Direction, Mode
from harness.faults.site import Site
from harness.faults.undoing import wait_for_workers
from harness.postgres.server_node import ServerNode

# Long enough to be felt by every statement, short enough that a refresh of thirty statements ends.
_SLOW_S = 0.02

Make = Callable[[Site, random.Random], AbstractContextManager[str]]


@dataclass(frozen=True)
class Fault:
    """A fault that can be drawn by name.

    Attributes:
        name: its name.
        about: what it does, in one line.
        make: makes one on a site; all that is chosen is chosen by the generator. Yields what was done, in words.
        needs: what the site must have: ``workers`` (so many), ``local`` processes, Citus.
    """

    name: str
    about: str
    make: Make
    needs_workers: int = 0
    needs_local: bool = False
    needs_citus: bool = False
    needs_prepared: bool = False

    def applies(self, site: Site) -> bool:
        """Whether it can be done there."""
        return (
            len(site.workers) >= self.needs_workers
            and (site.is_local or not self.needs_local)
            and (site.has_citus or not self.needs_citus)
            and (not self.needs_prepared or site.coordinator.show("max_prepared_transactions") != "0")
        )

    def inject(self, site: Site, rng: random.Random) -> AbstractContextManager[str]:
        """The fault, for a block; undone at its end, however that ends.

        Args:
            site: where it `applies`.
            rng: chooses node, process, shard; the same state of it chooses the same.

        Returns:
            A context that yields what was done, in words.
        """
        return self.make(site, rng)


def _workers_or_all(site: Site) -> tuple[ServerNode, ...]:
    return site.workers or site.nodes


@contextmanager
def _coordinator_killed(site: Site, _rng: random.Random) -> Iterator[str]:
    with nodes.node_killed(site.coordinator):
        yield f"{site.coordinator.name} killed"


@contextmanager
def _worker_killed(site: Site, rng: random.Random) -> Iterator[str]:
    worker = site.worker(rng)
    with nodes.node_killed(worker):
        yield f"{worker.name} killed"
    wait_for_workers(site)


@contextmanager
def _coordinator_frozen(site: Site, _rng: random.Random) -> Iterator[str]:
    with nodes.node_frozen(site.coordinator):
        yield f"{site.coordinator.name} frozen"


@contextmanager
def _worker_frozen(site: Site, rng: random.Random) -> Iterator[str]:
    worker = site.worker(rng)
    with nodes.node_frozen(worker):
        yield f"{worker.name} frozen"


@contextmanager
def _all_restarted(site: Site, rng: random.Random) -> Iterator[str]:
    is_orderly = rng.random() < 0.5
    nodes.restart_all(site, "fast" if is_orderly else "immediate")
    wait_for_workers(site)
    yield f"all nodes restarted ({'fast' if is_orderly else 'immediate'})"


def _one_backend(site: Site, node: ServerNode, rng: random.Random) -> backends.Backend | None:
    found = backends.fetch_backends(node, site.dbname)
    return rng.choice(found) if found else None


@contextmanager
def _backend_killed(site: Site, rng: random.Random) -> Iterator[str]:
    node = site.local(rng.choice(site.nodes))
    found = _one_backend(site, node, rng)
    with contextlib.ExitStack() as stack:
        words = f"no backend to kill on {node.name}"
        if found is not None:
            with contextlib.suppress(ServerError):  # it ended by itself
                stack.enter_context(backends.backend_killed(node, found.pid))
                words = f"backend {found.pid} of {node.name} killed ({found.application_name or 'unnamed'})"
        yield words


@contextmanager
def _backend_terminated(site: Site, rng: random.Random) -> Iterator[str]:
    node = rng.choice(site.nodes)
    found = _one_backend(site, node, rng)
    if found is None:
        yield f"no backend to terminate on {node.name}"
        return
    backends.terminate_backend(node, found.pid)
    yield f"backend {found.pid} of {node.name} terminated ({found.application_name or 'unnamed'})"


@contextmanager
def _backend_frozen(site: Site, rng: random.Random) -> Iterator[str]:
    node = site.local(rng.choice(site.nodes))
    found = _one_backend(site, node, rng)
    with contextlib.ExitStack() as stack:
        words = f"no backend to freeze on {node.name}"
        if found is not None:
            with contextlib.suppress(ServerError):
                stack.enter_context(backends.backend_frozen(node, found.pid))
                words = f"backend {found.pid} of {node.name} frozen ({found.application_name or 'unnamed'})"
        yield words


def _link(mode: Mode, words: str, *, latency_s: float = 0.0, direction: Direction = "both") -> Make:
    @contextmanager
    def make(site: Site, rng: random.Random) -> Iterator[str]:
        worker = site.worker(rng)
        with contextlib.ExitStack() as stack:
            link = site.links.get(worker.name) or stack.enter_context(links.linked(site, worker))
            stack.enter_context(link.broken(mode, latency_s=latency_s, direction=direction))
            yield f"link to {worker.name} {words}"

    return make


@contextmanager
def _disk_full(site: Site, rng: random.Random) -> Iterator[str]:
    node = site.local(rng.choice(_workers_or_all(site)))
    found = resources.fetch_buffers(node, site.dbname, has_citus=site.has_citus)
    if not found:
        yield f"no change buffer on {node.name} to put on a full disk"
        return
    schema, name = rng.choice(found)
    with resources.disk_full(node, site.dbname, [sql.Identifier(schema, name)]):
        yield f"{schema}.{name} of {node.name} on a full disk"


def _prepared(kind: str) -> Make:
    @contextmanager
    def make(site: Site, rng: random.Random) -> Iterator[str]:
        node = rng.choice(_workers_or_all(site))
        gid = transactions.foreign_gid() if kind == "foreign" else transactions.citus_gid()
        with transactions.prepared(node, site.dbname, gid):
            yield f"{gid} prepared on {node.name}"

    return make


@contextmanager
def _commits_held(site: Site, _rng: random.Random) -> Iterator[str]:
    with transactions.commits_held(site.coordinator):
        yield f"commits on {site.coordinator.name} held"


@contextmanager
def _lease_expired(site: Site, _rng: random.Random) -> Iterator[str]:
    with transactions.leases_expired(site) as holders:
        yield f"deadlines in the past: {len(holders)}"


@contextmanager
def _connections_used_up(site: Site, rng: random.Random) -> Iterator[str]:
    node = rng.choice(site.nodes)
    with resources.connections_used_up(node, site.dbname) as count:
        yield f"{count} connections taken on {node.name}, none left"


@contextmanager
def _shard_moved(site: Site, rng: random.Random) -> Iterator[str]:
    with topology.shard_moved(site, rng) as moved:
        yield f"shard {moved.shard_id} of {moved.table} moved away from {moved.node}"


@contextmanager
def _rebalanced(site: Site, _rng: random.Random) -> Iterator[str]:
    topology.rebalance(site, "block_writes")
    yield "shards rebalanced"


@contextmanager
def _worker_added(site: Site, _rng: random.Random) -> Iterator[str]:
    with topology.worker_added(site, "block_writes") as server:
        yield f"{server.name} added"


@contextmanager
def _worker_drained(site: Site, rng: random.Random) -> Iterator[str]:
    worker = site.worker(rng)
    with topology.worker_drained(site, worker, "block_writes"):
        yield f"{worker.name} drained"


@contextmanager
def _worker_removed(site: Site, rng: random.Random) -> Iterator[str]:
    worker = site.worker(rng)
    with topology.worker_removed(site, worker, "block_writes"):
        yield f"{worker.name} removed"


def small_disks_exist() -> bool:
    """Whether this system lets us make the small disk that `disk_full` takes."""
    try:
        with resources.small_disk(1 << 20):
            return True
    except EnvironmentMissingError:
        return False


_ALL = (
    Fault("coordinator_killed", "kill -9 of the coordinator, or of the one server", _coordinator_killed),
    Fault("worker_killed", "kill -9 of a worker", _worker_killed, needs_workers=1),
    Fault("coordinator_frozen", "SIGSTOP of the coordinator, or of the one server", _coordinator_frozen),
    Fault("worker_frozen", "SIGSTOP of a worker", _worker_frozen, needs_workers=1),
    Fault("all_restarted", "every node stopped and started", _all_restarted),
    Fault("backend_killed", "kill -9 of a session's process: its node recovers", _backend_killed, needs_local=True),
    Fault("backend_terminated", "pg_terminate_backend of a session", _backend_terminated),
    Fault("backend_frozen", "SIGSTOP of a session's process", _backend_frozen, needs_local=True),
    Fault("link_cut", "connections to a worker are reset", _link("cut", "cut"), needs_workers=1, needs_local=True),
    Fault("link_refused", "a worker's address refuses", _link("refuse", "refused"), needs_workers=1, needs_local=True),
    Fault(
        "link_half_open",
        "a worker is not told that its clients are gone",
        _link("half_open", "half open"),
        needs_workers=1,
        needs_local=True,
    ),
    Fault("link_black_hole", "a worker falls silent", _link("black_hole", "silent"), needs_workers=1, needs_local=True),
    Fault(
        "link_one_way",
        "a worker hears, and its answers do not arrive",
        _link("black_hole", "silent one way", direction="back"),
        needs_workers=1,
        needs_local=True,
    ),
    Fault(
        "link_slow",
        "each piece of data to and from a worker is held for 20 ms",
        _link("slow", "slow", latency_s=_SLOW_S),
        needs_workers=1,
        needs_local=True,
    ),
    Fault("disk_full", "a change buffer lies on a disk that is full", _disk_full, needs_local=True),
    Fault("prepared_foreign", "a prepared transaction of somebody's", _prepared("foreign"), needs_prepared=True),
    Fault(
        "prepared_citus",
        "a prepared transaction of Citus' name",
        _prepared("citus"),
        needs_prepared=True,
        needs_citus=True,
    ),
    Fault("commits_held", "commits stand between their two phases", _commits_held),
    Fault("lease_expired", "the deadlines of leases are in the past", _lease_expired, needs_citus=True),
    Fault("connections_used_up", "no place for another session on a node", _connections_used_up),
    Fault("shard_moved", "a shard moves to another worker, and back", _shard_moved, needs_workers=2),
    Fault("rebalanced", "shards are spread evenly", _rebalanced, needs_workers=2),
    Fault(
        "worker_added", "a worker more, with shards, and gone again", _worker_added, needs_workers=1, needs_local=True
    ),
    Fault("worker_drained", "a worker without shards, and with them again", _worker_drained, needs_workers=2),
    Fault("worker_removed", "a worker less, and back under another number", _worker_removed, needs_workers=2),
)

FAULTS: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in _ALL})
