"""A node dies between PREPARE and COMMIT PREPARED (D9): of a captured write, and of a refresh itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.errors import ServerGoneError, UnresolvedTransactionError
from harness.faults import backend_frozen, commits_held, fetch_backends, fetch_prepared, recover, wait_for_decision
from harness.faults.undoing import start, wait_for_workers
from harness.postgres import ServerNode
from harness.waiting import wait_until
from scenarios.faults.stages import DBNAME, Stage
from scenarios.faults.stepping import Stepping, Stop

pytestmark = [
    pytest.mark.citus(">= 13"),
    pytest.mark.allow_log(
        "could not|terminat|unexpected postmaster exit|postmaster was shut down|failed|canceling wait for sync",
        "nodes were killed on purpose between the two phases of a commit",
    ),
]
Record = Callable[[str, object], None]


LAST_STATEMENT = "pgt_refresh_history"


@pytest.fixture
def unresolved(stage: Stage) -> Iterator[None]:
    """Citus resolves nothing by itself: the test says when."""
    former = [(node, node.show("citus.recover_2pc_interval")) for node in stage.site.nodes]
    for node, _interval in former:
        node.set("citus.recover_2pc_interval", "-1")
    yield
    for node, interval in former:
        start(node)
        node.set("citus.recover_2pc_interval", interval)


def _count_prepared(node: ServerNode) -> int:
    return int(node.value("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()", dbname=DBNAME))


def _wait_for_age(worker: ServerNode) -> None:
    wait_until(
        "the prepared transaction to be old enough to be nobody's",
        lambda: worker.value(
            "SELECT bool_and(now() - prepared > interval '5 s') FROM pg_prepared_xacts", dbname=DBNAME
        ),
        deadline_s=30,
    )


def _print(record: Record, label: str, seconds: float) -> None:
    record(f"{label}: seconds to the next right refresh", round(seconds, 2))
    print(f"| {label} | 1+2 | {seconds:.2f} |")  # noqa: T201


def test_commit_that_the_coordinator_prepares_for_itself_too_is_decided(stage: Stage) -> None:
    """As where Citus writes its replica of a reference table over a connection to itself."""
    with contextlib.closing(stage.connect()) as connection:
        connection.execute("CREATE TABLE everywhere (id int PRIMARY KEY)")
        connection.execute("SELECT create_reference_table('everywhere')")
        try:
            connection.execute("SET citus.enable_local_execution = off")
            writer = threading.Thread(target=connection.execute, args=["INSERT INTO everywhere VALUES (1)"])
            with commits_held(stage.site.coordinator):
                writer.start()
                wait_for_decision(stage.site)
                assert set(fetch_prepared(stage.site)) == {node.name for node in stage.site.nodes}
            writer.join(60)
            assert not writer.is_alive()
            assert fetch_prepared(stage.site) == {}
            assert connection.execute("SELECT id FROM everywhere").fetchall() == [(1,)]
        finally:
            connection.execute("DROP TABLE everywhere")


@pytest.mark.parametrize("name", ["local", "distributed"])
def test_worker_dies_between_the_phases_of_a_captured_write(
    stage: Stage, unresolved: None, name: str, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is acknowledged, half of it is seen: the stream table follows what is seen, and then the rest, once."""
    stage.refresh(name)
    worker = stage.site.workers[1]
    with contextlib.closing(stage.connect()) as connection, contextlib.ExitStack() as stack:
        writer = threading.Thread(target=stage.change, args=[name], kwargs={"connection": connection})
        stack.callback(writer.join, 60)
        with commits_held(stage.site.coordinator):
            writer.start()
            wait_for_decision(stage.site)
            worker.kill()
        writer.join(60)
        assert not writer.is_alive()
    # Acknowledged, since it was decided: stage.counts has it.
    with pytest.raises(ServerGoneError) as refused:
        stage.refresh(name)
    assert str(worker.port) in refused.value.message
    killed_until = time.monotonic()
    worker.start()
    wait_for_workers(stage.site)
    assert list(fetch_prepared(stage.site)) == [worker.name]
    # Young ones are everyday life: only what is seen is in the cut. It is as old as the start of its server took.
    with monkeypatch.context() as patch:
        patch.setattr("harness.trickle.nodes.UNRESOLVED_AFTER_S", 60.0)
        done = stage.refresh(name)
    assert done.action == "DIFFERENTIAL"
    recover(stage.site)
    assert fetch_prepared(stage.site) == {}
    assert stage.right_again(name, killed_until) > 0
    _print(record_property, f"worker killed between the phases of a write, {name}", time.monotonic() - killed_until)
    stage.require_nothing_left(name)


