"""Clusters with a name that outlive the command that started them: written down, looked at, taken down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from filelock import FileLock
from psycopg.conninfo import make_conninfo

from harness.clusters.cluster import Cluster, in_parallel
from harness.clusters.local import LocalCluster, local_cluster
from harness.clusters.topology import prove_topology
from harness.errors import BadInputError, HarnessError, ServerError
from harness.logs import redact
from harness.postgres.lifetime import kill_server_in, read_marker
from harness.postgres.node import DsnNode
from harness.postgres.places import own_directory, run_dir
from harness.postgres.processes import find_postmaster
from harness.postgres.server import Server

STATE_SCHEMA = "urn:pgtrickle-citus-harness:cluster-state:1"
# A living node on loopback answers at once; a frozen one never does, and `status` must say so soon.
_PROBE_TIMEOUT_S = 3
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class NodeState:
    """Where one node of a named cluster is.

    Attributes:
        name: ``coordinator``, ``worker-1`` and so on.
        host, port: where it listens.
        root: the server's directory; ``pgpass`` in it holds the password.
        bindir: whose programs it runs.
    """

    name: str
    host: str
    port: int
    root: str
    bindir: str

    @property
    def password_file(self) -> Path:
        """libpq's password file for this node, readable by the servers' user (and root) only."""
        return Path(self.root) / "pgpass"

    @property
    def safe_dsn(self) -> str:
        """How to reach it, without the password."""
        return f"postgresql://{Server.superuser}@{self.host}:{self.port}/postgres"

    def node(self) -> DsnNode:
        """The node as something to ask; the password is read from its file by libpq."""
        return DsnNode(
            self.name,
            make_conninfo(
                "",
                host=self.host,
                port=self.port,
                user=Server.superuser,
                dbname="postgres",
                passfile=str(self.password_file),
                sslmode="disable",
                gssencmode="disable",
            ),
        )


@dataclass(frozen=True)
class ClusterState:
    """A named cluster as it is written down; holds no password.

    Attributes:
        name: the name.
        created_at: when, in UTC, ISO 8601.
        citus_version, postgres_version: what it runs.
        nodes: the coordinator, then the workers.
        start_time: where the time of its start went, in seconds.
    """

    name: str
    created_at: str
    citus_version: str
    postgres_version: str
    nodes: tuple[NodeState, ...]
    start_time: Mapping[str, float] = field(default_factory=dict)

    @property
    def coordinator(self) -> NodeState:
        """The node that clients talk to."""
        return self.nodes[0]

    def node(self, name: str) -> NodeState:
        """The node of this name.

        Raises:
            BadInputError: there is none; the hint names those that there are.
        """
        for each in self.nodes:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in self.nodes)
        raise BadInputError(f"cluster {self.name!r} has no node {name!r}", hint=f"its nodes: {names}")


@dataclass(frozen=True)
class NodeStatus:
    """How one node is.

    Attributes:
        state: where it is.
        pid: its postmaster; None if it does not run.
        version: what it answered as its version; None if it did not answer.
        problem: what is wrong, in one line; empty if nothing is.
    """

    state: NodeState
    pid: int | None
    version: str | None
    problem: str


@dataclass(frozen=True)
class ClusterStatus:
    """How a named cluster is; ``problem`` is about all of it, such as nodes that disagree."""

    state: ClusterState
    nodes: tuple[NodeStatus, ...]
    problem: str

    @property
    def is_healthy(self) -> bool:
        """Whether every node answers and all agree about the cluster."""
        return not self.problem and not any(node.problem for node in self.nodes)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} is no name for a cluster",
            hint="small letters, digits, _ and -, at most 32, a letter or digit first",
        )
    return name


def _directory() -> Path:
    return own_directory(run_dir() / "clusters")


def _state_file(name: str) -> Path:
    return _directory() / f"{_check_name(name)}.json"


@contextlib.contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The state file of ``name``, with nobody else changing any meanwhile."""
    path = _state_file(name)
    with FileLock(path.with_name(".lock"), thread_local=False, mode=0o600):
        yield path


def _write(path: Path, state: ClusterState) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"schema": STATE_SCHEMA, **asdict(state)}, file, indent=1)
    fresh.replace(path)


def _read(path: Path) -> ClusterState:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = document.pop("schema")
        nodes = tuple(NodeState(**node) for node in document.pop("nodes"))
        state = ClusterState(nodes=nodes, **document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} cannot be read as a cluster: {error!r}", hint="remove the file") from None
    if schema != STATE_SCHEMA or not state.nodes:
        raise BadInputError(f"{path} was written by another version: {schema!r}", hint="remove the file")
    return state


def cluster_names() -> tuple[str, ...]:
    """The names of all clusters that are written down in the present run directory."""
    return tuple(sorted(path.stem for path in _directory().glob("*.json")))


