"""A cluster that somebody else runs, given by its coordinator's DSN; it is only read, never started or stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.clusters.cluster import in_parallel_or_first
from harness.clusters.databases import DatabaseCluster
from harness.clusters.topology import NODES_QUERY, VERSION_QUERY, NodeRecord
from harness.clusters.versions import check_pair, supported_pairs_text
from harness.errors import BadInputError, ConnectionRefusedByInput, NotACoordinatorError
from harness.logs import get_logger, redact
from harness.postgres.addresses import reach
from harness.postgres.administered import AdministeredNode
from harness.postgres.node import DsnNode

# A coordinator that does not answer within this time is reported rather than waited for; libpq's own
# default is to wait for as long as the kernel retries, about two minutes.
CONNECT_TIMEOUT_S = 10

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

log = get_logger("clusters")


@dataclass(frozen=True)
class _Identity:
    """What a database says about itself before anything else is asked of it."""

    postgres_major: int
    citus_version: str | None
    group_id: int | None
    nodes: tuple[NodeRecord, ...]
    host: str
    port: int
    dbname: str
    password: str = field(repr=False)

    @property
    def where(self) -> str:
        return f"{self.dbname} on {self.host}:{self.port}"


def _parse(dsn: str) -> dict[str, Any]:
    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq quotes the string, which may hold a password: its words stay here.
        raise BadInputError(
            "this is no DSN",
            hint="use postgresql://user@host:port/database (a % in a password is written %25)"
            " or host=... port=... dbname=...",
        ) from None
    return {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "harness"} | parameters


def _identify(parameters: dict[str, Any], *, what: str) -> _Identity:
    """Connect once and read versions and nodes; refuses what cannot be reached, by name."""
    try:
        connection = psycopg.connect(make_conninfo(**parameters), autocommit=True)
    except psycopg.OperationalError as error:
        host, port = parameters.get("host", "the default host"), parameters.get("port", 5432)
        raise ConnectionRefusedByInput(
            f"{what} at {host}:{port} cannot be reached: {redact(str(error)).strip()}",
            hint="check host, port, database, user and password (PGPASSWORD and ~/.pgpass are read too)",
        ) from None
    with connection:
        info = connection.info
        version = connection.execute(VERSION_QUERY).fetchone()
        group: int | None = None
        nodes: tuple[NodeRecord, ...] = ()
        if version is not None:
            row = connection.execute("SELECT groupid FROM pg_catalog.pg_dist_local_group").fetchone()
            group = None if row is None else row[0]
            nodes = tuple(NodeRecord(*each) for each in connection.execute(NODES_QUERY).fetchall())
        return _Identity(
            info.server_version // 10_000,
            version[0] if version else None,
            group,
            nodes,
            info.host,
            info.port,
            info.dbname,
            info.password,
        )


def _refuse_unless_coordinator(identity: _Identity) -> None:
    if identity.citus_version is None:
        raise NotACoordinatorError(
            f"{identity.where} is not a Citus coordinator: the database has no extension citus",
            hint="name the database in which CREATE EXTENSION citus was run",
        )
    check_pair(identity.postgres_major, identity.citus_version, where=identity.where)
    if identity.group_id != 0:
        coordinator = next((node for node in identity.nodes if node.group_id == 0), None)
        hint = (
            f"its coordinator is {coordinator.host}:{coordinator.port}" if coordinator else "give the coordinator's DSN"
        )
        raise NotACoordinatorError(
            f"{identity.where} is not the coordinator but a worker, group {identity.group_id}", hint=hint
        )


def _worker_parameters(
    parameters: dict[str, Any], record: NodeRecord, coordinator_host: str, password: str = ""
) -> dict[str, Any]:
    """The coordinator's credentials at a worker's address.

    A worker registered as localhost is on the coordinator's machine, which need not be this one. The password is the
    one that the coordinator took, wherever it came from: a password file need not name the workers.
    """
    host = record.host
    if host in _LOOPBACK and not coordinator_host.startswith("/"):
        host = coordinator_host
    kept = {key: value for key, value in parameters.items() if key not in {"hostaddr", "target_session_attrs"}}
    host, port = reach(record.host, record.port) if host == record.host else (host, record.port)
    return kept | {"host": host, "port": port} | ({"password": password} if password else {})


def _refuse_unless_worker(record: NodeRecord, identity: _Identity, coordinator: _Identity) -> None:
    if identity.citus_version != coordinator.citus_version or identity.postgres_major != coordinator.postgres_major:
        # Citus itself wants equal versions; a cluster in the middle of its upgrade is no base for a rehearsal.
        found = f"Citus {identity.citus_version} on PostgreSQL {identity.postgres_major}"
        wanted = f"Citus {coordinator.citus_version} on PostgreSQL {coordinator.postgres_major}"
        raise NotACoordinatorError(
            f"worker group {record.group_id} ({identity.where}) has {found}, the coordinator has {wanted}",
            hint=f"finish the upgrade of the cluster first; supported: {supported_pairs_text()}",
        )
    if identity.group_id != record.group_id:
        raise NotACoordinatorError(
            f"{identity.where} is registered as group {record.group_id} and believes to be group {identity.group_id}",
            hint="another cluster answers at this address; correct pg_dist_node with citus_update_node",
        )


class ExistingNode(DsnNode, AdministeredNode):
    """A node of a cluster that somebody else runs.

    Args:
        name: for messages.
        dsn: how this process reaches it.
        address: as ``pg_dist_node`` has it.
    """

    def __init__(self, name: str, dsn: str, address: tuple[str, int]) -> None:
        super().__init__(name, dsn)
        self._address = address

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as the other nodes reach it."""
        return self._address


