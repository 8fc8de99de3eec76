"""Leases: who lost one cannot commit, whoever comes next goes on; the rules are the database's own."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest

from harness.chain.runner import downgrade, upgrade
from harness.errors import (
    HarnessError,
    LeaseLostError,
    LockedError,
    PreflightError,
    RefusedError,
    UnsupportedVersionError,
)
from harness.postgres import Node
from harness.trickle import Refresh, StreamTables
from harness.trickle.leases import Kind
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.coordination.clients import (
    completed,
    held_before_its_commit,
    set_lock_timeout,
    wait_for_refresh_before_its_commit,
    wait_for_session_end,
)
from scenarios.coordination.stages import change, prepare

KINDS: tuple[Kind, ...] = ("lease", "advisory")
NUMBER_OF_THE_LEASE = "SELECT fencing_token FROM pgtrickle.st_locks"


class Refreshing(threading.Thread):
    """A refresh in a thread, over a connection of its own."""

    def __init__(self, node: Node, kind: Kind | None, *, wait_s: float = 0.0) -> None:
        super().__init__(name="refreshing")
        self._node, self._kind, self._wait_s = node, kind, wait_s
        self.done: Refresh | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with (
                contextlib.closing(self._node.connect()) as connection,
                StreamTables(connection, lease_kind=self._kind) as tables,
            ):
                self.done = tables.refresh("balances", wait_s=self._wait_s)
        except (psycopg.Error, HarnessError) as error:
            self.error = error


def test_refresh_whose_lease_was_taken_over_cannot_commit(place: Node) -> None:
    change(place)
    with held_before_its_commit(place):
        late = Refreshing(place, "lease")
        wait_for_refresh_before_its_commit(place)
        # As a takeover leaves it, but for the end of the late one's session: its commit alone is what refuses.
        place.sql("DELETE FROM pgtrickle.st_locks")
        with place.connect() as other:
            other.execute(
                "SELECT * FROM pgtrickle.acquire_lease((SELECT pgt_id FROM pgtrickle.pgt_stream_tables), 'me')"
            )
            taken = place.value(NUMBER_OF_THE_LEASE)
    late.join()
    assert isinstance(late.error, LeaseLostError), late.error
    assert place.value(NUMBER_OF_THE_LEASE) == taken, "it gave back nothing that is another's"
    assert [row[0] for row in completed(place, "balances")] == ["FULL"], "what it did was undone"
    assert place.value("SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE status = 'FAILED'") == 0
    with place.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        done = tables.refresh("balances")
        assert (done.action, done.change_count) == ("DIFFERENTIAL", 1)
        assert_equal(connection, "balances")


def test_lease_that_was_taken_away_and_given_to_nobody_cannot_commit_either(place: Node) -> None:
    change(place)
    with held_before_its_commit(place):
        late = Refreshing(place, "lease")
        wait_for_refresh_before_its_commit(place)
        place.sql("DELETE FROM pgtrickle.st_locks")
    late.join()
    assert isinstance(late.error, LeaseLostError), late.error
    assert place.value("SELECT count(*) FROM entries") == 201
    assert place.value("SELECT sum(n) FROM balances") == 200


def test_long_refresh_keeps_its_lease_alive_and_commits(place: Node) -> None:
    set_lock_timeout(place, "3s")
    change(place)
    with held_before_its_commit(place), place.connect() as second, StreamTables(second, lease_kind="lease") as others:
        long = Refreshing(place, "lease")
        wait_for_refresh_before_its_commit(place)
        first = place.value("SELECT locked_at FROM pgtrickle.st_locks")
        renewed = "SELECT deadline > locked_at + interval '6 s' FROM pgtrickle.st_locks"
        wait_until("the lease to be renewed over and over", lambda: place.value(renewed), deadline_s=20)
        with pytest.raises(LockedError, match=r"balances is being refreshed or changed by .* on .*, process"):
            others.refresh("balances")
        assert place.value("SELECT locked_at FROM pgtrickle.st_locks") == first
        assert others.leases.waits == 1
    long.join()
    assert long.error is None
    assert long.done is not None
    assert long.done.action == "DIFFERENTIAL"
    assert place.value("SELECT count(*) FROM pgtrickle.st_locks") == 0
    with place.connect() as connection:
        assert_equal(connection, "balances")


def test_taker_passes_by_a_commit_that_is_checking_its_lease(database: Node) -> None:
    prepare(database, is_distributed=False)
    acquire = "SELECT token, held_by FROM pgtrickle.acquire_lease(%s, %s, '1 s')"
    with contextlib.closing(database.connect()) as holder, contextlib.closing(database.connect()) as taker:
        number = database.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables")
        assert holder.execute(acquire, [number, "holder"]).fetchone()[0] is not None  # type: ignore[index]
        with holder.transaction():
            holder.execute("UPDATE pgtrickle.pgt_stream_tables SET updated_at = now()")
            # What COMMIT does first.
            holder.execute("SET CONSTRAINTS ALL IMMEDIATE")
            wait_until(
                "the lease to run out",
                lambda: database.value("SELECT deadline < clock_timestamp() FROM pgtrickle.st_locks"),
                deadline_s=10,
            )
            taker.execute("SET statement_timeout = '2s'")
            assert taker.execute(acquire, [number, "taker"]).fetchone() == (None, "holder"), "and does not wait"
        found = taker.execute(acquire, [number, "taker"]).fetchone()
        assert found is not None
        assert found[1] == "taker", "the commit is done, and the lease had run out"


def test_stale_lease_is_taken_over_and_the_session_that_had_it_ended(place: Node) -> None:
    number = place.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables")
    frozen = place.connect()
    try:
        frozen.execute("SELECT * FROM pgtrickle.acquire_lease(%s, 'frozen')", [number])
        with place.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
            with pytest.raises(LockedError, match="frozen"):
                tables.refresh("balances")
            # The clock of the server decides: its own moment is moved, nobody's clock is asked.
            place.sql(
                "UPDATE pgtrickle.st_locks SET locked_at = locked_at - interval '20 min',"
                " deadline = deadline - interval '20 min'"
            )
            assert tables.refresh("balances").action == "NO_DATA"
            assert tables.leases.takeovers == 1
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")
    finally:
        frozen.close()


def test_lease_of_a_session_that_is_gone_is_nobodys(place: Node) -> None:
    number = place.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables")
    with place.connect() as gone:
        gone.execute("SELECT * FROM pgtrickle.acquire_lease(%s, 'gone', '1 hour')", [number])
        pid = gone.info.backend_pid
    wait_for_session_end(place, pid, deadline_s=20)
    with place.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        assert tables.refresh("balances").action == "NO_DATA"
    # Its process id came again, in another session.
    with place.connect() as alive:
        place.sql(
            "INSERT INTO pgtrickle.st_locks (pgt_id, locked_by, holder, deadline, backend_start)"
            " VALUES (%s, %s, 'of before', now() + interval '1 hour', now() - interval '1 day')",
            [number, alive.info.backend_pid],
        )
        with place.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
            assert tables.refresh("balances").action == "NO_DATA"
        assert alive.execute("SELECT 1").fetchone() == (1,), "which is not ended for that"


@pytest.mark.parametrize("what", ["drop", "alter"])
def test_who_lost_its_lease_can_neither_drop_nor_alter(place: Node, what: str) -> None:
    with place.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        number = tables.list()[0].pgt_id

        def work() -> None:
            with tables.leases.held(number, "balances"):
                place.sql("DELETE FROM pgtrickle.st_locks")
                if what == "drop":
                    connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", [number])
                else:
                    connection.execute("UPDATE pgtrickle.pgt_stream_tables SET schedule = '5m'")

        with pytest.raises(LeaseLostError):
            work()
        assert len(tables.list()) == 1
        assert tables.list()[0].schedule is None
        assert tables.alter("balances", schedule="5m").schedule == "5m", "with a lease it may"
        tables.drop("balances")
        assert place.value("SELECT count(*) FROM pgtrickle.st_locks") == 0


def test_session_is_as_it_was_after_a_refresh(place: Node) -> None:
    settings = (
        "SELECT current_setting('idle_session_timeout'), current_setting('idle_in_transaction_session_timeout'),"
        " current_setting('client_connection_check_interval'), coalesce(current_setting('pgtrickle.lease', true), '')"
    )
    with place.connect() as connection:
        connection.execute("SET idle_session_timeout = '1234s'")
        before = connection.execute(settings).fetchone()
        for kind in KINDS:
            with StreamTables(connection, lease_kind=kind) as tables:
                tables.refresh("balances")
                assert connection.execute(settings).fetchone() == before
                with tables.leases.held(tables.list()[0].pgt_id, "balances"):
                    during = connection.execute(settings).fetchone()
                    assert during is not None
                    assert during[:3] == ("10min", "10min", "5s")
                assert connection.execute(settings).fetchone() == before


def test_bad_lock_timeout_is_named_with_its_mend(database: Node) -> None:
    prepare(database, is_distributed=False)
    for bad in ("soon", "0s", "3 days", "-5min"):
        set_lock_timeout(database, bad)
        for kind in KINDS:
            with (
                database.connect() as connection,
                StreamTables(connection, lease_kind=kind) as tables,
                pytest.raises(RefusedError, match=r"pgtrickle\.lock_timeout is") as caught,
            ):
                tables.refresh("balances")
            assert "ALTER DATABASE" in caught.value.hint
            assert bad in caught.value.message


def test_stream_table_that_was_dropped_gives_no_lease(database: Node) -> None:
    prepare(database, is_distributed=False)
    with database.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        with pytest.raises(RefusedError, match="dropped a moment ago"), tables.leases.held(4711, "gone"):
            pass
        assert tables.refresh("balances").action == "NO_DATA", "the session can go on"


def test_catalog_that_is_newer_than_the_code_is_refused(database: Node) -> None:
    prepare(database, is_distributed=False)
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = '9999'")
    with database.connect() as connection, pytest.raises(UnsupportedVersionError, match="9999") as caught:
        StreamTables(connection)
    assert "pip install -U" in caught.value.hint


def test_way_down_is_refused_while_a_lease_is_live(database: Node) -> None:
    prepare(database, is_distributed=False)
    with database.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        with (
            tables.leases.held(tables.list()[0].pgt_id, "balances"),
            pytest.raises(PreflightError) as caught,
        ):
            downgrade(database.dsn(), "0007")
        assert [(finding.code, finding.subject) for finding in caught.value.findings] == [
            ("lease_live", "public.balances")
        ]
        downgrade(database.dsn(), "0007")
    with database.connect() as connection, pytest.raises(UnsupportedVersionError, match="0007"):
        StreamTables(connection)
    upgrade(database.dsn())
    with database.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        assert tables.refresh("balances").action in {"NO_DATA", "REINITIALIZE"}
        assert_equal(connection, "balances")
