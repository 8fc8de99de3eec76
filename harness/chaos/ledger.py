"""The writers' own book: what was sent under which key, what was heard of it, and so what every table must hold."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from harness.chaos.model import Trouble

# After so many of one code the rest is only counted in words: one is enough to fail, fifty to understand.
MOST_TROUBLES = 50


class Outcome(StrEnum):
    """What a writer heard of its transaction."""

    ACKNOWLEDGED = "acknowledged"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Row:
    """A row as the writers have it; ``key`` is the transaction that wrote it last."""

    grp: str
    amount: Decimal
    version: int
    key: str


@dataclass(frozen=True)
class Effect:
    """What a transaction does to one row; an update adds ``amount`` and 1 to the version, so that twice is seen."""

    table: str
    action: Literal["insert", "update", "delete", "truncate"]
    row_id: int = 0
    grp: str = ""
    amount: Decimal = Decimal(0)


@dataclass
class Operation:
    """One transaction of a writer, under one key however often it is sent.

    Attributes:
        key: goes into a table of keys in the same transaction, and into every row.
        writer: whose.
        effects: what it does if it commits.
        begun: number of the moment when it was first sent; ``ended``: when its outcome was last heard.
        marks: the table that its key goes to; empty: its rows alone tell.
        outcome: what was heard.
        was_unknown: whether its outcome was ever open.
        tries: how often it was sent.
        at_s: when it was first sent, in seconds after the writers began.
    """

    key: str
    writer: int
    effects: tuple[Effect, ...]
    begun: int
    marks: str = "chaos_marks"
    ended: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    was_unknown: bool = False
    tries: int = 1
    at_s: float = 0.0


@dataclass
class Ledger:
    """All transactions of all writers, in the order in which they were begun."""

    operations: list[Operation] = field(default_factory=list)
    _moments: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(
        self, key: str, writer: int, effects: Iterable[Effect], *, marks: str = "chaos_marks", at_s: float = 0.0
    ) -> Operation:
        """Write down what is about to be sent."""
        with self._guard:
            operation = Operation(key, writer, tuple(effects), next(self._moments), marks, at_s=at_s)
            self.operations.append(operation)
        return operation

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """Write down what was heard."""
        with self._guard:
            operation.outcome = outcome
            operation.was_unknown |= outcome is Outcome.UNKNOWN
            # An open one may be applied by the server at any later moment.
            operation.ended = None if outcome is Outcome.UNKNOWN else next(self._moments)

    def count(self, outcome: Outcome) -> int:
        """How many transactions ended so."""
        return sum(operation.outcome is outcome for operation in self.operations)


@dataclass(frozen=True)
class Found:
    """What the database holds at the end.

    Attributes:
        rows: by table and id, every row with that id.
        marks: by table of keys, how often each key is in it.
    """

    rows: Mapping[str, Mapping[int, list[Row]]]
    marks: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Account:
    """The comparison of the book with the database.

    Attributes:
        troubles: what differs: ``lost``, ``doubled``, ``phantom`` (never sent, or rolled back), ``altered``.
        unknown_committed: how many open transactions turned out to have committed.
        row_count: rows compared.
    """

    troubles: tuple[Trouble, ...]
    unknown_committed: int
    row_count: int


def settle_accounts(ledger: Ledger, found: Found) -> Account:
    """Compare what must be there with what is there.

    Args:
        ledger: the writers' book; nothing of it is open on the servers any more.
        found: the whole content of all tables that they wrote.
    """
    troubles = list(_marks(ledger, found))
    committed = {op.key for op in ledger.operations if _has_committed(op, found)}
    acknowledged = {op.key for op in ledger.operations if op.outcome is Outcome.ACKNOWLEDGED}
    counted = committed | acknowledged
    expected, either, ever = _replay(ledger, counted)
    told = _Told(ledger)
    for table, rows in found.rows.items():
        wanted, gone = expected.get(table, {}), ever.get(table, {})
        for row_id in sorted({*wanted, *rows}):
            seen = rows.get(row_id, [])
            troubles += [
                replace(trouble, detail=f"{trouble.detail}; sent to it: {told.of(table, row_id)}")
                for trouble in _row(
                    table, row_id, wanted.get(row_id), seen, is_either=(table, row_id) in either, gone=gone.get(row_id)
                )
            ]
    unknown = sum(op.outcome is Outcome.UNKNOWN and op.key in committed for op in ledger.operations)
    row_count = sum(len(each) for rows in found.rows.values() for each in rows.values())
    return Account(tuple(_clip(troubles)), unknown, row_count)


def _clip(troubles: Iterable[Trouble]) -> Iterable[Trouble]:
    counts: dict[str, int] = {}
    for trouble in troubles:
        counts[trouble.code] = counts.get(trouble.code, 0) + 1
        if counts[trouble.code] <= MOST_TROUBLES:
            yield trouble


def _has_committed(op: Operation, found: Found) -> bool:
    if op.marks:
        return op.key in found.marks.get(op.marks, {})
    return any(
        row.key == op.key for effect in op.effects for row in found.rows.get(effect.table, {}).get(effect.row_id, [])
    )


def _marks(ledger: Ledger, found: Found) -> Iterable[Trouble]:
    sent = {op.key: op for op in ledger.operations}
    for op in ledger.operations:
        count = found.marks.get(op.marks, {}).get(op.key, 0) if op.marks else 0
        if op.marks and op.outcome is Outcome.ACKNOWLEDGED and not count:
            yield Trouble("lost", op.marks, f"{op.key} was acknowledged and its key is not there")
        if op.outcome is Outcome.ROLLED_BACK and count:
            yield Trouble("phantom", op.marks, f"{op.key} was rolled back and its key is there")
        if count > 1:
            yield Trouble("doubled", op.marks, f"{op.key} is there {count} times")
    for table, keys in found.marks.items():
        for key in keys.keys() - sent.keys():
            yield Trouble("phantom", table, f"{key} was never sent")


class _Told:
    """All that was sent about a row, for whoever wonders what became of it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def of(self, table: str, row_id: int) -> str:
        """In a line: key, action, when, what was heard."""
        return ", ".join(
            f"{op.key} {effect.action} at {op.at_s:.2f} s {op.outcome}{f' after {op.tries} tries' * (op.tries > 1)}"
            for op in self._ledger.operations
            for effect in op.effects
            if (effect.table, effect.row_id) == (table, row_id)
        )