class ExistingCluster(DatabaseCluster):
    """A cluster that somebody else runs: it can be asked, and given databases of our own that are dropped again."""

    def destroy(self) -> None:
        """Drop what `create_database` copied from, if it was called, and close the connections."""
        try:
            self.drop_database_template()
        finally:
            self.close()


def existing_cluster(dsn: str) -> ExistingCluster:
    """The cluster whose coordinator this DSN leads to.

    Reads ``pg_dist_node`` there, connects once to every active primary worker with the coordinator's
    credentials, and changes nothing anywhere. ``destroy()`` only closes connections.

    Args:
        dsn: the coordinator's, as a URI or as keywords; libpq's environment and password file are read too.

    Returns:
        The cluster; ``start_time`` is empty. A worker's host is what ``pg_dist_node`` says, or the
        coordinator's own where that says localhost.

    Raises:
        BadInputError: the text is no DSN.
        ConnectionRefusedByInput: the coordinator or a worker cannot be reached; names it.
        NotACoordinatorError: a plain database, a worker, or workers that do not belong to this coordinator.
        UnsupportedVersionError: PostgreSQL and Citus are no supported pair.
    """
    parameters = _parse(dsn)
    coordinator = _identify(parameters, what="the coordinator")
    _refuse_unless_coordinator(coordinator)
    primaries = [node for node in coordinator.nodes if node.group_id > 0 and node.role == "primary"]
    for node in primaries:
        if not node.is_active:
            log.warning("a disabled worker is left out", host=node.host, port=node.port, group=node.group_id)
    records = [node for node in primaries if node.is_active]
    places = [_worker_parameters(parameters, record, coordinator.host, coordinator.password) for record in records]

    def look(pair: tuple[NodeRecord, dict[str, Any]]) -> None:
        record, place = pair
        _refuse_unless_worker(record, _identify(place, what=f"worker group {record.group_id}"), coordinator)

    in_parallel_or_first(look, list(zip(records, places, strict=True)))
    workers = [
        ExistingNode(f"worker-{number}", make_conninfo(**place), (record.host, record.port))
        for number, (record, place) in enumerate(zip(records, places, strict=True), start=1)
    ]
    registered = next((node for node in coordinator.nodes if node.group_id == 0 and node.role == "primary"), None)
    own = (registered.host, registered.port) if registered else (coordinator.host, coordinator.port)
    name = f"cluster at {coordinator.host}:{coordinator.port}"
    return ExistingCluster(name, ExistingNode("coordinator", make_conninfo(**parameters), own), workers)
