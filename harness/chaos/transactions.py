"""What a writer does next, drawn from its own chance, over rows that nobody else writes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from harness.chaos.ledger import Effect, Operation, Row
from harness.chaos.shop import CUSTOMERS, GROUPS, LINES_OF_AN_ORDER, LOCAL_MARKS, MARKS, SOURCES

# More rows than that a writer does not keep: deleting them keeps the oracle quick, and is a change too.
MOST_ROWS = 400


class Ending(StrEnum):
    """How a transaction is meant to end; a bare one is a single statement without BEGIN."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    BARE = "bare"


@dataclass(frozen=True)
class Draft:
    """A transaction before it has a key.

    Attributes:
        effects: what it does.
        undone: what it does inside a savepoint that is rolled back.
        ending: how it ends.
        marks: the table for its key; empty for a bare one.
    """

    effects: tuple[Effect, ...]
    ending: Ending
    marks: str
    undone: tuple[Effect, ...] = ()


@dataclass
class Holdings:
    """The rows that one writer has, by table and id, as far as it knows; rows of an open transaction are set aside.

    Args:
        writer: its number; ``writers``: how many there are, so that each has ids of its own.
        is_local: whether it reaches tables that only the coordinator has.
    """

    writer: int
    writers: int
    is_local: bool
    chance: random.Random
    rows: dict[str, dict[int, Row]] = field(default_factory=dict)
    _aside: set[tuple[str, int]] = field(default_factory=set)
    _next: dict[str, int] = field(default_factory=dict)

    def draw(self) -> Draft:
        """The next transaction."""
        chance = self.chance
        kind = chance.choices(
            ("orders", "customers", "events", "ticks", "items", "mixed", "bare"),
            (30, 8, 8, 8, 14 if self.is_local else 0, 12, 10),
        )[0]
        if kind == "bare":
            name = chance.choice(("events", "orders"))
            return Draft(tuple(self._inserts(name, 1 if name == "orders" else chance.randint(1, 4))), Ending.BARE, "")
        effects = self._effects(kind)
        marks = LOCAL_MARKS if kind == "items" else MARKS
        undone = tuple(self._inserts("items" if kind == "items" else "orders", 2)) if chance.random() < 0.2 else ()
        return Draft(effects, Ending.ROLLBACK if chance.random() < 0.12 else Ending.COMMIT, marks, undone)

    def _effects(self, kind: str) -> tuple[Effect, ...]:
        match kind:
            case "orders":
                return self._orders()
            case "mixed":
                return (*self._orders(), *self._inserts("events", 2), *self._changes("customers", 1))
            case "events" | "ticks":
                return tuple(self._inserts(kind, self.chance.randint(1, 8)))
            case _:
                return self._changes(kind, 6 if kind == "items" else 2)

    def _orders(self) -> tuple[Effect, ...]:
        orders = self._changes("orders", 8)
        lines: list[Effect] = []
        for effect in orders:
            if effect.action == "insert":
                lines += [
                    self._insert("lines", effect.row_id * LINES_OF_AN_ORDER + number)
                    for number in range(self.chance.randint(0, LINES_OF_AN_ORDER))
                ]
        return (*orders, *lines, *self._changes("lines", 2, inserts=False))

    def _changes(self, table: str, most: int, *, inserts: bool = True) -> tuple[Effect, ...]:
        chance = self.chance
        rows = self.rows.get(table, {})
        ids = [row_id for row_id in rows if (table, row_id) not in self._aside]
        chosen = chance.sample(ids, min(len(ids), chance.randint(0, most)))
        crowded = len(rows) > MOST_ROWS
        found = [
            Effect(table, "delete", row_id)
            if chance.random() < (0.7 if crowded else 0.25)
            else Effect(table, "update", row_id, chance.choice(GROUPS), self._amount())
            for row_id in chosen
        ]
        if inserts and not crowded:
            found += self._inserts(table, chance.randint(1, most))
        return tuple(found)

    def _inserts(self, table: str, count: int) -> Iterator[Effect]:
        for _ in range(count):
            number = self._next.get(table, 0)
            row_id = number * self.writers + self.writer
            if table == "customers" and row_id >= CUSTOMERS * 2:
                return  # few customers: half of them have orders
            self._next[table] = number + 1
            yield self._insert(table, row_id)

    def _insert(self, table: str, row_id: int) -> Effect:
        return Effect(table, "insert", row_id, self.chance.choice(GROUPS), self._amount())

    def _amount(self) -> Decimal:
        return Decimal(self.chance.randint(-2000, 10000)) / 100

    def set_aside(self, effects: Iterable[Effect]) -> None:
        """Rows of a transaction whose outcome is open are left alone."""
        self._aside |= {(effect.table, effect.row_id) for effect in effects}

    def take_back(self, effects: Iterable[Effect]) -> None:
        """It is known now."""
        self._aside -= {(effect.table, effect.row_id) for effect in effects}

    def commit(self, operation: Operation) -> None:
        """What a transaction did has happened."""
        for effect in operation.effects:
            if SOURCES[effect.table].is_truncated or not SOURCES[effect.table].has_key:
                continue  # only inserted into: nobody needs to know them
            rows = self.rows.setdefault(effect.table, {})
            before = rows.get(effect.row_id)
            if effect.action == "insert":
                rows[effect.row_id] = Row(effect.grp, effect.amount, 1, operation.key)
            elif effect.action == "delete":
                rows.pop(effect.row_id, None)
            elif before is not None:
                rows[effect.row_id] = Row(effect.grp, before.amount + effect.amount, before.version + 1, operation.key)
