"""The standard cluster of the inspectors' tests: every kind of table, hostile names, one hot tenant, four roles.

`scenarios.fixtures.inspected` has it as fixtures. Nothing that belongs to it may be changed by a test: who needs
another state builds a cluster of its own, with `SETTINGS` and `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import LiteralString

from psycopg import sql

from harness.clusters import RunningCluster
from harness.inspectors.role import apply_role

# Still pictures: nothing recovers, cleans up, vacuums or starts a new period while a test looks.
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "shared_preload_libraries": "citus, pg_stat_statements",
        "wal_level": "logical",
        "max_prepared_transactions": "200",
        "max_connections": "200",
        "autovacuum": "off",
        # Which connections a look opens is read from the logs.
        "log_connections": "on",
        "citus.recover_2pc_interval": "-1",
        "citus.defer_shard_delete_interval": "-1",
        "citus.stat_tenants_period": "3600",
    }
)
SHARDS = 8
# 80 % of the rows belong to tenant 1.
ROWS, HOT_TENANT, HOT_ROWS = 60_000, 1, 48_000
HOSTILE_SCHEMA = "My Sch"
HOSTILE_TABLE = 'Weird.Tab""le; drop table app.orders; --'
# With a shard's number behind it, it does not fit into 63 bytes: Citus shortens and hashes it.
LONG_TABLE = "a_table_whose_name_leaves_no_room_for_the_number_of_a_shard_x"

_DDL: LiteralString = """
    CREATE SCHEMA app;
    CREATE TABLE app.orders (tenant_id bigint, id bigint, amount numeric, note text, PRIMARY KEY (tenant_id, id));
    CREATE INDEX orders_amount ON app.orders (amount);
    CREATE TABLE app.items (tenant_id bigint, order_id bigint, id bigint, PRIMARY KEY (tenant_id, order_id, id));
    SELECT create_distributed_table('app.orders', 'tenant_id', shard_count := 8, colocate_with := 'none');
    SELECT create_distributed_table('app.items', 'tenant_id', colocate_with := 'app.orders');
    CREATE TABLE app.countries (code text PRIMARY KEY, name text);
    SELECT create_reference_table('app.countries');
    CREATE TABLE app.events (device_id bigint, at timestamptz NOT NULL, payload text) PARTITION BY RANGE (at);
    SELECT create_time_partitions('app.events', interval '1 month', timestamptz '2026-04-01 00:00+00',
                                  timestamptz '2026-01-01 00:00+00');
    SELECT create_distributed_table('app.events', 'device_id', shard_count := 4, colocate_with := 'none');
    CREATE TABLE app.managed (id bigint PRIMARY KEY);
    SELECT citus_add_local_table_to_metadata('app.managed');
    CREATE TABLE app.single (id bigint PRIMARY KEY, note text);
    SELECT create_distributed_table('app.single', NULL, colocate_with := 'none');
    CREATE TABLE app.plain (id bigint PRIMARY KEY);
"""
_NAMED: LiteralString = """
    CREATE SCHEMA {schema};
    CREATE TABLE {hostile} ("Key" bigint, "a 'b" text);
    CREATE INDEX "In dex" ON {hostile} ("Key");
    SELECT create_distributed_table({hostile_text}, 'Key', shard_count := 4, colocate_with := 'none');
    CREATE TABLE {long} (id bigint PRIMARY KEY);
    SELECT create_distributed_table({long_text}, 'id', shard_count := 4, colocate_with := 'none');
    SET citus.enable_schema_based_sharding = on;
    CREATE SCHEMA tenant_a;
    CREATE SCHEMA tenant_b;
    CREATE TABLE tenant_a.notes (id bigint PRIMARY KEY, note text);
    CREATE TABLE tenant_a.tags (id bigint PRIMARY KEY);
    CREATE TABLE tenant_b.notes (id bigint PRIMARY KEY, note text);
    SET citus.enable_schema_based_sharding = off;
