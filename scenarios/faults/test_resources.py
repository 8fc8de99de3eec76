"""Full disks and no connection left, leases past their deadline, transactions that nobody resolves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import psycopg
import pytest
from psycopg import sql

from harness.errors import EnvironmentMissingError, UnresolvedTransactionError
from harness.faults import (
    citus_gid,
    connections_used_up,
    disk_full,
    fetch_prepared,
    foreign_gid,
    leases_expired,
    prepared,
    small_disk,
)
from harness.faults.resources import fetch_buffers
from harness.postgres import Server
from harness.trickle.names import stable_name
from harness.waiting import wait_until
from scenarios.faults.stages import DBNAME, Stage
from scenarios.faults.stepping import Outcome, Stepping, Stop
from scenarios.fixtures.skips import skip_not_applicable

Record = Callable[[str, object], None]
citus = pytest.mark.citus(">= 13")
# More groups than there is room for on a disk that is full already.
_MANY = "INSERT INTO {} SELECT {} + i, {} + i, 1 FROM generate_series(1, 3000) i"


@pytest.fixture(scope="module")
def disks() -> None:
    """Small disks can be made here."""
    try:
        with small_disk(1 << 20) as disk:
            disk.fill()
            disk.empty()
    except EnvironmentMissingError as error:
        skip_not_applicable(f"{error.message} ({error.hint})")


def _write_many(stage: Stage, name: str, base: int) -> None:
    """Rows of accounts that nobody had: the stream table needs new pages."""
    stage.session.execute(sql.SQL(_MANY).format(stage.source(name), base, base))
    stage.counts[name] += 3000


def _shards(stage: Stage, node: Server, table: str) -> list[sql.Identifier]:
    with contextlib.closing(node.connect(DBNAME)) as connection:
        connection.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
        rows = connection.execute(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ %s", [f"^{table}_[0-9]+$"]
        ).fetchall()
    return [sql.Identifier("public", str(name)) for (name,) in rows]


def _fill_the_target(
    stage: Stage, name: str, node: Server, relations: Sequence[sql.Identifier], record: Record, base: int
) -> None:
    with stage.fault("disk_full (stream table)", disk_full(node, DBNAME, relations), record, names=[name]):
        _write_many(stage, name, base)
        with pytest.raises(psycopg.errors.DiskFull):
            stage.refresh(name)
        status = stage.tables.status(name)[0]
        assert status.stream_table.status == "ACTIVE", "nobody has to resume it"
        assert status.stream_table.consecutive_errors == 0
    assert node.rows("SELECT spcname FROM pg_tablespace WHERE spcname LIKE 'small%%'", []) == []


@citus
def test_full_disk_under_a_local_stream_table_on_a_cluster(stage: Stage, disks: None, record_property: Record) -> None:
    node = stage.site.local(stage.site.coordinator)
    _fill_the_target(stage, "local", node, [sql.Identifier("public", "local")], record_property, 10**6)


@citus
def test_full_disk_of_a_worker_under_a_distributed_stream_table(
    stage: Stage, disks: None, record_property: Record
) -> None:
    node = stage.site.local(stage.site.workers[0])
    shards = _shards(stage, node, "distributed")
    assert shards
    _fill_the_target(stage, "distributed", node, shards, record_property, 2 * 10**6)


def test_full_disk_on_one_server(plain_stage: Stage, disks: None, record_property: Record) -> None:
    node = plain_stage.site.local(plain_stage.site.coordinator)
    _fill_the_target(plain_stage, "local", node, [sql.Identifier("public", "local")], record_property, 10**6)


def _fill_the_buffer(stage: Stage, node: Server, record: Record, base: int) -> None:
    """A write that cannot be captured fails, and is not there: nothing is lost in silence."""
    stable = stable_name("public", "entries_local")
    buffers = [
        sql.Identifier(*found)
        for found in fetch_buffers(node, DBNAME, has_citus=stage.site.has_citus)
        if stable in found[1]
    ]
    assert buffers
    before = dict(stage.counts)
    with stage.fault("disk_full (change buffer)", disk_full(node, DBNAME, buffers), record, names=["local"]):
        before = dict(stage.counts)
        # Citus hands on what a worker says to a COPY without its SQLSTATE: XX000 then.
        with pytest.raises((psycopg.errors.DiskFull, psycopg.errors.InternalError_), match="No space left"):
            _write_many(stage, "local", base)
        assert stage.counts == before


@citus
def test_full_disk_under_a_change_buffer_fails_the_write_on_a_cluster(
    stage: Stage, disks: None, record_property: Record
) -> None:
    _fill_the_buffer(stage, stage.site.local(stage.site.workers[1]), record_property, 4 * 10**6)


def test_full_disk_under_a_change_buffer_fails_the_write_on_one_server(
    plain_stage: Stage, disks: None, record_property: Record
) -> None:
    _fill_the_buffer(plain_stage, plain_stage.site.local(plain_stage.site.coordinator), record_property, 4 * 10**6)


@citus
def test_worker_without_a_free_connection_is_named(stage: Stage, steps: Stepping, record_property: Record) -> None:
    worker = stage.site.workers[0]
    with stage.fault("connections_used_up (worker)", connections_used_up(worker, DBNAME), record_property):
        with pytest.raises(psycopg.OperationalError):
            worker.connect(DBNAME)
        # A session of before goes on over the connections that it has; a new one finds none.
        outcome = steps.order(stage.dsn, "local")
        assert isinstance(outcome, Outcome)
        assert outcome.error == "ServerGoneError", outcome
        assert str(worker.port) in outcome.message
    worker.connect(DBNAME).close()


def _no_connection_left(stage: Stage, record: Record) -> None:
    node = stage.site.coordinator
    with stage.fault("connections_used_up (coordinator)", connections_used_up(node, DBNAME), record):
        with pytest.raises(psycopg.OperationalError):
            stage.connect()
        # Who is there goes on.
        assert stage.refresh("local").action == "DIFFERENTIAL"
    stage.connect().close()


def test_server_without_a_free_connection(plain_stage: Stage, record_property: Record) -> None:
    _no_connection_left(plain_stage, record_property)


@citus
def test_coordinator_without_a_free_connection(stage: Stage, record_property: Record) -> None:
    _no_connection_left(stage, record_property)


@citus
def test_lease_past_its_deadline_is_taken_over(stage: Stage, steps: Stepping, record_property: Record) -> None:
    number = steps.find_step(stage.dsn, "local", "__pgt_delta", stage.change)
    stage.change("local")
    others = [name for name in stage.names if name != "local"]
    stop = steps.order(stage.dsn, "local", number)
    assert isinstance(stop, Stop)
    begun = time.monotonic()
    with stage.fault("lease_expired", leases_expired(stage.site, "local"), record_property, names=others):
        takeovers = stage.tables.leases.takeovers
        elapsed_s = stage.right_again("local", begun)
        assert stage.tables.leases.takeovers == takeovers + 1
    print(f"| lease_expired (the table itself) | 1+2 | {elapsed_s:.2f} |")  # noqa: T201
    outcome = steps.go_on()
    assert (outcome.action, outcome.is_ours) == (None, True), outcome
    stage.require("local")


@citus
def test_deadline_of_a_lease_that_nobody_took_over_is_put_back(stage: Stage, steps: Stepping) -> None:
    stage.change("local")
    stop = steps.order(stage.dsn, "local", 8)
    assert isinstance(stop, Stop)
    query = "SELECT deadline FROM pgtrickle.st_locks"
    before = stage.session.execute(query).fetchall()
    with leases_expired(stage.site) as holders:
        assert len(holders) == 1
        assert stage.session.execute(query).fetchall() < before
    assert stage.session.execute(query).fetchall() == before
    assert steps.go_on().action == "DIFFERENTIAL"
    stage.require("local")


@citus
def test_prepared_transaction_of_somebody_stops_a_refresh_after_five_seconds(
    stage: Stage, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D9. It says which, where and for how long; on the worker's group, since that is where it must be resolved."""
    worker, gid = stage.site.workers[0], foreign_gid()
    with stage.fault("prepared_foreign", prepared(worker, DBNAME, gid), record_property):
        assert fetch_prepared(stage.site) == {worker.name: [gid]}
        # Young ones are everyday life: what they wrote is not in the cut.
        with monkeypatch.context() as patch:
            patch.setattr("harness.trickle.nodes.UNRESOLVED_AFTER_S", 60.0)
            stage.right_again("local", time.monotonic())
        stage.change("local")
        wait_until(
            "it to come of age",
            lambda: worker.value("SELECT bool_and(now() - prepared > interval '5 s') FROM pg_prepared_xacts"),
            deadline_s=20,
        )
        with pytest.raises(UnresolvedTransactionError, match=gid) as refused:
            stage.refresh("local")
        assert "group 1 for" in refused.value.message
        assert "recover_prepared_transactions" in refused.value.hint


