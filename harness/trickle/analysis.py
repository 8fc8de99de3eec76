"""What a query is to a stream table: its sources, its operators, or why it has to be recomputed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from harness.errors import QueryRefusedError
from harness.trickle.canonical import (
    Canonical,
    OutputColumn,
    canonicalize,
    describe,
    functions_of,
    notes_of,
    plain_query,
)
from harness.trickle.delta.aggregate import Aggregate
from harness.trickle.delta.dialect import parse, text_of
from harness.trickle.delta.functions import INEXACT
from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.delta.tree import Catalog, build_tree
from harness.trickle.sources import Source, fetch_sources
from harness.trickle.surroundings import is_of_the_surroundings
from harness.trickle.targets.groups import GroupTarget
from harness.trickle.targets.plain import RowColumn, RowTarget
from harness.trickle.targets.regroup import RegroupTarget
from harness.trickle.targets.target import Target
from harness.trickle.targets.whole import WholeTarget

_KINDS = {"m": "a materialized view", "f": "a foreign table", "S": "a sequence", "t": "a TOAST table"}
# Types whose equal values are the same in every respect. Of others (1.0 and 1.00; 1 day and 24 hours; json, which knows
# no equality; enums, whose hash is their OID's) the binary image is compared, of PostgreSQL's own send functions.
_SAME_IF_EQUAL = frozenset(
    {
        *("bool", "int2", "int4", "int8", "oid", "pg_lsn", "xid8"),
        *("text", "varchar", "name", "char", "bytea", "uuid", "macaddr", "macaddr8"),
        *("date", "timestamp", "timestamptz", "time"),
    }
)


@dataclass(frozen=True)
class Analysis:
    """What is known of a query.

    Attributes:
        canonical: as PostgreSQL understands it.
        sources: the tables, materialized views and foreign tables that it reads, those behind views included.
        target: what keeps its result.
        reason: why it has to be recomputed each time; empty for one with an incremental form.
        volatile: the volatile functions that it calls.
        notes: what its owner should know.
    """

    canonical: Canonical
    sources: tuple[Source, ...]
    target: Target
    reason: str
    volatile: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_incremental(self) -> bool:
        """Whether its changes follow from those of its sources."""
        return not self.reason

    @property
    def tables(self) -> tuple[Source, ...]:
        """The sources whose changes count: tables, and of an incremental query those that its operators read."""
        read = self.target.rows.sources() if self.target.rows is not None else None
        return tuple(source for source in self.sources if source.is_table and (read is None or source.relid in read))


def analyze(connection: psycopg.Connection[Any], query: sql.Composable) -> Analysis:
    """Find out what a query is.

    Args:
        connection: to the coordinator; its search path is what the query's names are resolved with.
        query: one SELECT, as a person wrote it or in canonical form.

    Returns:
        What is known of it; nothing stays behind.

    Raises:
        QueryRefusedError, MissingPrivilegeError: PostgreSQL refuses it, or its columns cannot be a table's.
    """
    canonical = canonicalize(connection, query)
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('search_path', '', true)")
        found = _Reading(connection, canonical)
        try:
            found.refuse()
            target = found.target()
            reason = ""
        except NotIncrementalError as error:
            target = WholeTarget(plain_query(canonical.text), canonical.columns)
            reason = str(error)
    return Analysis(
        canonical,
        found.sources,
        target,
        reason,
        tuple(f.name for f in found.functions if f.volatility == "v"),
        found.notes(target),
    )


class _Reading:
    """Everything behind a query, views looked through."""

    def __init__(self, connection: psycopg.Connection[Any], canonical: Canonical) -> None:
        self._connection = connection
        self._canonical = canonical
        self.functions = list(canonical.functions)
        self._notes = list(canonical.notes)
        self._views: dict[tuple[str, str], str] = {}
        relations: dict[int, Source] = {}
        wanted = set(canonical.relations)
        while wanted:
            for source in fetch_sources(connection, sorted(wanted)):
                relations[source.relid] = source
            wanted = {inner for relid in wanted for inner in self._behind(relations.get(relid))} - relations.keys()
        self.sources = tuple(source for source in relations.values() if source.kind != "v")

    def _behind(self, relation: Source | None) -> set[int]:
        if relation is None or relation.kind != "v":
            return set()
        row = self._connection.execute(
            "SELECT pg_get_viewdef(r.ev_class), r.ev_action::text, ARRAY(SELECT DISTINCT d.refobjid FROM pg_depend d"
            " WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass"
            " AND d.refobjid <> r.ev_class) FROM pg_rewrite r WHERE r.ev_class = %s AND r.ev_type = '1'",
            [relation.relid],
        ).fetchone()
        if row is None:
            return set()
        self._views[relation.schema, relation.name] = str(row[0]).strip().removesuffix(";")
        self.functions += functions_of(self._connection, str(row[1]))
        self._notes += notes_of(self._connection, str(row[1]))
        return {int(relid) for relid in row[2]}

    def refuse(self) -> None:
        """Find what no delta can follow, whatever the operators are.

        Raises:
            NotIncrementalError: names it.
        """
        for function in self.functions:
            if function.volatility == "v":
                raise NotIncrementalError("a volatile function", function.name)
            if function.returns_set:
                raise NotIncrementalError("a set-returning function", function.name)
            if function.volatility == "s":
                raise NotIncrementalError("a function that follows the clock or the session's settings", function.name)
        if self._notes:
            raise NotIncrementalError(self._notes[0])
        # sqlglot may read a construct otherwise than it was meant: PostgreSQL decides.
        try:
            # A query that PostgreSQL wrote it may itself write otherwise the next time: -1 first is (- 1), then
            # '-1'::integer.
            meant = canonicalize(self._connection, plain_query(self._canonical.text))
            again = canonicalize(self._connection, plain_query(text_of(parse(self._canonical.text))))
        except QueryRefusedError as error:
            raise NotIncrementalError("a construct that the SQL parser writes otherwise", error.message) from None
        if again.text not in {meant.text, self._canonical.text}:
            raise NotIncrementalError("a construct that the SQL parser reads otherwise than PostgreSQL")

    def _refused_relations(self) -> Mapping[tuple[str, str], str]:
        refused = {}
        for source in self.sources:
            name = (source.schema, source.name)
            if not source.is_table:
                refused[name] = f"{_KINDS.get(source.kind, 'a relation')}, {source.qualified}"
            elif source.has_row_security:
                refused[name] = f"row security on {source.qualified}"
            elif source.has_children:
                refused[name] = f"tables that inherit from {source.qualified}"
            elif source.access_method not in {None, "heap"}:
                refused[name] = f"{source.qualified}, a table that {source.access_method} keeps"
            elif len({column.new_name for column in source.columns}) < len(source.columns):
                refused[name] = f"columns whose captured names are one: {_twins(source)}"
        return refused

    def target(self) -> Target:
        """What keeps the result.

        Raises:
            NotIncrementalError: there is no incremental form.
        """
        tree = build_tree(
            self._canonical.text,
            Catalog(
                sources={(source.schema, source.name): source for source in self.sources},
                views=self._views,
                refused=self._refused_relations(),
                aggregates=self._aggregates(),
                types_of=self._types_of,
            ),
        )
        types = [column.type_text for column in self._canonical.columns]
        if isinstance(tree, Aggregate):
            self._check_hashable(tree)
            if tree.having is None and all(call.is_linear or call.is_extremum for call in tree.calls):
                return GroupTarget(tree, types)
            return RegroupTarget(tree, types)
        return RowTarget(tree, self._row_columns())

    def _types_of(self, query: sql.Composable) -> list[tuple[str, bool]]:
        try:
            return [(column.type_text, column.is_enum) for column in describe(self._connection, query)]
        except psycopg.Error as error:
            if is_of_the_surroundings(error, self._connection):
                raise
            raise NotIncrementalError(
                "a construct whose parts do not stand by themselves", str(error).splitlines()[0]
            ) from None

    def _aggregates(self) -> frozenset[str]:
        found = self._connection.execute("SELECT DISTINCT proname FROM pg_proc WHERE prokind IN ('a', 'w')").fetchall()
        return frozenset(str(row[0]) for row in found)

    def _check_hashable(self, tree: Aggregate) -> None:
        for key in tree.keys:
            probe = sql.SQL("SELECT hash_record_extended(ROW(NULL::{}), 0)").format(plain_query(key.type_text))
            try:
                with self._connection.transaction():
                    self._connection.execute(probe)
            except psycopg.Error as error:
                if is_of_the_surroundings(error, self._connection):
                    raise
                raise NotIncrementalError("groups by a type that cannot be hashed", key.type_text) from None

    def _row_columns(self) -> list[RowColumn]:
        found = self._connection.execute(
            "SELECT t.oid, t.typname, n.nspname, p.proname, s.nspname, e.typname"
            " FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
            " LEFT JOIN pg_proc p ON p.oid = t.typsend LEFT JOIN pg_namespace s ON s.oid = p.pronamespace"
            " LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' WHERE t.oid = ANY (%s::oid[])",
            [[column.type_oid for column in self._canonical.columns]],
        ).fetchall()
        types = {int(row[0]): row[1:] for row in found}
        return [self._row_column(column, types[column.type_oid]) for column in self._canonical.columns]

    def _row_column(self, column: OutputColumn, found: tuple[Any, ...]) -> RowColumn:
        name, schema, send, send_schema, element = found
        if schema == "pg_catalog" and (element or name) in _SAME_IF_EQUAL:
            return RowColumn(column.name, column.type_text, None)
        if send is None:
            raise NotIncrementalError("a column of a type without a binary form", f"{column.name} {column.type_text}")
        return RowColumn(column.name, column.type_text, (str(send_schema), str(send)))

    def notes(self, target: Target) -> tuple[str, ...]:
        """What the owner should know."""
        found = []
        if isinstance(target.rows, Aggregate):
            inexact = [
                call for call in target.rows.calls if call.base_type in INEXACT and call.function in {"sum", "avg"}
            ]
            if inexact:
                found.append(
                    "float sums depend on the order of addition: a group is added up anew when it changes, and may"
                    " differ from the query's own result in the last digits"
                )
        return tuple(found)


def _twins(source: Source) -> str:
    """The columns whose names have the same first 59 bytes: a buffer's prefix leaves no room for the rest."""
    counts = Counter(column.new_name for column in source.columns)
    return ", ".join(f"{source.qualified}.{column.name}" for column in source.columns if counts[column.new_name] > 1)
