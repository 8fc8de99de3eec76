"""The end of a run: the cluster is made whole, everything is refreshed once, and every row is accounted for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from harness.chaos.board import Board, class_of, words_of
from harness.chaos.ddl import put_names_back
from harness.chaos.ledger import Account, Ledger, settle_accounts
from harness.chaos.model import Judged
from harness.chaos.shop import EXTRA, SOURCES, fetch_found
from harness.errors import HarnessError, StreamTableNotFoundError, WaitTimeoutError
from harness.faults import Site, fetch_prepared, recover, wait_for_workers
from harness.faults.undoing import start_all
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle import StreamTables
from harness.trickle.oracle import compare
from harness.trickle.repair import repair
from harness.waiting import wait_until

# Recovery, ends of sessions and of moves: seconds; behind them nothing is waited for.
HEALTHY_DEADLINE_S = 60.0
# Sessions whose clients are gone end with their statement; those that do not are ended.
SESSIONS_DEADLINE_S = 15.0
# Refreshed once; again while D9, a lock or a lease of somebody who is gone stands in the way.
REFRESH_DEADLINE_S = 60.0
_ANSWER_DEADLINE_S = 60.0
# A round fills what was marked, the next one those who read it, and theirs; what then is not at rest never will be.
_ROUNDS = 6
_OURS = "harness%"


@dataclass(frozen=True)
class Settled:
    """What the end showed."""

    account: Account
    judged: tuple[Judged, ...]


def make_whole(site: Site, board: Board) -> None:
    """Wait until all nodes run and reach each other, nothing is prepared and no session of the run is left.

    Raises:
        WaitTimeoutError: names what did not come.
    """
    start_all(site.nodes)
    wait_for_workers(site, deadline_s=HEALTHY_DEADLINE_S)
    _end_sessions(site, board)
    if site.has_citus:

        def nothing_prepared() -> bool:
            try:
                recover(site)
                return not fetch_prepared(site)
            except (psycopg.Error, HarnessError):
                return False

        try:
            wait_until("prepared transactions to be resolved", nothing_prepared, deadline_s=HEALTHY_DEADLINE_S)
        except WaitTimeoutError:
            board.trouble("leftover", "prepared transactions", str(fetch_prepared(site)))


def _end_sessions(site: Site, board: Board) -> None:
    """Until no session of the run is left on any node: one whose client is gone may still commit."""

    def sessions() -> list[tuple[str, int]]:
        return [
            (node.name, int(pid))
            for node in site.nodes
            for (pid,) in node.rows(
                "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = %s AND application_name LIKE %s"
                " AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()",
                [site.dbname, _OURS],
                deadline_s=_ANSWER_DEADLINE_S,
            )
        ]

    try:
        wait_until("sessions to end", lambda: not sessions(), deadline_s=SESSIONS_DEADLINE_S)
    except WaitTimeoutError:
        left = sessions()
        board.note(f"sessions whose clients were gone were ended: {len(left)}")
        by_name = {node.name: node for node in site.nodes}
        for name, pid in left:
            by_name[name].sql("SELECT pg_catalog.pg_terminate_backend(%s::int, 10000::bigint)", [pid])


@contextlib.contextmanager
def _session(site: Site) -> Iterator[DeadlineConnection]:
    with contextlib.closing(site.coordinator.connect(site.dbname, deadline_s=_ANSWER_DEADLINE_S)) as connection:
        connection.execute("SET application_name = 'harness chaos verdict'; SET lock_timeout = '10s'")
        yield connection


def settle(site: Site, board: Board, ledger: Ledger) -> Settled:
    """Account for every row and judge every stream table; all actors have ended and every fault is undone.

    Args:
        site: the cluster and the database.
        board: gets the troubles that are no rows, such as leftovers.
        ledger: the writers' book.

    Raises:
        WaitTimeoutError: the cluster does not become healthy.
        psycopg.Error: it was lost again.
    """
    make_whole(site, board)
    with _session(site) as connection:
        for table in SOURCES:
            put_names_back(connection, table)
        account = settle_accounts(ledger, fetch_found(connection))
        _compare_replicas(site, board)
        with StreamTables(connection) as tables:
            _put_in_order(tables, board)
            names = [found.qualified for found in tables.list()]
            _refresh_all(tables, names, board)
            judged = tuple(_judge(connection, name) for name in names)
            for each in judged:
                if not each.is_equal:
                    board.note(f"history of {each.name}: {_history(connection, each.name)}")
            _leftovers(site, connection, tables, names, board)
    return Settled(account, judged)


def _compare_replicas(site: Site, board: Board) -> None:
    """Every node has the same rows of a reference table."""
    for source in SOURCES.values():
        if not site.has_citus or source.placement != "reference":
            continue
        query = sql.SQL(
            "SELECT count(*), md5(coalesce(string_agg(concat_ws('|', id, grp, amount, version, op), ','"
            " ORDER BY id), '')) FROM {}"
        ).format(source.identifier)
        seen = {node.name: node.row(query, dbname=site.dbname) for node in site.nodes}
        if len(set(seen.values())) > 1:
            counts = ", ".join(f"{name} {count} rows" for name, (count, _) in seen.items())
            board.trouble("replicas_differ", source.name, f"nodes hold different rows of it: {counts}")


def _put_in_order(tables: StreamTables, board: Board) -> None:
    """What a cut left of the plan's own changes: the stream table that it makes and drops, a change of a query."""
    _tried(board, "drop", EXTRA.name, lambda: tables.drop(f"public.{EXTRA.name}"), missing_is_good=True)
    for name in tables.clear_left_behind():
        board.note(f"left behind by a change that was cut, and dropped: {name}")
    for status in tables.list():
        if status.status != "ACTIVE":
            board.note(f"{status.qualified} was in status {status.status}")
            if status.status in ("SUSPENDED", "ERROR"):
                _tried(board, "resume", status.qualified, lambda name=status.qualified: tables.resume(name))  # type: ignore[misc]