def test_prepared_transaction_on_one_server_holds_nobody_up(plain_stage: Stage, record_property: Record) -> None:
    node = plain_stage.site.coordinator
    doing = "INSERT INTO entries_local SELECT 9000000 + i, 1, 1 FROM generate_series(1, 3) i"
    with plain_stage.fault(
        "prepared_foreign", prepared(node, DBNAME, foreign_gid(), doing=doing), record_property, names=["local"]
    ):
        plain_stage.right_again("local", time.monotonic())
        plain_stage.change("local")
        plain_stage.right_again("local", time.monotonic())
        plain_stage.change("local")


@citus
def test_prepared_transaction_of_citus_name_is_rolled_back_by_citus(stage: Stage, record_property: Record) -> None:
    former = [(node, node.show("citus.recover_2pc_interval")) for node in stage.site.nodes]
    gid, worker = citus_gid(), stage.site.workers[1]
    try:
        for node, _interval in former:
            node.set("citus.recover_2pc_interval", "300ms")
        with stage.fault("prepared_citus", prepared(worker, DBNAME, gid), record_property, names=["local"]):
            begun = time.monotonic()
            wait_until("Citus to roll it back", lambda: not fetch_prepared(stage.site), deadline_s=30)
            print(f"Citus rolled {gid} back after {time.monotonic() - begun:.2f} s")  # noqa: T201
            stage.right_again("local", begun)
            stage.change("local")
    finally:
        for node, interval in former:
            node.set("citus.recover_2pc_interval", interval)
