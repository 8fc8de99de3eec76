"""What clients send: one description of each statement, written out for pgbench and for psycopg."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql
from psycopg.types.numeric import Int8

from harness.errors import BadInputError

# Tables begin with so many rows, numbered from 1: what updates find.
SEEDED_ROWS = 10_000
# New rows take their number by chance, so that no client waits for another's sequence: among a million, two are equal
# once in 20,000 runs.
_HIGHEST_ID = 9_000_000_000_000_000
BATCH_ROWS = 10


@dataclass(frozen=True)
class Draw:
    """A random whole number of a statement.

    Attributes:
        name: as in the statement.
        low, high: its bounds, both included.
    """

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Script:
    """A statement that a client sends, one transaction each.

    Attributes:
        name: of the operation.
        statement: ``{table}`` and the draws by their names.
        draws: its numbers.
        weight: how often, among the scripts of a workload.
    """

    name: str
    statement: LiteralString
    draws: tuple[Draw, ...]
    weight: int = 1

    def _written(self, table: sql.Identifier, mark: Callable[[str], sql.Composable]) -> sql.Composed:
        return sql.SQL(self.statement).format(table=table, **{draw.name: mark(draw.name) for draw in self.draws})

    def for_pgbench(self, table: sql.Identifier) -> str:
        """The text of a script file."""
        lines = [f"\\set {draw.name} random({draw.low}, {draw.high})" for draw in self.draws]
        return "\n".join([*lines, self._written(table, _variable).as_string() + ";", ""])

    def for_psycopg(self, table: sql.Identifier) -> sql.Composed:
        """With named placeholders for `draw`."""
        return self._written(table, sql.Placeholder)

    def draw(self, rng: random.Random) -> Mapping[str, Int8]:
        """Its numbers, of one type each time: psycopg would choose by size, and prepare the statement several times."""
        return {draw.name: Int8(rng.randint(draw.low, draw.high)) for draw in self.draws}


def _variable(name: str) -> sql.Composable:
    # Its names are the constants of this module.
    return _VARIABLES[name]


_VARIABLES: Mapping[str, sql.SQL] = {
    "id": sql.SQL(":id"),
    "place": sql.SQL(":place"),
    "amount": sql.SQL(":amount"),
}
_NEW = Draw("id", 2 * SEEDED_ROWS + 1, _HIGHEST_ID)
_OLD = Draw("id", 1, SEEDED_ROWS)
_ANY_OLD = Draw("id", 1, 2 * SEEDED_ROWS)
_PLACE = Draw("place", 1, 1_000)
_AMOUNT = Draw("amount", 1, 100)

_INSERT = Script(
    "insert",
    "INSERT INTO {table} (id, place, amount, note) VALUES ({id}, {place}, {amount}, 'a row that a client wrote')",
    (_NEW, _PLACE, _AMOUNT),
)
_BATCH = Script(
    "batch",
    "INSERT INTO {table} (id, place, amount, note) VALUES"
    " ({id}, {place}, {amount}, 'batch'), ({id} + 1, {place}, {amount}, 'batch'),"
    " ({id} + 2, {place}, {amount}, 'batch'), ({id} + 3, {place}, {amount}, 'batch'),"
    " ({id} + 4, {place}, {amount}, 'batch'), ({id} + 5, {place}, {amount}, 'batch'),"
    " ({id} + 6, {place}, {amount}, 'batch'), ({id} + 7, {place}, {amount}, 'batch'),"
    " ({id} + 8, {place}, {amount}, 'batch'), ({id} + 9, {place}, {amount}, 'batch')",
    (_NEW, _PLACE, _AMOUNT),
)
_UPDATE = Script("update", "UPDATE {table} SET amount = amount + {amount} WHERE id = {id}", (_OLD, _AMOUNT))
_UPSERT = Script(
    "upsert",
    "INSERT INTO {table} (id, place, amount, note) VALUES ({id}, {place}, {amount}, 'upsert')"
    " ON CONFLICT (id) DO UPDATE SET amount = excluded.amount",
    (_ANY_OLD, _PLACE, _AMOUNT),
    weight=1,
)
_DELETE = Script("delete", "DELETE FROM {table} WHERE id = {id}", (_ANY_OLD,), weight=1)


def _of_weight(script: Script, weight: int) -> Script:
    return Script(script.name, script.statement, script.draws, weight)


WORKLOADS: Mapping[str, tuple[Script, ...]] = {
    "single": (_INSERT,),
    "batch": (_BATCH,),
    "update": (_UPDATE,),
    "mixed": (_of_weight(_INSERT, 5), _of_weight(_UPDATE, 3), _UPSERT, _DELETE),
}


def workload(name: str) -> tuple[Script, ...]:
    """The scripts of a workload.

    Raises:
        BadInputError: there is none of that name.
    """
    if name not in WORKLOADS:
        raise BadInputError(f"there is no workload {name!r}", hint=f"workloads are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def pick(scripts: tuple[Script, ...], rng: random.Random) -> Script:
    """One of them, by weight."""
    return rng.choices(scripts, [script.weight for script in scripts])[0] if len(scripts) > 1 else scripts[0]
