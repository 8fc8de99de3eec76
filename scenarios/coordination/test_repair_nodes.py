"""A worker that was away while a stream table was dropped: Citus' own refusal, and what is cleaned afterwards."""

from __future__ import annotations

from typing import LiteralString

import pytest

from harness.clusters import LocalCluster
from harness.errors import RefusedError, ServerGoneError
from harness.trickle import StreamTables
from harness.trickle.repair import repair
from harness.waiting import wait_until
from scenarios.coordination.ddl_shop import NOTES, TOTALS, Shop, open_shop
from scenarios.coordination.test_drop_leaves_nothing import picture, shared

pytestmark = pytest.mark.citus(">= 13")


def differences(shop: Shop, before: dict[str, frozenset[str]]) -> dict[str, list[str]]:
    """What each node has more or less; Citus numbers triggers of its own anew when a node comes back."""
    found = {}
    for name, lines in picture(shop.nodes).items():
        changed = sorted(line for line in lines ^ before[name] if " truncate_trigger_" not in line)
        if changed:
            found[name] = changed
    return found


def start(shop: Shop, cluster: LocalCluster) -> None:
    cluster.workers[1].start()
    query: LiteralString = "SELECT bool_and(result) FROM citus_check_cluster_node_health()"
    wait_until("the worker to answer", lambda: shop.value(query), deadline_s=30)


@pytest.mark.parametrize("storage", ["local", "distributed"])
def test_a_drop_while_a_worker_is_down_is_ended_when_it_is_back(fresh_cluster: LocalCluster, storage: str) -> None:
    """Citus drops nothing of a cluster's while a worker is down: the wish is kept."""
    with open_shop(fresh_cluster, "distributed", makes_tables=False) as shop:
        shared(shop)
        before = dict(picture(shop.nodes))
        shop.tables.create("totals", TOTALS, "1m", "AUTO", storage)
        shop.write()
        fresh_cluster.workers[1].kill()
        with pytest.raises(ServerGoneError, match=r"totals.* cannot be dropped now") as refused:
            shop.tables.drop("totals")
        assert "harness st repair" in refused.value.hint
        assert shop.why("totals")[0] == "SUSPENDED"
        with pytest.raises(RefusedError, match="suspended"):
            shop.tables.refresh("totals")
        report = repair(shop.connection)
        assert {finding.code for finding in report.left} >= {"node_down", "unfinished_drop"}
        assert str(fresh_cluster.workers[1].port) in str(report.left[0])
        start(shop, fresh_cluster)
        shop.write()
        report = repair(shop.connection)
        assert report.passed, report.left
        assert repair(shop.connection).findings == ()
        assert differences(shop, before) == {}
        shop.write()


def test_a_worker_that_was_out_of_the_cluster_during_a_drop(fresh_cluster: LocalCluster) -> None:
    """One without shards of its own can be disabled; then Citus drops, and the worker comes back with what it had."""
    with open_shop(fresh_cluster, "local", makes_tables=False) as shop:
        shared(shop)
        before = dict(picture(shop.nodes))
        shop.tables.create("totals", TOTALS, "1m", "AUTO", "local")
        shop.tables.create("notes", NOTES, None, "AUTO", "local")
        shop.write()
        worker = fresh_cluster.workers[1]
        worker.kill()
        shop.connection.execute("SELECT citus_disable_node('127.0.0.1', %s, true)", [worker.port])
        # A session of before has a connection to it yet.
        with shop.node.connect() as session, StreamTables(session) as tables:
            for name in ("totals", "notes"):
                tables.drop(name)
        worker.start()
        shop.connection.execute("SELECT citus_activate_node('127.0.0.1', %s)", [worker.port])
        start_of = differences(shop, before)
        report = repair(shop.connection)
        assert report.passed, report.left
        address = f"127.0.0.1:{worker.port}"
        assert {(finding.code, finding.node) for finding in report.findings} == {("orphan_function", address)}
        assert any("pg_trickle_cdc_fn_" in line for line in start_of[worker.name])
        assert repair(shop.connection).findings == ()
        assert differences(shop, before) == {}
        shop.write()
