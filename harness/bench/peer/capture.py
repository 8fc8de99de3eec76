"""What capture costs with either engine: bulk statements and small ones, with a key and without; single rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.load.scripts import workload
from harness.bench.load.sender import choose_sender
from harness.bench.model import Better, Check, Gathered, Ratio, Refusal, Tell
from harness.bench.peer.sides import LONG_S, Side, Sides, TooSlowError, rounds_for
from harness.bench.tables import Column, Table, make_table
from harness.bench.triggers.forms import Form, Level
from harness.bench.triggers.making import Captured, drop_captured, make_captured
from harness.bench.writes import Operation, Write, Writer

CLIENTS = 4
# Its UPDATE of many rows with a key grows with their square: what is not done by then is not waited for.
LIMIT_S = 40.0
_STREAM_TABLE = "captured_by"
# Every column is read, so that every column is captured.
_QUERY = sql.SQL("SELECT id, n, note, amount, at FROM {} WHERE n % 2 = 0")
_OPERATIONS = (Operation.INSERT, Operation.UPDATE, Operation.DELETE)
_CREATE_LOAD = sql.SQL(
    "CREATE TABLE {} (id bigint PRIMARY KEY, place bigint NOT NULL, amount bigint NOT NULL,"
    " quantity integer NOT NULL DEFAULT 1, note text)"
)
_LOAD_COLUMNS: tuple[tuple[str, LiteralString], ...] = (
    ("id", "bigint"), ("place", "bigint"), ("amount", "bigint"), ("quantity", "integer"), ("note", "text"),
)  # fmt: skip
# The limit, beside writes of so many rows and single ones: a trigger that writes each row once more, no more.
NONE, BY_HAND = "none", "by_hand"
BULK_ROWS = 100_000
_SHORT_ROWS = 100


@dataclass(frozen=True)
class Cell:
    """One write that is compared.

    Attributes:
        operation: what is done.
        rows: in one statement.
        has_key: whether the table has a primary key.
    """

    operation: Operation
    rows: int
    has_key: bool

    @property
    def name(self) -> str:
        """Words separated by slashes."""
        return f"capture/{self.operation}/{self.rows}/{'key' if self.has_key else 'no_key'}"

    @property
    def write(self) -> Write:
        """Small statements are done many times, so that a sample is no matter of microseconds."""
        statements = {1: 200, 100: 20}.get(self.rows, 1)
        return Write(self.operation, self.rows * statements, self.rows)


@dataclass
class CaptureFound:
    """What was found of capture.

    Attributes:
        over_none: each cell's ratio of ours to no capture.
        over_peer: each cell's ratio of ours to the extension.
        peer_over_none: each cell's ratio of the extension to no capture.
        limit: the ratio of a trigger by hand to no capture, in cells of `BULK_ROWS`.
        too_slow: cells in which the extension did not answer in time.
        rate: of single rows, ours to none; the extension's; a trigger's by hand.
    """

    over_none: dict[Cell, Ratio] = field(default_factory=dict)
    over_peer: dict[Cell, Ratio] = field(default_factory=dict)
    peer_over_none: dict[Cell, Ratio] = field(default_factory=dict)
    limit: dict[Cell, Ratio] = field(default_factory=dict)
    too_slow: list[Cell] = field(default_factory=list)
    rate: dict[str, Ratio] = field(default_factory=dict)


def make_cells(sizes: Sequence[int]) -> tuple[Cell, ...]:
    """Every operation at every size, with a key and without."""
    return tuple(
        Cell(operation, rows, has_key) for has_key in (True, False) for operation in _OPERATIONS for rows in sizes
    )


def measure_capture(
    sides: Sides, cells: Sequence[Cell], gathered: Gathered, *, rounds: int, tell: Tell, is_up: Callable[[], bool]
) -> CaptureFound:
    """Time each cell without capture, with ours and with the extension's, by turns.

    Args:
        sides: both engines.
        cells: what is written.
        gathered: where measurements, ratios and checks go.
        rounds: how many count.
        tell: what is being done.
        is_up: whether the time is; each cell that is begun has three rounds.
    """
    found = CaptureFound()
    for number, cell in enumerate(cells):
        if number and is_up():
            left = ", ".join(each.name for each in cells[number:])
            gathered.notes.append(f"The time was up before {left}.")
            break
        tell(cell.name)
        _measure_cell(sides, cell, gathered, found, rounds=rounds, is_up=is_up)
    return found


def _make(side: Side, name: str, cell: Cell, *, by: str) -> Captured:
    table = make_table(side.connection, name)
    if not cell.has_key:
        side.connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table.quoted, sql.Identifier(f"{name}_pkey"))
        )
    if by == NONE:
        return Captured(table, None)
    if by == BY_HAND:
        return make_captured(side.connection, table, Form(has_xid=False))
    side.tables.create(_STREAM_TABLE, _query(table), mode="DIFFERENTIAL")
    return Captured(table, side.buffer(name))


def _query(table: Table) -> str:
    return _QUERY.format(table.quoted).as_string()


def _measure_cell(
    sides: Sides, cell: Cell, gathered: Gathered, found: CaptureFound, *, rounds: int, is_up: Callable[[], bool]
) -> None:
    ours, peer = sides.both
    made = {
        NONE: (ours, _make(ours, "not_captured", cell, by=NONE)),
        ours.name: (ours, _make(ours, "captured", cell, by=ours.name)),
        peer.name: (peer, _make(peer, "captured", cell, by=peer.name)),
    }
    if cell.rows >= BULK_ROWS:
        made[BY_HAND] = (ours, _make(ours, "written_twice", cell, by=BY_HAND))
    writers = {name: Writer(side.connection, captured, cell.write) for name, (side, captured) in made.items()}
    took_s = _probe(peer, writers[peer.name])
    if took_s is None:
        found.too_slow.append(cell)
        gathered.refusals.append(Refusal(f"{cell.name}/{peer.name}", str(TooSlowError(LIMIT_S))))
        writers.pop(peer.name)
    is_quick = took_s is not None and took_s < 1
    if not is_quick:
        # The extension has had its warm-up, and takes long.
        for name, writer in writers.items():
            if name != peer.name:
                writer.prepare()
                writer.run()
    contestants = [writer.contestant(f"{cell.name}/{name}") for name, writer in writers.items()]
    measured = measure(
        contestants,
        rounds=rounds_for(rounds, took_s, is_short=cell.rows <= _SHORT_ROWS),
        warmups=int(is_quick),
        deadline=is_up,
    )
    gathered.measurements += measured
    by_name = dict(zip(writers, measured, strict=True))
    _keep(gathered, found.over_none, cell, ratio(by_name[ours.name], by_name[NONE]))
    if BY_HAND in by_name:
        _keep(gathered, found.limit, cell, ratio(by_name[BY_HAND], by_name[NONE]))
    if peer.name in by_name:
        _keep(gathered, found.over_peer, cell, ratio(by_name[ours.name], by_name[peer.name]))
        _keep(gathered, found.peer_over_none, cell, ratio(by_name[peer.name], by_name[NONE]))
    for name, (side, captured) in made.items():
        if name == BY_HAND:
            drop_captured(side.connection, captured.table)
        elif captured.buffer is not None:
            # What takes longer is not checked besides: writing, refreshing and comparing would take as long again.
            if name in writers and (side is ours or (took_s or 0) < LONG_S):
                _check(side, cell, captured, writers[name], gathered)
            side.tables.drop(_STREAM_TABLE)
        side.connection.execute(sql.SQL("DROP TABLE {}").format(captured.table.quoted))


def _keep(gathered: Gathered, into: dict[Cell, Ratio], cell: Cell, found: Ratio) -> None:
    gathered.ratios.append(found)
    into[cell] = found


def _probe(side: Side, writer: Writer) -> float | None:
    """How long one run takes, in seconds; None: longer than the limit."""
    writer.prepare()
    side.connection.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{LIMIT_S:.0f}s")))
    begun = time.perf_counter()
    try:
        writer.run()
    except psycopg.errors.QueryCanceled:
        return None
    finally:
        side.connection.execute("RESET statement_timeout")
    return time.perf_counter() - begun


def _check(side: Side, cell: Cell, captured: Captured, writer: Writer, gathered: Gathered) -> None:
    """Write once more after the stream table was made anew: by its delta it has to equal its query."""
    writer.prepare()
    side.tables.drop(_STREAM_TABLE)
    side.tables.create(_STREAM_TABLE, _query(captured.table), mode="DIFFERENTIAL")
    writer.run()
    side.tables.refresh(_STREAM_TABLE)
    difference = side.tables.difference(_STREAM_TABLE)
    name = f"{cell.name}/{side.name}"
    if difference.is_equal or not side.is_peer:
        gathered.checks.append(Check(name, difference.is_equal, str(difference)))
    else:
        gathered.notes.append(
            f"{side.engine} is wrong after {name}: {difference.missing} rows missing, {difference.extra} too many."
        )


def measure_single_rows(
    sides: Sides, gathered: Gathered, found: CaptureFound, *, rounds: int, seconds: int, tell: Tell
) -> None:
    """Rates of single inserts by four clients: none, ours, the extension's, a row trigger by hand.

    Args:
        sides: both engines.
        gathered: where measurements and ratios go.
        found: gets the ratios.
        rounds: slices of each.
        seconds: of a slice.
        tell: what is being done.
    """
    sender = choose_sender(CLIENTS)
    tell(f"single rows: {CLIENTS} clients, {sender.label}")
    ours, peer = sides.both
    tables = {
        NONE: (ours, "load_none"),
        ours.name: (ours, "load_captured"),
        peer.name: (peer, "load_captured"),
        BY_HAND: (ours, "load_by_hand"),
    }
    contestants = []
    for name, (side, table) in tables.items():
        identifier = sql.Identifier("public", table)
        side.connection.execute(_CREATE_LOAD.format(identifier))
        if name == BY_HAND:
            columns = tuple(Column(column, type_, "NULL", lambda _i: None) for column, type_ in _LOAD_COLUMNS)
            written = Table(table, columns, is_distributed=False)
            make_captured(side.connection, written, Form(level=Level.ROW, has_xid=False))
        elif name != NONE:
            query = sql.SQL("SELECT id, place, amount, quantity, note FROM {} WHERE place < 0").format(identifier)
            side.tables.create(_STREAM_TABLE, query.as_string(), mode="DIFFERENTIAL")

        def run(side: Side = side, identifier: sql.Identifier = identifier) -> float:
            return sender.send(side.dsn, identifier, workload("single"), seconds=seconds).rate

        contestants.append(Contestant(f"single_rows/{name}", run, unit="statements/s", better=Better.HIGHER))
    measured = dict(zip(tables, measure(contestants, rounds=rounds, warmups=0), strict=True))
    gathered.measurements += measured.values()
    for name in (ours.name, peer.name, BY_HAND):
        found.rate[name] = ratio(measured[name], measured[NONE])
        gathered.ratios.append(found.rate[name])
    gathered.ratios.append(ratio(measured[ours.name], measured[peer.name]))
    for side in sides.both:
        rows = side.connection.execute("SELECT count(*) FROM load_captured").fetchone()
        waiting = side.tables.footprint("public", "load_captured").waiting
        name = f"single_rows/{side.name}"
        gathered.checks.append(
            Check(name, rows == (waiting,), f"{rows[0] if rows else 0} rows written, {waiting} captured")
        )
        side.tables.drop(_STREAM_TABLE)
    for side, table in tables.values():
        side.connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("public", table)))
