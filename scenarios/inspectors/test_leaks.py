"""Secrets that are planted where inspectors look: none of them is in any answer, nor in what is logged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster, RunningCluster
from harness.errors import HarnessError
from harness.inspectors import Inspection, Status
from harness.inspectors.contract import Envelope
from harness.inspectors.redaction import Redactor
from harness.postgres import AdministeredNode
from harness.trickle import StreamTables
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors import everything
from scenarios.inspectors.fixture_standard import SETTINGS, Standard, build

pytestmark = pytest.mark.citus(">= 14")
_PASSWORD, _AUTHINFO, _TENANT, _LITERAL = "hunter2-role", "hunter2-node", "tenant-of-mine", "literal-of-mine"
_QUOTED = "quoted-of-mine"  # by PostgreSQL, in what it says of it
_SECRETS = (_PASSWORD, _AUTHINFO, _TENANT, _LITERAL, _QUOTED)
_TRACKED = {
    **SETTINGS,
    "citus.stat_statements_track": "all",
    "citus.stat_tenants_track": "all",
    "citus.enable_stat_counters": "on",
    "citus.max_cached_conns_per_worker": "1",
}


@pytest.fixture
def planted(make_cluster: MakeCluster) -> Iterator[Standard]:
    """The standard cluster with secrets in it, and sessions that wait with secrets in what they run."""
    made = build(make_cluster(settings=_TRACKED), with_rows=False)
    cluster = made.cluster
    cluster.sql("CREATE TABLE app.shops (shop text, note text, PRIMARY KEY (shop))")
    cluster.sql("SELECT create_distributed_table('app.shops', 'shop', shard_count := 4, colocate_with := 'none')")
    cluster.sql(sql.SQL("INSERT INTO app.shops VALUES ({}, {})").format(sql.Literal(_TENANT), sql.Literal(_LITERAL)))
    cluster.sql(sql.SQL("CREATE ROLE somebody LOGIN PASSWORD {}").format(sql.Literal(_PASSWORD)))
    cluster.sql(
        sql.SQL("INSERT INTO pg_catalog.pg_dist_authinfo VALUES (0, 'somebody', {})").format(
            sql.Literal(f"password={_AUTHINFO}")
        )
    )
    _fail_a_refresh(cluster)
    select = sql.SQL("SELECT note FROM app.shops WHERE shop = {} /* {} */").format(
        sql.Literal(_TENANT), sql.SQL(_LITERAL)
    )
    for _ in range(3):
        cluster.rows(select)
    cluster.sql("ANALYZE app.shops")  # the value is a most common one
    update = sql.SQL("UPDATE app.shops SET note = {} WHERE shop = {}").format(
        sql.Literal(_LITERAL), sql.Literal(_TENANT)
    )
    with psycopg.connect(made.dsn()) as holder, psycopg.connect(made.dsn()) as waiter:
        holder.execute(update)
        thread = threading.Thread(target=_run, args=(waiter, update))
        thread.start()
        try:
            wait_until(
                "the lock wait", lambda: cluster.value("SELECT count(*) > 0 FROM citus_lock_waits"), deadline_s=20
            )
            yield made
        finally:
            holder.rollback()
            thread.join()
            waiter.rollback()


def _fail_a_refresh(cluster: RunningCluster) -> None:
    """What it failed with has the value in double quotes, and the catalog keeps it."""
    upgrade(cluster.coordinator.dsn())
    cluster.sql("CREATE TABLE app.readings (id bigint PRIMARY KEY, note text)")
    cluster.sql("SELECT create_distributed_table('app.readings', 'id', shard_count := 4, colocate_with := 'none')")
    with cluster.coordinator.connect() as connection, StreamTables(connection) as tables:
        tables.create("app.amounts", "SELECT id, CAST(note AS integer) AS n FROM app.readings", None, "FULL")
        cluster.sql(sql.SQL("INSERT INTO app.readings VALUES (1, {})").format(sql.Literal(_QUOTED)))
        with pytest.raises((HarnessError, psycopg.Error), match=f'"{_QUOTED}"'):
            tables.refresh("app.amounts")
    assert cluster.value(
        "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE position(%s IN error_message) > 0", [f'"{_QUOTED}"']
    )


def _run(connection: psycopg.Connection[Any], statement: sql.Composed) -> None:
    connection.execute(statement)


@pytest.mark.parametrize("key", [b"", b"of this test"])
def test_planted_secrets_are_in_no_answer(
    planted: Standard, key: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    envelopes: list[Envelope[Any]] = []
    for role in (None, "inspector", "mon", "plain"):
        with Inspection(planted.dsn(role), redactor=Redactor(key)) as inspection:
            envelopes += [inspection.inspect(name, everything.most_values(name)) for name in everything.names()]
    for envelope in envelopes:
        shown = everything.text(envelope)
        assert [secret for secret in _SECRETS if secret in shown] == [], envelope
    by_name = {envelope.name: envelope for envelope in envelopes[: len(everything.names())]}  # as a superuser
    # The secrets were there to be seen.
    assert by_name["citus_lock_inspector"].rows
    assert by_name["citus_top_statements"].rows
    assert by_name["citus_activity"].rows
    (table,) = by_name["stream_table_inspector"].rows
    assert (table.consecutive_errors, table.refreshes[0].status) == (1, "FAILED")
    assert table.refreshes[0].error == "invalid input syntax for type integer: ?"
    assert by_name["citus_tenant_hotspots"].status is Status.OK
    assert all((row.tenant is None) is (key == b"") for row in by_name["citus_tenant_hotspots"].rows)
    written = capfd.readouterr()
    for secret in _SECRETS:
        assert secret not in written.out + written.err + caplog.text


def test_value_in_a_nodes_error_is_in_no_answer(citus_database: Cluster[AdministeredNode]) -> None:
    question = sql.SQL("SELECT pg_catalog.json_build_array(x.v::integer) FROM (VALUES ({}::text)) x(v)")
    with everything.session(citus_database.coordinator) as session:
        gathered = session.on_all_nodes(question.format(sql.Literal(_QUOTED)))
    assert len(gathered.failed) == 3
    assert all("invalid input syntax for type integer: ?" in each.reason for each in gathered.failed)
    assert _QUOTED not in repr(gathered)


def test_tenants_hash_changes_with_the_key_and_only_with_it(planted: Standard) -> None:
    def tenants(key: bytes) -> list[str]:
        with Inspection(planted.dsn(), redactor=Redactor(key)) as inspection:
            rows = inspection.inspect("citus_tenant_hotspots").rows
        return [row.tenant for row in rows]

    assert tenants(b"one") == tenants(b"one")
    assert set(tenants(b"one")).isdisjoint(tenants(b"two"))
