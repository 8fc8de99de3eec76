"""What the nodes of a local cluster are told: each setting with its reason."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import BadInputError
from harness.settings import CitusSettings

# What `CREATE EXTENSION citus` needs, in a template as in a node.
BASE_SETTINGS: Mapping[str, str] = {
    # Citus hooks the planner and the executor; it refuses to be created when it was not loaded at the start.
    "shared_preload_libraries": "citus",
    # Statistics of use are nobody's business, and a test must not wait for a network.
    "citus.enable_statistics_collection": "off",
}

# Without these there is no cluster: a caller may add libraries, not take Citus away.
_FIXED = frozenset({"citus.enable_statistics_collection"})


def node_settings(citus: CitusSettings, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings of one node.

    Args:
        citus: ``CITUS_*`` from the environment.
        extra: the caller's; they win. ``shared_preload_libraries`` gets Citus in front if it lacks it.

    Raises:
        BadInputError: ``extra`` changes what no node can be without.
    """
    wanted = dict(extra or {})
    taken = sorted(_FIXED & wanted.keys())
    if taken:
        raise BadInputError(f"setting {taken[0]} cannot be changed in a cluster", hint="leave it out")
    libraries = [each.strip() for each in wanted.pop("shared_preload_libraries", "").split(",") if each.strip()]
    settings = {
        **BASE_SETTINGS,
        # Moving a shard copies it by logical replication (F12).
        "wal_level": "logical",
        # Every session of a client may open a pool on each worker, and the workers sessions among themselves.
        "max_connections": "100",
        # A write to two workers is prepared on both; 0 would break create_distributed_table (ha.md, 5). Citus' own
        # choice, two a connection, written down so that it can be seen.
        "max_prepared_transactions": "200",
        # Each database of a cluster keeps one maintenance daemon here, beside parallel and replication workers; a
        # daemon without a slot is started again and again.
        "max_worker_processes": "32",
        # The default, sslmode=require, cannot be met: this PostgreSQL may be built without TLS (F28), and on
        # loopback there is nobody to hide from. Not prefer: asking first costs a round trip a connection.
        "citus.node_conninfo": "sslmode=disable",
        # A node reaches itself by this name; the default, localhost, may be ::1, where nobody listens.
        "citus.local_hostname": "127.0.0.1",
        # A frozen node is noticed on a new connection after 5 s rather than 30 (containers.md, faults); on loopback
        # a living one accepts within milliseconds, and two cores may be busy for a second.
        "citus.node_connection_timeout": "5000",
        # Every shard costs a refresh 4 to 5 ms on two cores (F30): few by default, CITUS_SHARD_COUNT changes it.
        "citus.shard_count": str(citus.shard_count),
        # More sessions a node for one query than there are cores only cost forks; the default is 16.
        "citus.max_adaptive_executor_pool_size": "4",
        # A transaction in doubt stops a refresh (D9): resolved after 10 s rather than a minute, within a test's time.
        "citus.recover_2pc_interval": "10s",
        **wanted,
    }
    if libraries:
        settings["shared_preload_libraries"] = ", ".join(["citus", *(each for each in libraries if each != "citus")])
    return settings
