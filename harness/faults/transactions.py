"""Faults of transactions: prepared and resolved by nobody, held between the two phases of a commit; leases."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from harness.errors import WaitTimeoutError
from harness.faults.site import Site
from harness.faults.undoing import insist, start
from harness.postgres.node import Query
from harness.postgres.server_node import ServerNode
from harness.waiting import wait_until

# Citus' own are called citus_<group of the coordinator>_<its process>_<number>_<connection>; a process number above
# every system's limit (2^22 on Linux) is nobody's.
_NO_PROCESS = 2**30
_HELD_DEADLINE_S = 30.0
_AT_WORK = """
SELECT pid, application_name, wait_event, left(query, 200) FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_catalog.pg_backend_pid()"""


def foreign_gid() -> str:
    """A name for a prepared transaction that is not of Citus' form, and no one else's."""
    return f"left_behind_{secrets.token_hex(6)}"


def citus_gid() -> str:
    """A name as Citus gives it, of group 0 and of a process that cannot be; its daemon rolls such a one back."""
    return f"citus_0_{_NO_PROCESS}_{secrets.randbelow(2**31)}_0"


@contextmanager
def prepared(node: ServerNode, dbname: str, gid: str, *, doing: Query | None = None) -> Iterator[str]:
    """A prepared transaction that nobody commits or rolls back: it holds its locks, and the horizon, over restarts too.

    Runs on that node, in the database. D9: what a refresh can neither see nor delete stops it after 5 s. One of Citus'
    name without a record in pg_dist_transaction is rolled back by its daemon, every ``citus.recover_2pc_interval`` (10
    s here); one of another name by nobody.
    Leaves: nothing. It is rolled back at the end, if it is still there; a node that died meanwhile is started for that.

    Args:
        node: a server of our own whose max_prepared_transactions is not 0.
        dbname: where.
        gid: its name; see `foreign_gid`, `citus_gid`.
        doing: a statement of the transaction; it has a transaction number in any case.

    Raises:
        psycopg.Error: the node takes no prepared transactions.
    """
    try:
        with node.transaction(dbname, deadline_s=30) as connection:
            connection.execute("SELECT pg_catalog.pg_current_xact_id()")
            if doing is not None:
                connection.execute(doing)
            connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
        yield gid
    finally:
        insist(f"{gid} to be rolled back on {node.name}", lambda: roll_back_prepared(node, dbname, gid))


def roll_back_prepared(node: ServerNode, dbname: str, gid: str) -> None:
    """ROLLBACK PREPARED, if there is such a transaction; the node is started where it died.

    Raises:
        psycopg.Error: it is being prepared or resolved by somebody just now.
    """
    start(node)
    # Citus' daemon may be quicker.
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        if node.rows("SELECT FROM pg_catalog.pg_prepared_xacts WHERE gid = %s", [gid], dbname=dbname):
            node.sql(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)), dbname=dbname, deadline_s=15)


def _commit_waits(node: ServerNode) -> bool:
    """Whether a commit that writes WAL stands and waits for a standby; it is let go."""
    with contextlib.closing(node.connect(deadline_s=_HELD_DEADLINE_S)) as connection:
        connection.execute("SET synchronous_commit = on")
        server = connection.pgconn
        server.send_query(b"SELECT pg_catalog.pg_logical_emit_message(true, 'harness', '')")

        def is_over() -> bool:
            server.consume_input()
            return not server.is_busy()

        def stands() -> bool:
            found = node.rows(
                "SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
                [server.backend_pid],
            )
            return bool(found)

        wait_until(f"a commit on {node.name}, or that it waits", lambda: is_over() or stands(), deadline_s=10)
        waits = not is_over()
        # Over by then, or cancelled in its wait: it is committed here in both cases.
        connection.cancel_safe(timeout=10)
        wait_until(f"a cancelled commit on {node.name}", is_over, deadline_s=10)
        while server.get_result() is not None:
            pass
    return waits


@contextmanager
def commits_held(node: ServerNode) -> Iterator[None]:
    """Commits on a node wait for a standby that does not exist: a distributed one stands between its two phases.

    Runs on that node, as a setting for all its databases (``synchronous_standby_names``; ha.md, 6). Sessions look at
    it in shared memory, into which the checkpointer writes it when it comes to that (syncrep.c,
    SyncRepUpdateSyncStandbysDefined): a commit of its own is seen to wait before the block begins. A commit over
    several nodes is then prepared on the workers and decided in the coordinator's WAL, and neither its client nor the
    workers are told. Sessions with ``synchronous_commit`` off do not wait.
    Leaves: the setting as it was; all that waited goes on, and counts as committed. A node that died meanwhile is
    started, and so has forgotten nobody's commit: what was in its WAL is committed, and Citus' daemon ends it on the
    workers.

    Args:
        node: a server of our own.

    Raises:
        WaitTimeoutError: commits did not begin to wait within 30 s.
    """
    former = node.show("synchronous_standby_names")
    try:
        node.set("synchronous_standby_names", "nobody_at_all")
        wait_until(f"commits on {node.name} to wait", lambda: _commit_waits(node), deadline_s=_HELD_DEADLINE_S)
        yield
    finally:

        def put_back() -> None:
            start(node)
            node.set("synchronous_standby_names", former)

        insist(f"commits on {node.name} to go on", put_back)


def wait_for_decision(site: Site, *, deadline_s: float = _HELD_DEADLINE_S) -> None:
    """Wait until a commit that is held stands between its two phases: prepared on all workers, decided, told to nobody.

    Runs on every node, in a block of `commits_held` of the coordinator. Citus may write the coordinator's own replica
    of a reference table over a connection to itself, whose PREPARE waits for the standby as a commit does, and then
    nothing is decided yet: that wait is cancelled, which leaves it prepared (docs/findings.md). Leaves: nothing else.

    Args:
        site: the cluster; some session's COMMIT writes to all workers.
        deadline_s: give up after this many seconds.

    Raises:
        WaitTimeoutError: it did not come to that; notes say what each node has and does.
    """

    def is_decided() -> bool:
        site.sql(
            "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity"
            " WHERE datname = current_database() AND wait_event = 'SyncRep' AND query LIKE 'PREPARE TRANSACTION %'"
        )
        waiting = site.rows(
            "SELECT FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
            " AND backend_type = 'client backend' AND application_name NOT LIKE 'citus_internal%'"
        )
        return bool(waiting) and {worker.name for worker in site.workers} <= fetch_prepared(site).keys()

    try:
        wait_until("a commit to be prepared on all workers and decided", is_decided, deadline_s=deadline_s)
    except WaitTimeoutError as error:
        for node in site.nodes:
            error.add_note(f"{node.name}: {node.rows(_AT_WORK, dbname=site.dbname)}")
        error.add_note(f"prepared: {fetch_prepared(site)}")
        raise


def recover(site: Site) -> int:
    """Ask Citus to resolve what its own commits left prepared on the workers; how many it resolved.

    Only for clusters that were started by us: no other coordinator ever knew their workers. Where there is one, as
    after a restore, this tears transactions apart that it never saw (ha.md, 4, *Danger 2*), so nothing of the engine
    calls it. Runs on the coordinator.

    Raises:
        psycopg.Error: a worker could not be asked.
    """
    (count,) = site.rows("SELECT pg_catalog.recover_prepared_transactions()", deadline_s=30)[0]
    return int(count)


def fetch_prepared(site: Site) -> dict[str, list[str]]:
    """What is prepared in the database, by node; nodes that have nothing are left out."""
    found = {
        node.name: [
            str(gid)
            for (gid,) in node.rows(
                "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() ORDER BY 1",
                dbname=site.dbname,
            )
        ]
        for node in site.nodes
    }
    return {name: gids for name, gids in found.items() if gids}


@contextmanager
def leases_expired(site: Site, name: str | None = None) -> Iterator[list[str]]:
    """The deadline of leases that somebody has is put into the past, as if their holders had slept (D8).

    Runs on the coordinator. Whoever comes next takes them over and ends their sessions; a holder that renews before
    that keeps its lease. Only leases on a cluster, or where they were asked for: an advisory lock has no deadline.
    Leaves: a lease that nobody renewed, gave back or took over meanwhile has its deadline again.

    Args:
        site: where the catalog is.
        name: of one stream table, without its schema; None: of all.

    Yields:
        Who held them.
    """
    changed: list[tuple[object, ...]] = []
    try:
        changed = site.rows(
            "WITH former AS (SELECT l.pgt_id, l.fencing_token, l.deadline, l.locked_at FROM pgtrickle.st_locks l"
            " JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE %(name)s::text IS NULL OR t.pgt_name = %(name)s"
            " FOR UPDATE OF l)"
            # A deadline comes after the taking of it: that goes into the past, too.
            " UPDATE pgtrickle.st_locks l SET locked_at = clock_timestamp() - interval '2 seconds',"
            " deadline = clock_timestamp() - interval '1 second' FROM former f WHERE l.pgt_id = f.pgt_id"
            " RETURNING l.pgt_id, l.fencing_token, f.locked_at, f.deadline, l.holder, l.deadline",
            {"name": name},
            deadline_s=30,
        )
        yield [str(row[4]) for row in changed]
    finally:
        if changed:

            def put_back() -> None:
                start(site.coordinator)
                for pgt_id, token, locked_at, deadline, _holder, past in changed:
                    site.sql(
                        "UPDATE pgtrickle.st_locks SET locked_at = %s, deadline = %s"
                        " WHERE pgt_id = %s AND fencing_token = %s AND deadline = %s",
                        [locked_at, deadline, pgt_id, token, past],
                        deadline_s=15,
                    )

            insist("leases to have their deadlines again", put_back)
