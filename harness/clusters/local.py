"""A cluster of local processes: all nodes made, started and joined at once, and removed without a trace."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from harness.clusters.cluster import Cluster, in_parallel, in_parallel_or_first
from harness.clusters.configuration import node_settings
from harness.clusters.template import NEW_IDENTITY, fetch_citus_template
from harness.clusters.versions import check_pair, choose_citus_installation
from harness.errors import BadInputError
from harness.logs import get_logger
from harness.postgres.identity import server_user
from harness.postgres.installations import Installation
from harness.postgres.passwords import make_password, write_secret
from harness.postgres.server import Server
from harness.settings import load_citus_settings

MOST_WORKERS = 32
# The database from which `LocalCluster.create_database` copies: extension there, nodes registered.
_DATABASE_TEMPLATE = "harness_citus_template"

_numbers = itertools.count(1)
log = get_logger("clusters")


class LocalCluster(Cluster):
    """A cluster whose nodes are servers of our own: each can be stopped, killed, frozen and started again.

    Made by `local_cluster`. One password serves all nodes; each finds it in a password file of its own, see
    ``docs/clusters.md``.
    """

    def __init__(
        self, name: str, coordinator: Server, workers: Sequence[Server], *, start_time: Mapping[str, float]
    ) -> None:
        super().__init__(name, coordinator, workers, start_time=start_time)
        self._server_coordinator = coordinator
        self._server_workers = tuple(workers)
        self._has_database_template = False
        self._node_passwords = {"*": coordinator.password}

    @property
    def coordinator(self) -> Server:
        """The server that clients talk to."""
        return self._server_coordinator

    @property
    def workers(self) -> tuple[Server, ...]:
        """The servers that hold shards, in the order of their groups."""
        return self._server_workers

    @property
    def nodes(self) -> tuple[Server, ...]:
        """The coordinator, then the workers."""
        return (self.coordinator, *self.workers)

    def node(self, name: str) -> Server:
        """The server of this name (errors: see `Cluster.node`)."""
        super().node(name)
        return next(each for each in self.nodes if each.name == name)

    def create_database(self, dbname: str) -> None:
        """Make a database on all nodes, with Citus in it and all nodes registered, at once.

        The first call makes a template of it (0.5 s); each database after that is a copy on every node (0.03 s).

        Args:
            dbname: its name, on every node.

        Raises:
            psycopg.Error: a node said no, such as when it is there already.
            ExceptionGroup: several nodes said no.
        """
        if not self._has_database_template:
            self._make_database_template()
            self._has_database_template = True
        in_parallel(lambda node: node.create_database(dbname, template=_DATABASE_TEMPLATE), self.nodes)

    def _make_database_template(self) -> None:
        name = _DATABASE_TEMPLATE
        in_parallel(lambda node: node.create_database(name), self.nodes)
        in_parallel(lambda node: node.sql("CREATE EXTENSION citus", dbname=name), self.nodes)
        _join(self.coordinator, self.workers, dbname=name)
        self.close()

        def shut(node: Server) -> None:
            # A template must be left by all, Citus' own daemon included; nobody gets in again.
            node.sql(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(sql.Identifier(name)))
            node.sql(
                "SELECT pg_catalog.pg_terminate_backend(pid::int, 10000::bigint) FROM pg_catalog.pg_stat_activity"
                " WHERE datname = %s",
                [name],
            )

        in_parallel(shut, self.nodes)

    def drop_database(self, dbname: str) -> None:
        """Drop a database on all nodes at once, ending the sessions in it, Citus' own included."""

        def drop(node: Server) -> None:
            node.close()
            node.drop_database(dbname)

        in_parallel(drop, self.nodes)

    def create_role(self, role: str) -> None:
        """Make a role that can log in and use distributed tables; ``coordinator.dsn(user=role)`` knows its password.

        Citus carries the role to the workers with its stored SCRAM verifier, not the password: the nodes learn that
        from their password files.
        """
        self.coordinator.create_role(role)
        self._node_passwords[role] = str(conninfo_to_dict(self.coordinator.dsn(user=role))["password"])
        for node in self.nodes:
            _write_node_passwords(node, self._node_passwords)

    def detach(self) -> None:
        """Let all nodes outlive this process; see `harness.clusters.named`."""
        for node in self.nodes:
            node.detach()

    def destroy(self) -> None:
        """Stop every node and remove its directory (one that is kept stays, without processes).

        Raises:
            Exception: what failed on a node; an ExceptionGroup if several did. All others are gone.
        """
        in_parallel(lambda node: node.destroy(), self.nodes)


