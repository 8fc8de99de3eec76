"""The reckoning finds what is lost, doubled, altered, or never was; and nothing where all is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from harness.chaos.ledger import Effect, Found, Ledger, Operation, Outcome, Row, settle_accounts

MARKS = "chaos_marks"
Rows = dict[str, dict[int, list[Row]]]
Marks = dict[str, dict[str, int]]


def insert(row_id: int, table: str = "orders") -> Effect:
    return Effect(table, "insert", row_id, "east", Decimal(10))


def sent(ledger: Ledger, key: str, outcome: Outcome, *effects: Effect, marks: str = MARKS) -> Operation:
    operation = ledger.begin(key, 0, effects, marks=marks)
    ledger.end(operation, outcome)
    return operation


def story() -> tuple[Ledger, Rows, Marks]:
    """Two inserts, an update, a delete, one rolled back, one open that had committed and one that had not."""
    ledger = Ledger()
    sent(ledger, "a", Outcome.ACKNOWLEDGED, insert(1), insert(2), insert(3))
    sent(ledger, "b", Outcome.ACKNOWLEDGED, Effect("orders", "update", 1, "west", Decimal(5)))
    sent(ledger, "c", Outcome.ACKNOWLEDGED, Effect("orders", "delete", 2))
    sent(ledger, "d", Outcome.ROLLED_BACK, insert(4))
    sent(ledger, "e", Outcome.UNKNOWN, insert(5))
    sent(ledger, "f", Outcome.UNKNOWN, insert(6))
    rows = {
        "orders": {
            1: [Row("west", Decimal(15), 2, "b")],
            3: [Row("east", Decimal(10), 1, "a")],
            5: [Row("east", Decimal(10), 1, "e")],
        }
    }
    return ledger, rows, {MARKS: {"a": 1, "b": 1, "c": 1, "e": 1}}


def codes(ledger: Ledger, rows: Rows, marks: Marks) -> list[str]:
    return sorted(trouble.code for trouble in settle_accounts(ledger, Found(rows, marks)).troubles)


def test_a_right_database_has_no_troubles_and_open_ones_are_counted() -> None:
    ledger, rows, marks = story()
    account = settle_accounts(ledger, Found(rows, marks))
    assert account.troubles == ()
    assert account.unknown_committed == 1
    assert account.row_count == 3


def set_row(row_id: int, **changes: object) -> Callable[[Rows, Marks], None]:
    def change(rows: Rows, _marks: Marks) -> None:
        rows["orders"][row_id] = [replace(rows["orders"][row_id][0], **changes)]  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    ("sabotage", "expected"),
    [
        (lambda rows, marks: rows["orders"].pop(3), ["lost"]),
        (lambda rows, marks: rows["orders"].pop(5), ["lost"]),
        (lambda rows, marks: marks[MARKS].pop("a"), ["lost"]),
        (lambda rows, marks: rows["orders"][3].append(rows["orders"][3][0]), ["doubled"]),
        (lambda rows, marks: marks[MARKS].update(b=2), ["doubled"]),
        (set_row(1, amount=Decimal(20), version=3), ["doubled"]),
        (set_row(1, amount=Decimal(10), version=1, key="a"), ["lost"]),
        (set_row(1, amount=Decimal(16)), ["altered"]),
        (set_row(3, key="x"), ["altered"]),
        (lambda rows, marks: rows["orders"].update({2: [Row("east", Decimal(10), 1, "a")]}), ["lost"]),
        (lambda rows, marks: rows["orders"].update({4: [Row("east", Decimal(10), 1, "d")]}), ["phantom"]),
        (lambda rows, marks: rows["orders"].update({6: [Row("east", Decimal(10), 1, "f")]}), ["phantom"]),
        (lambda rows, marks: rows["orders"].update({9: [Row("east", Decimal(10), 1, "z")]}), ["phantom"]),
        (lambda rows, marks: marks[MARKS].update(d=1), ["phantom", "lost"]),
        (lambda rows, marks: marks[MARKS].update(zz=1), ["phantom"]),
    ],
)
def test_each_sabotage_is_found(sabotage: Callable[[Rows, Marks], None], expected: list[str]) -> None:
    ledger, rows, marks = story()
    sabotage(rows, marks)
    assert codes(ledger, rows, marks) == sorted(expected)


def test_a_bare_statement_that_was_left_open_counts_by_its_rows_and_may_not_be_torn() -> None:
    ledger = Ledger()
    sent(ledger, "a", Outcome.UNKNOWN, insert(1, "events"), insert(2, "events"), marks="")
    one, two = Row("east", Decimal(10), 1, "a"), Row("east", Decimal(10), 1, "a")
    assert codes(ledger, {"events": {}}, {}) == []
    assert codes(ledger, {"events": {1: [one], 2: [two]}}, {}) == []
    assert codes(ledger, {"events": {1: [one]}}, {}) == ["lost"]


def test_what_was_acknowledged_before_a_truncate_is_gone_and_what_came_after_is_there() -> None:
    ledger = Ledger()
    sent(ledger, "before", Outcome.ACKNOWLEDGED, insert(1, "ticks"))
    sent(ledger, "open", Outcome.UNKNOWN, insert(2, "ticks"))
    sent(ledger, "cut", Outcome.ACKNOWLEDGED, Effect("ticks", "truncate"))
    sent(ledger, "after", Outcome.ACKNOWLEDGED, insert(3, "ticks"))
    row = {number: [Row("east", Decimal(10), 1, key)] for number, key in ((1, "before"), (2, "open"), (3, "after"))}
    marks = {MARKS: {"before": 1, "open": 1, "cut": 1, "after": 1}}
    assert codes(ledger, {"ticks": {3: row[3]}}, marks) == []
    # Committed, and nobody knows on which side of the TRUNCATE.
    assert codes(ledger, {"ticks": {2: row[2], 3: row[3]}}, marks) == []
    assert codes(ledger, {"ticks": {}}, marks) == ["lost"]
    assert codes(ledger, {"ticks": {1: row[1], 3: row[3]}}, marks) == ["lost"]


def test_a_truncate_that_had_not_committed_took_nothing() -> None:
    ledger = Ledger()
    sent(ledger, "before", Outcome.ACKNOWLEDGED, insert(1, "ticks"))
    sent(ledger, "cut", Outcome.UNKNOWN, Effect("ticks", "truncate"))
    rows = {"ticks": {1: [Row("east", Decimal(10), 1, "before")]}}
    assert codes(ledger, rows, {MARKS: {"before": 1}}) == []
    assert codes(ledger, {"ticks": {}}, {MARKS: {"before": 1}}) == ["lost"]
    assert codes(ledger, {"ticks": {}}, {MARKS: {"before": 1, "cut": 1}}) == []
