"""A query as PostgreSQL understands it: canonical text, columns, what it reads and calls. Nothing stays behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import generators, sql
from psycopg.pq import ExecStatus

from harness.errors import BadInputError, MissingPrivilegeError, QueryRefusedError
from harness.trickle.session import fetch_waiting
from harness.trickle.surroundings import is_of_the_surroundings

# A view of this name exists only inside a savepoint of the one who looks, in pg_temp.
_PROBE = sql.Identifier("pg_temp", "__pgt_probe")
# How a stored query names functions: calls, operators, aggregates, window functions (src/include/nodes/primnodes.h).
_FUNCTION_FIELDS = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)")
_OPERATOR_FIELDS = re.compile(r":opno (\d+)")
_COLLATION_FIELDS = re.compile(r":(?:\w*collid|\w*collation) (\d+)")
_TEXT_CAST = re.compile(r"\{COERCEVIAIO ")
_RESULT_TYPE = re.compile(r":resulttype (\d+)")
_TYPE_FIELDS = re.compile(r":(?:\w*type|\w*typeid|resulttype) (\d+)")


@dataclass(frozen=True)
class OutputColumn:
    """A column that a query returns.

    Attributes:
        name: as the query names it.
        type_oid: its type.
        type_text: the type as SQL writes it.
        is_enum: whether it is an enum.
    """

    name: str
    type_oid: int
    type_text: str
    is_enum: bool = False


@dataclass(frozen=True)
class FunctionCall:
    """A function that a query calls, directly, behind an operator or as an aggregate.

    Attributes:
        name: ``schema.name``, without the schema if it is PostgreSQL's own.
        volatility: ``i``, ``s`` or ``v``, as ``pg_proc`` has it.
        returns_set: whether it is set-returning.
    """

    name: str
    volatility: str
    returns_set: bool


@dataclass(frozen=True)
class Canonical:
    """What PostgreSQL makes of a query.

    Attributes:
        text: the query as ``pg_get_viewdef`` writes it with an empty search path: every name resolved.
        columns: what it returns.
        relations: OIDs of the relations that it reads, those behind views not included.
        functions: what it calls.
        notes: what in it depends on more than its sources, as a person would say it.
    """

    text: str
    columns: tuple[OutputColumn, ...]
    relations: tuple[int, ...]
    functions: tuple[FunctionCall, ...]
    notes: tuple[str, ...]


@contextmanager
def undone(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Whatever happens inside leaves nothing: a transaction, or a savepoint in the caller's, that is rolled back."""
    with connection.transaction(force_rollback=True):
        # Looking at a query takes its tables' locks, and waits for who has them.
        connection.execute(fetch_waiting(connection))
        yield


def _refusal(error: psycopg.Error) -> Exception:
    """What a person gets who wrote a query that PostgreSQL refuses."""
    message = (error.diag.message_primary or str(error)).strip()
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return MissingPrivilegeError(
            f"the query may not be run: {message}",
            hint="grant SELECT on it to the role that makes the stream table",
            sqlstate=error.sqlstate,
        )
    place = error.diag.statement_position
    where = f" (at character {place})" if place else ""
    return QueryRefusedError(
        f"PostgreSQL refuses the query: {message}{where}",
        hint=error.diag.message_hint or "run it by itself first; it must be one SELECT",
        sqlstate=error.sqlstate,
    )


def plain_query(query: str) -> sql.SQL:
    """A person's query as a part of a statement: they could have run it themselves, and it is theirs to write.

    Raises:
        BadInputError: it is empty.
    """
    text = query.strip()
    while text.endswith(";"):
        text = text[:-1].rstrip()
    if not text:
        raise BadInputError("the query is empty", hint="pass one SELECT")
    return sql.SQL(text)


def describe(connection: psycopg.Connection[Any], query: sql.Composable) -> tuple[OutputColumn, ...]:
    """The columns of a query, by preparing it; nothing is run.

    Args:
        connection: to the coordinator.
        query: one SELECT.

    Returns:
        Its columns, in order. Nothing stays behind.

    Raises:
        psycopg.Error: PostgreSQL refuses it.
    """
    name = b"__pgt_describe"
    text = query.as_string(connection).encode(connection.info.encoding)
    with undone(connection):
        # Not libpq's blocking calls: where the server is silent they hold the whole process, whatever the deadline.
        connection.pgconn.send_prepare(name, text)
        [result] = connection.wait(generators.execute(connection.pgconn))
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result, encoding=connection.info.encoding)
        connection.pgconn.send_describe_prepared(name)
        [described] = connection.wait(generators.execute(connection.pgconn))
        connection.execute("DEALLOCATE __pgt_describe")
    columns = [
        (
            (described.fname(place) or b"").decode(connection.info.encoding),
            described.ftype(place),
            described.fmod(place),
        )
        for place in range(described.nfields)
    ]
    found = connection.execute(
        "SELECT format_type(w.type, w.mod), t.typtype = 'e'"
        " FROM unnest(%s::oid[], %s::integer[]) WITH ORDINALITY AS w(type, mod, place)"
        " JOIN pg_type t ON t.oid = w.type ORDER BY w.place",
        [[column[1] for column in columns], [column[2] for column in columns]],
    ).fetchall()
    return tuple(
        OutputColumn(column[0], column[1], str(text), bool(is_enum))
        for column, (text, is_enum) in zip(columns, found, strict=True)
    )


def _columns(connection: psycopg.Connection[Any]) -> tuple[OutputColumn, ...]:
    found = connection.execute(
        "SELECT a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " WHERE a.attrelid = 'pg_temp.__pgt_probe'::regclass AND a.attnum > 0 ORDER BY a.attnum"
    ).fetchall()
    return tuple(OutputColumn(str(name), int(oid), str(text)) for name, oid, text in found)


