"""Killed at every statement boundary, at random moments, its client, its session: nothing lost, the chain goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog, snapshot_rows
from harness.chain.connection import APPLICATION_NAME
from harness.chain.runner import ChainEvent
from harness.errors import CheckFailedError, ConnectionRefusedByInput, HarnessError, ServerGoneError
from harness.postgres import DsnNode, Node, Server
from harness.rehearsal.checks import check_row_counts
from harness.rehearsal.contents import note_captured, take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.tables import SourceTable
from harness.rehearsal.writers import Writers
from harness.waiting import wait_until
from migrations import sqlfiles
from scenarios.fixtures.servers import MakeServer
from scenarios.upgrade.installations import (
    build_installation,
    check_all,
    connector,
    count_moved,
    tell,
    write_to_each,
)
from scenarios.upgrade.small_installation import build_small_installation, write_changes

Connection = psycopg.Connection[TupleRow]
Direction = Literal["up", "down"]

# Kills here are process kills: the page cache survives, and checkpoints would only take time.
SETTINGS = {"checkpoint_timeout": "1h", "max_wal_size": "4GB"}
CATALOG_ROWS = (
    ("pgtrickle", "pgt_stream_tables"),
    ("pgtrickle", "pgt_dependencies"),
    ("pgtrickle", "pgt_change_tracking"),
    ("pgtrickle", "alembic_version"),
)
# What a killed server's client may get to see: it went away, or it is no longer there for the next revision.
GONE = (ServerGoneError, ConnectionRefusedByInput)
SEED_VARIABLE = "HARNESS_SCENARIO_SEED"


@dataclass
class Boundaries:
    """Counts the chain's boundaries as they are reached, and strikes at one of them."""

    strike: Callable[[], None] = lambda: None
    strike_at: int = 0
    labels: list[str] = field(default_factory=list)

    def reach(self, label: str) -> None:
        self.labels.append(label)
        if len(self.labels) == self.strike_at:
            self.strike()

    def hear(self, event: ChainEvent) -> None:
        if event.kind in {"revision_begin", "source_moved", "revision_end"}:
            self.reach(f"{event.kind} {event.revision} {event.source or ''}")


def _run_chain(dsn: str, direction: Direction, boundaries: Boundaries, monkeypatch: pytest.MonkeyPatch) -> None:
    """0001 to head or back; a boundary lies after each text that is run, and before each loop over the sources."""
    original = sqlfiles.run

    def run(text: str) -> None:
        first_line = text.strip().splitlines()[0][:70]
        if text.startswith("CALL"):
            boundaries.reach(f"before {first_line}")
        original(text)
        boundaries.reach(f"after {first_line}")

    with monkeypatch.context() as patched:
        patched.setattr(sqlfiles, "run", run)
        if direction == "up":
            runner.upgrade(dsn, on_event=boundaries.hear)
        else:
            runner.downgrade(dsn, "0001", on_event=boundaries.hear)


@dataclass(frozen=True)
class Ending:
    """Where a run ends: definitions and catalog rows."""

    catalog: CatalogSnapshot
    rows: Mapping[str, tuple[str, ...]]


def _ending(node: Node) -> Ending:
    with node.connect() as conn:
        return Ending(snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS))


def _write(node: Node) -> None:
    with node.connect() as conn:
        write_changes(conn)