_Tables = dict[str, dict[int, Row]]


def _replay(ledger: Ledger, counted: Collection[str]) -> tuple[_Tables, set[tuple[str, int]], _Tables]:
    """What must be there; which rows may be there or not; the last state of rows that must be gone."""
    expected: _Tables = {}
    ever: _Tables = {}
    operations = [op for op in ledger.operations if op.key in counted]
    cuts = [(op, effect.table) for op in operations for effect in op.effects if effect.action == "truncate"]
    for op in operations:
        for effect in op.effects:
            rows, gone = expected.setdefault(effect.table, {}), ever.setdefault(effect.table, {})
            before = rows.get(effect.row_id)
            if effect.action == "insert":
                rows[effect.row_id] = Row(effect.grp, effect.amount, 1, op.key)
            elif effect.action == "update" and before is not None:
                rows[effect.row_id] = Row(effect.grp, before.amount + effect.amount, before.version + 1, op.key)
            elif effect.action == "delete" and before is not None:
                gone[effect.row_id] = rows.pop(effect.row_id)
    either: set[tuple[str, int]] = set()
    for cut, table in cuts:
        for op in operations:
            if op is cut:
                continue
            ids = {effect.row_id for effect in op.effects if effect.table == table and effect.action == "insert"}
            if op.ended is not None and op.ended < cut.begun:
                for row_id in ids & expected.get(table, {}).keys():
                    ever[table][row_id] = expected[table].pop(row_id)
            elif op.was_unknown and (cut.ended is None or op.begun < cut.ended):
                # Its rows came before the TRUNCATE or after it: nobody but the server knows.
                either |= {(table, row_id) for row_id in ids}
    return expected, either, ever


def _row(
    table: str, row_id: int, wanted: Row | None, seen: list[Row], *, is_either: bool, gone: Row | None
) -> Iterable[Trouble]:
    if not seen:
        if wanted is not None and not is_either:
            yield Trouble("lost", table, f"row {row_id} of {wanted.key} is not there")
        return
    if len(seen) > 1:
        yield Trouble("doubled", table, f"row {row_id} of {seen[0].key} is there {len(seen)} times")
    row = seen[0]
    if wanted is None:
        if gone is not None and not is_either:
            yield Trouble("lost", table, f"row {row_id} of {row.key} is there, and was deleted by an acknowledged one")
        elif not is_either:
            yield Trouble("phantom", table, f"row {row_id} of {row.key}: never sent, or rolled back")
    elif row.version < wanted.version:
        yield Trouble(
            "lost", table, f"row {row_id} is at {row.version} ({row.key}), must be {wanted.version} ({wanted.key})"
        )
    elif row.version > wanted.version:
        yield Trouble(
            "doubled", table, f"row {row_id} is at {row.version} ({row.key}), must be {wanted.version} ({wanted.key})"
        )
    elif row != wanted:
        yield Trouble("altered", table, f"row {row_id} is {row}, must be {wanted}")