def load_cluster(name: str) -> ClusterState:
    """What is written down about a named cluster.

    Raises:
        BadInputError: there is no such name (the hint lists those that there are), or its file cannot be read.
    """
    path = _state_file(name)
    if not path.exists():
        names = ", ".join(cluster_names())
        hint = f"there are: {names}" if names else f"start one with: harness cluster up --name {name}"
        raise BadInputError(f"there is no cluster named {name!r} in {path.parent}", hint=hint)
    return _read(path)


def _describe(name: str, cluster: LocalCluster) -> ClusterState:
    installation = cluster.coordinator.installation
    return ClusterState(
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        citus_version=installation.citus_version or "",
        postgres_version=installation.version,
        nodes=tuple(
            NodeState(node.name, node.host, node.port, str(node.root), str(node.installation.bindir))
            for node in cluster.nodes
        ),
        start_time=dict(cluster.start_time),
    )


def start_named(name: str, *, workers: int | None = None) -> ClusterState:
    """Start a local cluster that stays when this process ends, until `stop_named`.

    Args:
        name: how it is called from then on.
        workers: how many; default ``CITUS_WORKERS``.

    Returns:
        What was written down: a file of mode 0600 without a password.

    Raises:
        BadInputError: the name is taken or none.
        CitusMissingError, UnsupportedVersionError, ServerStartError: see `local_cluster`; nothing is left.
    """
    with _locked(name) as path:
        if path.exists():
            state = _read(path)
            runs = "runs already" if any(_postmaster_pid(node) for node in state.nodes) else "is there and does not run"
            raise BadInputError(
                f"a cluster named {name!r} {runs} (since {state.created_at})",
                hint=f"take it down with: harness cluster down --name {name}",
            )
        cluster = local_cluster(workers=workers, name=name)
        state = _describe(name, cluster)
        try:
            # Written first: should this process die between two nodes, `down` finds those that were let go.
            _write(path, state)
            cluster.detach()
        except BaseException:
            path.unlink(missing_ok=True)
            cluster.destroy()
            raise
    return state


def _postmaster_pid(node: NodeState) -> int | None:
    postmaster = find_postmaster(Path(node.root) / "data")
    return None if postmaster is None else postmaster.pid


def _look(state: NodeState) -> NodeStatus:
    pid = _postmaster_pid(state)
    if pid is None:
        gone = "" if Path(state.root).exists() else ", its directory is gone"
        return NodeStatus(state, None, None, f"does not run{gone}")
    try:
        connection = state.node().connect(connect_timeout_s=_PROBE_TIMEOUT_S, deadline_s=_PROBE_TIMEOUT_S)
        with connection:
            row = connection.execute("SELECT pg_catalog.current_setting('server_version')").fetchone()
    except (psycopg.Error, HarnessError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        return NodeStatus(state, pid, None, f"runs and does not answer: {redact(reason)}")
    return NodeStatus(state, pid, None if row is None else str(row[0]), "")


def fetch_status(name: str) -> ClusterStatus:
    """Look at a named cluster; changes nothing, and answers within seconds even if a node is frozen.

    Raises:
        BadInputError: there is no such name.
    """
    state = load_cluster(name)
    nodes = tuple(in_parallel(_look, state.nodes))
    if any(node.problem for node in nodes):
        return ClusterStatus(state, nodes, "not every node answers")
    workers = [node.node() for node in state.nodes[1:]]
    problem = ""
    with Cluster(state.name, state.coordinator.node(), workers) as cluster:
        for node in cluster.nodes:
            node.statement_deadline_s = _PROBE_TIMEOUT_S
        try:
            prove_topology(cluster, workers=len(workers))
        except (HarnessError, psycopg.Error) as error:
            problem = redact(str(error).strip().splitlines()[0])
    return ClusterStatus(state, nodes, problem)


def _remove(node: NodeState) -> None:
    root = Path(node.root)
    if not root.exists():
        return
    if read_marker(root).get("mode") == "detached":
        Server.attach(root).destroy()
        return
    # Let go by no one: `up` died before. Its directory may lack anything, so only what is certain is done.
    kill_server_in(root)
    shutil.rmtree(root)


def stop_named(name: str) -> ClusterState:
    """Take a named cluster down: all processes, all directories, and its name.

    Raises:
        BadInputError: there is no such name.
        ServerError: some node could not be removed; its name stays, so that it can be tried again.
    """
    with _locked(name) as path:
        state = load_cluster(name)
        try:
            in_parallel(_remove, state.nodes)
        except Exception as error:
            raise ServerError(
                f"cluster {name!r} could not be taken down: {redact(str(error))}",
                hint=f"try again; its directories: {', '.join(node.root for node in state.nodes)}",
            ) from error
        path.unlink()
    return state