def _check_crashed_run(
    server: Server,
    dbname: str,
    direction: Direction,
    boundaries: Boundaries,
    expected: Ending,
    sources: tuple[SourceTable, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run into the blow, start again, write while half moved, run to the end, and look at everything."""
    node = DsnNode(dbname, server.dsn(dbname))
    with contextlib.suppress(*GONE):
        _run_chain(node.dsn(), direction, boundaries, monkeypatch)
    assert not server.is_running
    server.start()
    with node.connect() as conn:
        note_captured(conn, sources)
    _write(node)
    _run_chain(node.dsn(), direction, Boundaries(), monkeypatch)
    found = _ending(node)
    assert compare_catalogs(expected.catalog, found.catalog) == ()
    assert found.rows == expected.rows
    _write(node)
    check_all(node, sources, dbname)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["up", "down"])
def test_killed_at_each_boundary(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    server = make_server(settings=SETTINGS)
    server.create_database("first")
    first = DsnNode("first", server.dsn("first"))
    sources = build_small_installation(first).sources
    if direction == "down":
        runner.upgrade(first.dsn())
        _write(first)
    with first.connect() as conn:
        take_first(conn, sources)
        note_captured(conn, sources)

    def copy(dbname: str) -> None:
        server.sql(sql.SQL("CREATE DATABASE {} TEMPLATE first STRATEGY file_copy").format(sql.Identifier(dbname)))

    copy("uncrashed")
    counted = Boundaries()
    uncrashed = DsnNode("uncrashed", server.dsn("uncrashed"))
    _run_chain(uncrashed.dsn(), direction, counted, monkeypatch)
    expected = _ending(uncrashed)
    check_all(uncrashed, sources, "uncrashed")
    assert sum(label.startswith("source_moved") for label in counted.labels) == 3 * len(sources)
    began_s = time.monotonic()
    for number, label in enumerate(counted.labels, start=1):
        dbname = f"crash_{number}"
        copy(dbname)
        boundaries = Boundaries(server.kill, number)
        try:
            _check_crashed_run(server, dbname, direction, boundaries, expected, sources, monkeypatch)
        except (AssertionError, HarnessError, psycopg.Error) as error:
            error.add_note(f"killed at boundary {number}, {label}")
            raise
        assert boundaries.labels[number - 1] == label
        server.drop_database(dbname)
    tell(f"{direction}: {len(counted.labels)} boundaries, {time.monotonic() - began_s:.1f} s")


def _seed() -> int:
    """Of the random moments: from the environment, or new; printed either way."""
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else random.randrange(10**6)  # noqa: S311 - repeatable on purpose
    tell(f"{SEED_VARIABLE}={seed}")
    return seed


def _run_and_kill(server: Server, dsn: str, direction: Direction, delay_ms: float) -> bool:
    """Run the chain, and kill the server after a time. Answers whether the blow fell before the chain's end."""
    timer = threading.Timer(delay_ms / 1000, server.kill)
    timer.start()
    try:
        if direction == "up":
            runner.upgrade(dsn)
        else:
            runner.downgrade(dsn, "0001")
    except GONE:
        return True
    finally:
        # a blow that is under way falls
        timer.cancel()
        timer.join()
    return not server.is_running


@pytest.mark.slow
def test_fifty_random_moments_under_writers(
    make_server: MakeServer, record_property: Callable[[str, object], None]
) -> None:
    seed = _seed()
    record_property("seed", seed)
    rng = random.Random(seed)  # noqa: S311
    server = make_server(settings=SETTINGS)
    server.create_database("random")
    node = DsnNode("random", server.dsn("random"))
    installed = build_installation(node)
    began_s = time.monotonic()
    runner.upgrade(node.dsn())
    runner.downgrade(node.dsn(), "0001")
    longest_ms = (time.monotonic() - began_s) / 2 * 1000
    direction: Direction = "up"
    kills = turns = 0
    at: list[str | None] = []
    writers = Writers(connector(node), installed.sources, threads=3, seed=seed, rate_limit=200, triggers_stay_home=True)
    with writers:
        while kills < 50:
            if _run_and_kill(server, node.dsn(), direction, rng.uniform(0, longest_ms)):
                kills += 1
                server.start()
                at.append(runner.current_revision(node.dsn()))
                if rng.random() < 0.3:  # somebody turns back in the middle
                    direction = "down" if direction == "up" else "up"
                if kills % 10 == 0:
                    with node.connect() as conn:
                        note_captured(conn, installed.sources)
            else:
                direction = "down" if direction == "up" else "up"
                turns += 1
    runner.upgrade(node.dsn())
    check_all(node, installed.sources, "head", wrong=installed.wrong)
    runner.downgrade(node.dsn(), "0001")
    check_all(node, installed.sources, "0001", wrong=installed.wrong)
    report = writers.report()
    with node.connect() as conn:
        counts = check_row_counts(conn, installed.sources, writers.net_rows(), phase="end")
        assert compare_catalogs(installed.catalog, snapshot_catalog(conn)) == ()
    assert [r for r in counts if r.verdict is Verdict.FAILED] == []
    assert report.errors == ()
    assert report.commits > 100
    assert turns >= 2
    tell(
        f"50 kills in {time.monotonic() - began_s:.1f} s, {turns} turns, found at"
        f" { {revision: at.count(revision) for revision in sorted(set(at), key=str)} },"
        f" {report.commits} commits, {report.unknown_commits} of unknown outcome"
    )


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["0002", "0004", "0006"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_turning_back_half_way(database: Node, revision: str, direction: Direction) -> None:
    """A revision that was given up is finished before the other direction begins: no source is left behind."""
    installed = build_installation(database)
    below = runner.REVISIONS[runner.REVISIONS.index(revision) - 1]
    impatient = runner.ChainOptions(deadline_s=0.2)
    ways: list[Callable[..., None]] = [runner.upgrade, runner.downgrade]
    start, end = below, revision
    if direction == "down":
        ways.reverse()
        start, end = revision, below
    go, back = ways
    runner.upgrade(database.dsn(), start)
    with database.connect() as conn:
        before = snapshot_catalog(conn)
    with database.connect(autocommit=False) as holder:
        holder.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(installed.sources[5].table.identifier))
        with pytest.raises(CheckFailedError, match="could not lock"):
            go(database.dsn(), end, options=impatient)
    assert runner.current_revision(database.dsn()) == start
    write_to_each(database, installed.sources, seed=8)
    heard: list[ChainEvent] = []
    back(database.dsn(), start, on_event=heard.append)
    assert [(e.revision, e.direction) for e in heard if e.kind == "revision_end"] == [
        (revision, direction),
        (revision, "down" if direction == "up" else "up"),
    ]
    with database.connect() as conn:
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()
    write_to_each(database, installed.sources, seed=9)
    check_all(database, installed.sources, "turned back", wrong=installed.wrong)


CHAIN_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
# Where a run is held: a transaction open on one source lets it move all others and no more.
HELD = [("0001", "0002"), ("0003", "0004"), ("0005", "0006")]
_STEP_DONE: Mapping[str, LiteralString] = {
    "0002": "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgtrickle_changes'::regnamespace"
    " AND relname ~ '^changes_[0-9a-f]{16}$'",
    "0004": "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attname = 'xid'"
    " AND c.relnamespace = 'pgtrickle_changes'::regnamespace AND NOT a.attisdropped",
    "0006": "SELECT count(*) FROM pgtrickle.pgt_change_tracking WHERE captured_columns IS NOT NULL",
}


def _start_command(node: Node) -> subprocess.Popen[str]:
    # No server of ours has a password that another one shares: the environment of this one child holds it.
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "migrate", "up"],
        env={**os.environ, "HARNESS_DSN": node.dsn()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _moved(node: Node, revision: str) -> int:
    """How many sources a revision has moved so far."""
    try:
        return int(node.value(_STEP_DONE[revision]))
    except psycopg.errors.UndefinedColumn:
        return 0  # it has not begun


def _end_in_the_middle(node: Node, command: subprocess.Popen[str], blow: str) -> None:
    """Kill the client or its session, and wait until neither is there."""
    if blow == "kill -9":
        command.send_signal(signal.SIGKILL)
        command.communicate(timeout=30)
    else:
        for (pid,) in node.rows(CHAIN_SESSIONS, [APPLICATION_NAME]):
            assert node.value("SELECT pg_terminate_backend(%s)", [pid])
        output, complaint = command.communicate(timeout=30)
        assert command.returncode == ServerGoneError.exit_code, output + complaint
        assert "Traceback" not in complaint
        assert "run the same command again" in " ".join(complaint.split())
    wait_until("the chain's session to end", lambda: not node.rows(CHAIN_SESSIONS, [APPLICATION_NAME]), deadline_s=30)


@pytest.mark.slow
@pytest.mark.parametrize("blow", ["kill -9", "terminate"])
@pytest.mark.parametrize(("below", "revision"), HELD, ids=[revision for _, revision in HELD])
def test_half_moved_installation_captures(database: Node, below: str, revision: str, blow: str) -> None:
    installed = build_installation(database)
    runner.upgrade(database.dsn(), below)
    held = installed.sources[-1]
    with database.connect(autocommit=False) as holder:
        holder.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(held.table.identifier))
        command = _start_command(database)
        try:
            wait_until(
                "all other sources to be moved",
                lambda: _moved(database, revision) == len(installed.sources) - 1,
                deadline_s=60,
            )
            began_s = time.monotonic()
            _end_in_the_middle(database, command, blow)
            gone_s = time.monotonic() - began_s
        finally:
            command.kill()
            command.communicate()
        write_to_each(database, installed.sources, seed=3)
    assert _moved(database, revision) == len(installed.sources) - 1
    assert runner.current_revision(database.dsn()) == below
    check_all(database, installed.sources, f"half {revision}", wrong=installed.wrong)
    with database.connect() as conn:
        note_captured(conn, installed.sources)
    again = _start_command(database)
    output, complaint = again.communicate(timeout=60)
    assert again.returncode == 0, output + complaint
    assert runner.current_revision(database.dsn()) == runner.REVISIONS[-1]
    assert count_moved(database) == len(installed.sources)
    write_to_each(database, installed.sources, seed=4)
    check_all(database, installed.sources, "head", wrong=installed.wrong)
    runner.downgrade(database.dsn(), "0001")
    with database.connect() as conn:
        assert compare_catalogs(installed.catalog, snapshot_catalog(conn)) == ()
    tell(f"{revision} {blow}: session gone after {gone_s * 1000:.0f} ms")