def _write_node_passwords(server: Server, passwords: Mapping[str, str]) -> None:
    # libpq inside the server looks for .pgpass in HOME, which is the server's own directory. The first line that
    # fits wins: the roles by name, then the one for all others.
    by_name = sorted(passwords.items(), key=lambda item: item[0] == "*")
    text = "".join(f"*:*:*:{_escape(role)}:{_escape(password)}\n" for role, password in by_name)
    user = server_user()
    write_secret(server.root / ".pgpass", text, user.uid, user.gid)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _join(coordinator: Server, workers: Sequence[Server], *, dbname: str | None = None) -> None:
    """Register all nodes, on the coordinator, in two round trips; each worker gets the metadata."""
    coordinator.sql(
        "SELECT pg_catalog.citus_set_coordinator_host(%s, %s::int)", [coordinator.host, coordinator.port], dbname=dbname
    )
    if workers:
        coordinator.sql(
            "SELECT pg_catalog.citus_add_node(%s, port) FROM unnest(%s::int[]) AS port",
            [coordinator.host, [worker.port for worker in workers]],
            dbname=dbname,
        )
    else:
        # A registered coordinator takes no shards of its own accord; alone it has to (ha.md, 5).
        coordinator.sql(
            "SELECT pg_catalog.citus_set_node_property(%s, %s::int, 'shouldhaveshards', true)",
            [coordinator.host, coordinator.port],
            dbname=dbname,
        )


class _Phases:
    """Where the time goes, phase by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started


def _create_all(create: Callable[[str], Server], names: Sequence[str], made: list[Server]) -> list[Server]:
    def one(name: str) -> Server:
        server = create(name)
        made.append(server)  # also when another one fails: then this one is destroyed
        return server

    return in_parallel_or_first(one, names)


def local_cluster(
    *,
    workers: int | None = None,
    name: str | None = None,
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
    installation: Installation | None = None,
) -> LocalCluster:
    """Start a coordinator and its workers on this machine, ready for a distributed table.

    All nodes are copied, started and given their identity at the same time. Whatever fails, no node is left. The
    cluster is destroyed by ``destroy()``, at the end of a ``with``, or at the latest when this process ends.

    Args:
        workers: how many; default ``CITUS_WORKERS``, which is 2. With 0 the coordinator holds the shards.
        name: for messages.
        settings: for every node; they win over ours.
        keep: leave the directories at the end, and say where they are.
        installation: whose binaries; default the first with a supported Citus.

    Returns:
        The running cluster; ``start_time`` has the phases ``template``, ``copy``, ``start``, ``identity`` and
        ``join`` in seconds.

    Raises:
        CitusMissingError: no PostgreSQL here has Citus; says where it looked.
        UnsupportedVersionError: the pair of PostgreSQL and Citus is not supported.
        BadInputError: a number of workers or a setting that cannot be used.
        ServerStartError: a node did not start; all others were removed. If several failed, the first one, caused
            by the group of all.
    """
    citus = load_citus_settings()
    count = citus.workers if workers is None else workers
    if not 0 <= count <= MOST_WORKERS:
        raise BadInputError(f"{count} workers cannot be started", hint=f"0 to {MOST_WORKERS}")
    chosen = installation or choose_citus_installation()
    check_pair(chosen.major, chosen.citus_version or "none", where=str(chosen.bindir))
    wanted = node_settings(citus, settings)
    phases = _Phases()
    with phases.phase("template"):
        template = fetch_citus_template(chosen)
    password = make_password()
    options: dict[str, Any] = {"settings": wanted, "keep": keep, "password": password, "template": template}
    names = ["coordinator", *(f"worker-{number}" for number in range(1, count + 1))]
    made: list[Server] = []
    try:
        with phases.phase("copy"):
            servers = _create_all(lambda each: Server.create(chosen, name=each, **options), names, made)
        with phases.phase("start"):
            for server in servers:
                _write_node_passwords(server, {"*": password})
                server.start(wait=False)
            in_parallel_or_first(lambda server: server.wait_ready(), servers)
        with phases.phase("identity"):
            in_parallel_or_first(lambda server: server.sql(NEW_IDENTITY), servers)
        with phases.phase("join"):
            _join(servers[0], servers[1:])
    except BaseException as error:
        _tear_down(made, error)
        raise
    cluster = LocalCluster(name or f"cluster-{next(_numbers)}", servers[0], servers[1:], start_time=phases.seconds)
    log.info("cluster started", cluster=cluster.name, workers=count, **cluster.start_time)
    return cluster


def _tear_down(servers: Sequence[Server], cause: BaseException) -> None:
    """Remove every node of a start that failed; what cannot be removed is added to the cause as a note."""

    def discard(server: Server) -> None:
        server.keep = False  # nothing to look at that the error's log tail does not say
        server.destroy()

    try:
        in_parallel(discard, servers)
    except Exception as error:
        cause.add_note(f"and the nodes could not be removed: {error}")