@pytest.mark.parametrize("name", ["distributed", "reference"])
def test_worker_dies_between_the_phases_of_a_refresh(
    stage: Stage, steps: Stepping, unresolved: None, name: str, record_property: Record
) -> None:
    """The refresh is done, half of its rows are not seen: the next one stops and says why; it goes on afterwards."""
    stage.refresh(name)
    stage.change(name)
    worker = stage.site.workers[0]
    stop = steps.order(stage.dsn, name, LAST_STATEMENT)
    assert isinstance(stop, Stop)
    assert "COMMIT" in stop.what
    with commits_held(stage.site.coordinator):
        steps.let_go()
        wait_for_decision(stage.site)
        worker.kill()
    outcome = steps.end()
    assert outcome.action == "DIFFERENTIAL", outcome
    worker.start()
    wait_for_workers(stage.site)
    gids = fetch_prepared(stage.site)[worker.name]
    _wait_for_age(worker)
    stage.hang_up()  # a session of before finds its connection to the worker dead in its first write
    stage.change(name)
    with pytest.raises(UnresolvedTransactionError) as refused:
        stage.refresh(name)
    assert any(gid in refused.value.message for gid in gids)
    assert "group 1 for" in refused.value.message
    assert refused.value.node == "group 1"
    resolved_at = time.monotonic()
    recover(stage.site)
    assert fetch_prepared(stage.site) == {}
    # The worker was started again before it was told that this refresh is done: a rebuild is the safe way (0010).
    elapsed_s = stage.right_again(name, resolved_at, may_rebuild=True)
    _print(record_property, f"worker killed between the phases of a refresh, {name}, from its resolution", elapsed_s)
    stage.require_nothing_left(name)


@pytest.mark.parametrize("name", ["distributed", "reference"])
@pytest.mark.allow_log(
    "cannot abort transaction .* already committed", "its session sees the postmaster die in its COMMIT"
)
def test_coordinator_dies_after_its_decision(
    stage: Stage, steps: Stepping, unresolved: None, name: str, record_property: Record
) -> None:
    """What it decided is in its WAL, its client does not know: the refresh is done, and not done again."""
    stage.change(name)
    stop = steps.order(stage.dsn, name, LAST_STATEMENT)
    assert isinstance(stop, Stop)
    with commits_held(stage.site.coordinator):
        steps.let_go()
        wait_for_decision(stage.site)
        killed_at = time.monotonic()
        stage.site.coordinator.kill()
        outcome = steps.end()
        assert outcome.action is None, "it cannot know"
    recover(stage.site)
    assert fetch_prepared(stage.site) == {}
    elapsed_s = stage.right_again(name, killed_at)
    _print(record_property, f"coordinator killed after its decision, {name}", elapsed_s)
    assert stage.tables.refresh(name).action == "NO_DATA"
    stage.require_nothing_left(name)


def test_coordinator_dies_before_its_decision(
    stage: Stage, steps: Stepping, unresolved: None, record_property: Record
) -> None:
    """One worker has prepared and the other is not asked yet: nothing was decided, so Citus rolls it back."""
    name = "distributed"
    stage.change(name)
    stop = steps.order(stage.dsn, name, LAST_STATEMENT)
    assert isinstance(stop, Stop)
    frozen, other = stage.site.workers
    mine = fetch_backends(frozen, DBNAME, application=f"citus_internal gpid=1%{stop.backend}")
    assert mine
    with contextlib.ExitStack() as stack:
        for backend in mine:
            stack.enter_context(backend_frozen(stage.site.local(frozen), backend.pid))
        steps.let_go()
        wait_until("the other worker to have prepared", lambda: _count_prepared(other), deadline_s=30)
        killed_at = time.monotonic()
        stage.site.coordinator.kill()
    outcome = steps.end()
    assert outcome.action is None
    stage.site.coordinator.start()
    wait_for_workers(stage.site)
    assert recover(stage.site) >= 1
    wait_until(
        "nothing to be prepared", lambda: recover(stage.site) == 0 and not fetch_prepared(stage.site), deadline_s=30
    )
    elapsed_s = stage.right_again(name, killed_at)
    _print(record_property, f"coordinator killed before its decision, {name}", elapsed_s)
    stage.require_nothing_left(name)