"""
_ROWS: LiteralString = """
    INSERT INTO app.orders
    SELECT CASE WHEN n <= 48000 THEN 1 ELSE 2 + n % 200 END, n, n, pg_catalog.repeat('x', 100)
      FROM pg_catalog.generate_series(1, 60000) n;
    INSERT INTO app.items SELECT 1 + n % 20, n, 1 FROM pg_catalog.generate_series(1, 2000) n;
    INSERT INTO app.countries VALUES ('at', 'Austria'), ('pt', 'Portugal');
    INSERT INTO app.events
    SELECT n % 50, timestamptz '2026-01-01 00:00+00' + n * interval '2 hours', 'p' FROM
           pg_catalog.generate_series(0, 999) n;
    INSERT INTO app.managed VALUES (1);
    INSERT INTO app.single VALUES (1, 'one');
    INSERT INTO app.plain VALUES (1);
    INSERT INTO tenant_a.notes SELECT n, pg_catalog.repeat('y', 200) FROM pg_catalog.generate_series(1, 5000) n;
    INSERT INTO tenant_b.notes VALUES (1, 'z');
"""
# What Citus knows: name -> (kind as the inspectors call it, shards).
PARTITIONS = ("events_p2026_01", "events_p2026_02", "events_p2026_03")
TABLES: Mapping[tuple[str, str], tuple[str, int]] = MappingProxyType(
    {
        ("app", "orders"): ("distributed", SHARDS),
        ("app", "items"): ("distributed", SHARDS),
        ("app", "countries"): ("reference", 1),
        ("app", "events"): ("distributed", 4),
        **{("app", name): ("distributed", 4) for name in PARTITIONS},
        ("app", "managed"): ("local", 1),
        ("app", "single"): ("single_shard", 1),
        (HOSTILE_SCHEMA, HOSTILE_TABLE): ("distributed", 4),
        ("app", LONG_TABLE): ("distributed", 4),
        ("tenant_a", "notes"): ("schema", 1),
        ("tenant_a", "tags"): ("schema", 1),
        ("tenant_b", "notes"): ("schema", 1),
    }
)
# mon: pg_monitor. plain: nothing at all. reader: may read schema app and tenant_a, no other.
# inspector: what `harness inspect setup-role` makes.
ROLES = ("mon", "plain", "reader", "inspector")


@dataclass(frozen=True)
class Standard:
    """The standard cluster, running.

    Attributes:
        cluster: 1+2; tests read it and leave it as it is.
    """

    cluster: RunningCluster

    def dsn(self, role: str | None = None) -> str:
        """How a role reaches the coordinator, password included; None: the superuser."""
        return self.cluster.coordinator.dsn(user=role)

    @property
    def node_names(self) -> tuple[str, ...]:
        """``host:port`` of the nodes as Citus has them, by group."""
        rows = self.cluster.rows("SELECT nodename, nodeport FROM pg_catalog.pg_dist_node ORDER BY groupid, nodeid")
        return tuple(f"{host}:{port}" for host, port in rows)


def build(cluster: RunningCluster, *, with_rows: bool = True) -> Standard:
    """Make everything on a new cluster that was started with `SETTINGS` (1.5 s).

    Args:
        cluster: empty.
        with_rows: whether the tables are filled and analysed.
    """
    named = sql.SQL(_NAMED).format(
        schema=sql.Identifier(HOSTILE_SCHEMA),
        hostile=sql.Identifier(HOSTILE_SCHEMA, HOSTILE_TABLE),
        hostile_text=sql.Literal(sql.Identifier(HOSTILE_SCHEMA, HOSTILE_TABLE).as_string()),
        long=sql.Identifier("app", LONG_TABLE),
        long_text=sql.Literal(f"app.{LONG_TABLE}"),
    )
    with cluster.coordinator.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")  # partitions are named by it
        connection.execute(_DDL)
        connection.execute(named)
        connection.execute("CREATE EXTENSION pg_stat_statements")
    make_roles(cluster)
    if with_rows:
        with cluster.coordinator.connect() as connection:
            connection.execute(_ROWS)
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT n, 'w' FROM pg_catalog.generate_series(1, 100) n").format(
                    sql.Identifier(HOSTILE_SCHEMA, HOSTILE_TABLE)
                )
            )
            connection.execute("VACUUM ANALYZE")
    return Standard(cluster)


def make_roles(cluster: RunningCluster) -> None:
    """Make `ROLES` on every node; Citus carries them there."""
    for role in ROLES:
        cluster.create_role(role)
    cluster.sql("GRANT pg_monitor TO mon")
    with cluster.coordinator.connect() as connection:
        assert apply_role(connection, "inspector", adopt=True).is_proven
    for schema in ("app", "tenant_a"):
        cluster.sql(sql.SQL("GRANT USAGE ON SCHEMA {} TO reader").format(sql.Identifier(schema)))
        cluster.sql(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO reader").format(sql.Identifier(schema)))
