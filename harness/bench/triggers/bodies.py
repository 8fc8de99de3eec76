"""The text of capture functions: what a trigger does, in each form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.bench.tables import KEY, Table
from harness.bench.triggers.forms import Dispatch, Form, Level

SCHEMA = "pgtrickle_changes"


@dataclass(frozen=True)
class Target:
    """Where a function writes.

    Attributes:
        buffer: its name, in the schema of the buffers.
        shards: on Citus the name of each shard of the table, and of the buffer's shard that is colocated with it.
    """

    buffer: str
    shards: tuple[tuple[str, str], ...] = ()


def function_body(table: Table, target: Target, form: Form) -> sql.Composed:
    """The body, in PL/pgSQL, of a function for the triggers of all three operations.

    It declares nothing whose name could be a column's, as the engine's does.
    """
    came, went = (_Image(form, table, target, is_new=is_new) for is_new in (True, False))
    declared = sql.Composed([])
    if form.position is not None and form.position.is_once:
        declared = sql.SQL("DECLARE __pgt_position CONSTANT {} := {};\n").format(
            sql.SQL(form.position.type), sql.SQL(form.position.expression)
        )
    if table.is_distributed and form.dispatch is Dispatch.BRANCHES:
        branches = sql.SQL("").join(
            sql.SQL("WHEN {} THEN\n{}").format(sql.Literal(shard), _work(went, came, own))
            for shard, own in target.shards
        )
        work = sql.SQL("CASE TG_TABLE_NAME\n{}END CASE;\n").format(branches)
    else:
        is_looked_up = table.is_distributed and form.dispatch is Dispatch.LOOKUP
        work = _work(went, came, None if is_looked_up else target.buffer)
    return sql.SQL("{}BEGIN\n{}RETURN NULL;\nEND;\n").format(declared, work)


def _work(went: _Image, came: _Image, relation: str | None) -> sql.Composed:
    """Both images, into a relation, or into the one that is looked up."""
    if not came.is_filtered:
        return sql.SQL("IF TG_OP <> 'INSERT' THEN {}; END IF;\nIF TG_OP <> 'DELETE' THEN {}; END IF;\n").format(
            went.write(relation), came.write(relation)
        )
    return sql.SQL(
        "IF TG_OP = 'UPDATE' THEN {}; {}; ELSIF TG_OP = 'INSERT' THEN {}; ELSE {}; END IF;\n",
    ).format(
        went.write(relation, is_filtered=True),
        came.write(relation, is_filtered=True),
        came.write(relation),
        went.write(relation),
    )


class _Image:
    """What writes one of the two images of the changed rows."""

    def __init__(self, form: Form, table: Table, target: Target, *, is_new: bool) -> None:
        self._form, self._table, self._target, self._is_new = form, table, target, is_new
        self._side = "new_" if is_new else "old_"

    @property
    def is_filtered(self) -> bool:
        """Whether the function chooses among the rows of an UPDATE; a row trigger's condition does it before."""
        return bool(self._form.only_changed) and not self._is_by_row

    def write(self, relation: str | None, *, is_filtered: bool = False) -> sql.Composed:
        """A statement that writes this image.

        Args:
            relation: what it writes; None: the buffer's shard for the shard that fired, by a dynamic statement.
            is_filtered: only rows of which a column changed; for an UPDATE.
        """
        if relation is not None:
            position: LiteralString = "__pgt_position" if self._is_once else self._expression
            row: LiteralString = ("NEW" if self._is_new else "OLD") if self._is_by_row else self._alias
            return self._insert(sql.Identifier(SCHEMA, relation), sql.SQL(row), sql.SQL(position), is_filtered)
        # The one %I is where the relation's name goes.
        text = self._insert(
            sql.SQL("{}.%I").format(sql.Identifier(SCHEMA)),
            sql.SQL("($1)" if self._is_by_row else self._alias),
            sql.SQL("$2" if self._is_once else self._expression),
            is_filtered,
        )
        return sql.SQL("EXECUTE pg_catalog.format({}, bench.buffer_shard({}, TG_TABLE_NAME)) USING {}{}").format(
            sql.Literal(text.as_string()),
            sql.Literal(self._target.buffer),
            sql.SQL(("NEW" if self._is_new else "OLD") if self._is_by_row else "NULL::pg_catalog.int4"),
            sql.SQL(", __pgt_position" if self._is_once else ""),
        )

    def _insert(
        self, relation: sql.Composable, row: sql.Composable, position: sql.Composable, is_filtered: bool
    ) -> sql.Composed:
        names = [sql.Identifier(f"{self._side}{name}") for name in self._table.names]
        values: list[sql.Composable] = [sql.SQL("{}.{}").format(row, sql.Identifier(n)) for n in self._table.names]
        names.append(sql.Identifier("action"))
        values.append(sql.SQL("'I'" if self._is_new else "'D'"))
        if self._table.is_distributed:
            names.append(sql.Identifier("shard_key"))
            values.append(sql.SQL("{}.{}").format(row, sql.Identifier(KEY)))
        if self._form.position is not None:
            names.append(sql.Identifier("position"))
            values.append(position)
        head = sql.SQL("INSERT INTO {} ({}) ").format(relation, _listed(names))
        if self._is_by_row:
            return head + sql.SQL("VALUES ({})").format(_listed(values))
        return head + sql.SQL("SELECT {} FROM {}").format(_listed(values), self._rows(is_filtered))

    def _rows(self, is_filtered: bool) -> sql.Composed:
        """The transition table of this image; filtered: joined with the other by the key, as far as columns changed."""
        tables: dict[bool, LiteralString] = {True: "__pgt_new AS n", False: "__pgt_old AS o"}
        rows = sql.SQL(tables[self._is_new])
        if not is_filtered:
            return sql.SQL("{}").format(rows)
        return sql.SQL("{} JOIN {} ON n.{key} = o.{key} WHERE {}").format(
            rows,
            sql.SQL(tables[not self._is_new]),
            changed(self._form.only_changed, "n", "o"),
            key=sql.Identifier(KEY),
        )

    @property
    def _alias(self) -> LiteralString:
        return "n" if self._is_new else "o"

    @property
    def _is_by_row(self) -> bool:
        return self._form.level is Level.ROW

    @property
    def _is_once(self) -> bool:
        return self._form.position is not None and self._form.position.is_once

    @property
    def _expression(self) -> LiteralString:
        return self._form.position.expression if self._form.position is not None else ""


def changed(columns: Sequence[str], one: LiteralString, other: LiteralString) -> sql.Composed:
    """A condition: one of these columns differs between two rows, called ``one`` and ``other``."""
    return sql.SQL("({}) IS DISTINCT FROM ({})").format(
        *(
            _listed([sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)) for name in columns])
            for row in (one, other)
        )
    )


def _listed(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