def canonicalize(connection: psycopg.Connection[Any], query: sql.Composable) -> Canonical:
    """Ask PostgreSQL what a query means.

    Args:
        connection: to the coordinator; its search path is what the query's names are resolved with.
        query: one SELECT.

    Returns:
        The query in canonical form. Nothing stays: the view that was looked at is rolled back.

    Raises:
        QueryRefusedError: PostgreSQL refuses the query.
        MissingPrivilegeError: it may not read what it names.
        psycopg.Error: it could not be asked: a node is down, a lock was not to be had.
    """
    try:
        with undone(connection):
            # What a refresh will allow (F23); without Citus it is a word that nobody reads.
            connection.execute("SELECT set_config('citus.enable_repartition_joins', 'on', true)")
            # Looked at with LIMIT 0, since rights are checked when a query runs and not when a view is made.
            connection.execute(sql.SQL("SELECT FROM ({}\n) AS __pgt_q LIMIT 0").format(query))
            connection.execute(sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(_PROBE, query))
            return _look(connection)
    except psycopg.errors.SyntaxError as error:
        raise _refusal(error) from error
    except psycopg.Error as error:
        if is_of_the_surroundings(error, connection):
            raise
        raise _refusal(error) from error


def _look(connection: psycopg.Connection[Any]) -> Canonical:
    # Types of any schema are named with it from here on, and so is every relation.
    connection.execute("SELECT set_config('search_path', '', true)")
    columns = _columns(connection)
    found = connection.execute(
        "SELECT pg_get_viewdef(r.ev_class), r.ev_action::text, r.oid FROM pg_rewrite r"
        " WHERE r.ev_class = 'pg_temp.__pgt_probe'::regclass"
    ).fetchone()
    if found is None:  # a view has one rule
        raise QueryRefusedError("the query cannot be read back", hint="report this")
    text, tree, rule = str(found[0]).strip().removesuffix(";"), str(found[1]), found[2]
    relations = connection.execute(
        "SELECT DISTINCT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = %s"
        " AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> 'pg_temp.__pgt_probe'::regclass ORDER BY 1",
        [rule],
    ).fetchall()
    return Canonical(
        text,
        columns,
        tuple(int(row[0]) for row in relations),
        functions_of(connection, tree),
        notes_of(connection, tree),
    )


def functions_of(connection: psycopg.Connection[Any], tree: str) -> tuple[FunctionCall, ...]:
    """The functions that a stored query calls.

    Args:
        connection: to the database that stores it.
        tree: ``pg_rewrite.ev_action`` as text.
    """
    found = connection.execute(
        "SELECT DISTINCT CASE n.nspname WHEN 'pg_catalog' THEN p.proname ELSE n.nspname || '.' || p.proname END,"
        " p.provolatile, p.proretset FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE p.oid = ANY (%s::oid[]) OR p.oid IN (SELECT o.oprcode FROM pg_operator o WHERE o.oid = ANY (%s::oid[]))"
        " ORDER BY 1",
        [_numbers(_FUNCTION_FIELDS, tree), _numbers(_OPERATOR_FIELDS, tree)],
    ).fetchall()
    return tuple(FunctionCall(str(name), str(volatility), bool(returns_set)) for name, volatility, returns_set in found)


def notes_of(connection: psycopg.Connection[Any], tree: str) -> tuple[str, ...]:
    """What a stored query depends on besides its sources: the clock, settings, collations that equate different texts.

    Args:
        connection: to the database that stores it.
        tree: ``pg_rewrite.ev_action`` as text.
    """
    notes = []
    if "{SQLVALUEFUNCTION" in tree:
        notes.append("CURRENT_DATE or its like, which changes by itself")
    casts = list(_text_casts(tree))
    if casts:
        # Such a cast uses the types' own output and input, which for dates and times follow the settings.
        unsteady = connection.execute(
            "SELECT string_agg(DISTINCT format_type(t.oid, NULL), ', ') FROM pg_type t"
            " JOIN pg_proc o ON o.oid = t.typoutput JOIN pg_proc i ON i.oid = t.typinput"
            " WHERE (t.oid = ANY (%s::oid[]) AND o.provolatile <> 'i' AND t.typtype = 'b')"
            " OR (t.oid = ANY (%s::oid[]) AND i.provolatile <> 'i' AND t.typtype = 'b')",
            [[source for source, _result in casts], [result for _source, result in casts]],
        ).fetchone()
        if unsteady is not None and unsteady[0] is not None:
            notes.append(f"a cast between text and {unsteady[0]}, which follows the session's settings")
    loose = connection.execute(
        "SELECT string_agg(c.collname, ', ' ORDER BY c.collname) FROM pg_collation c"
        " WHERE c.oid = ANY (%s::oid[]) AND NOT c.collisdeterministic",
        [_numbers(_COLLATION_FIELDS, tree)],
    ).fetchone()
    if loose is not None and loose[0] is not None:
        notes.append(f"collation {loose[0]}, which holds different texts for equal")
    return tuple(notes)


def _text_casts(tree: str) -> Iterator[tuple[int, int]]:
    """The types that each cast by way of text begins and ends with."""
    for found in _TEXT_CAST.finditer(tree):
        depth = 0
        for place in range(found.start(), len(tree)):
            depth += {"{": 1, "}": -1}.get(tree[place], 0)
            if depth == 0:
                node = tree[found.start() : place]
                break
        else:
            node = tree[found.start() :]
        inner = _TYPE_FIELDS.search(node)
        result = _RESULT_TYPE.findall(node)
        if inner is not None and result:
            yield int(inner.group(1)), int(result[-1])


def _numbers(fields: re.Pattern[str], tree: str) -> list[int]:
    return sorted({int(number) for number in fields.findall(tree)})