def _tried(
    board: Board, what: str, name: str, action: Callable[[], object], *, missing_is_good: bool = False
) -> object | None:
    """Do it, again while faults still stand in the way."""
    until = time.monotonic() + REFRESH_DEADLINE_S
    while True:
        began_s = board.now_s()
        try:
            return action()
        except StreamTableNotFoundError as error:
            if not missing_is_good:
                board.trouble("refresh_failed", f"{what} {name}", f"{class_of(error)}: {words_of(error)}")
            return None
        except (HarnessError, psycopg.Error) as error:
            if time.monotonic() > until or (what == "refresh" and error.__class__.__name__ == "CheckFailedError"):
                board.trouble("refresh_failed", f"{what} {name}", f"{class_of(error)}: {words_of(error)}")
                return None
            board.failed(f"last {what}", name, error, began_s)
        except Exception as error:
            board.bug(f"last {what} {name}", error)
            return None
        time.sleep(0.2)


def _refresh_all(tables: StreamTables, names: list[str], board: Board) -> None:
    """Until a whole round finds nothing to do: who reads a stream table follows one round after it."""
    busy: list[str] = []
    for _ in range(_ROUNDS):
        busy = []
        for name in names:
            began_s = board.now_s()
            done = _tried(board, "refresh", name, lambda name=name: tables.refresh(name, wait_s=30.0))  # type: ignore[misc]
            action = str(getattr(done, "action", "nothing"))
            if done is not None:
                board.refreshed(action, began_s, board.now_s())
            if action != "NO_DATA":
                busy.append(f"{name} ({action}: {getattr(done, 'reason', '')})")
        if not busy:
            return
    board.trouble("restless", "refreshes", f"nobody writes, and round {_ROUNDS} still did something: {', '.join(busy)}")


def _judge(connection: DeadlineConnection, name: str) -> Judged:
    try:
        difference = compare(connection, name)
        ((count,),) = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(name))  # as the catalog quoted it
        ).fetchall()
    except (HarnessError, psycopg.Error) as error:
        return Judged(name, None, False, f"{class_of(error)}: {words_of(error)}")
    return Judged(name, int(count), difference.is_equal, "" if difference.is_equal else str(difference))


def _history(connection: DeadlineConnection, name: str) -> str:
    """The last refreshes of a stream table, for whoever wonders where it went wrong."""
    rows = connection.execute(
        "SELECT h.* FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)"
        " WHERE t.pgt_relid = %s::regclass ORDER BY h.refresh_id DESC LIMIT 15",
        [name],
    ).fetchall()
    return "\n".join(" | ".join(str(value) for value in row) for row in rows)


def _leftovers(
    site: Site, connection: DeadlineConnection, tables: StreamTables, names: list[str], board: Board
) -> None:
    """After repair nothing is found; no lease, no prepared transaction, no captured row that everybody has."""
    report = repair(connection)
    for finding in report.findings:
        board.note(f"repair: {finding}")
    if report.findings:
        _refresh_all(tables, names, board)
        for name in names:
            judged = _judge(connection, name)
            if not judged.is_equal:
                board.trouble("unequal_after_repair", name, judged.detail)
    for finding in repair(connection, is_check=True).findings:
        board.trouble("leftover", "repair", str(finding))
    for (holder,) in connection.execute("SELECT holder FROM pgtrickle.st_locks"):
        board.trouble("leftover", "lease", str(holder))
    for name, gids in fetch_prepared(site).items():
        board.trouble("leftover", name, f"prepared: {', '.join(gids)}")
    for (buffer,) in connection.execute(
        "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c"
        " WHERE c.relnamespace = 'pgtrickle_changes'::regnamespace"
        # Shards end with their number; on a node that shows them they are no buffers of their own.
        " AND c.relkind IN ('r', 'p') AND c.relname ~ '^changes_[0-9a-f]{16}$'"
    ).fetchall():
        ((count,),) = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(buffer))  # as the server quoted it
        ).fetchall()
        if count:
            board.trouble("leftover", str(buffer), f"{count} captured rows that every reader has")
