"""PostgreSQL as sqlglot reads it, with as little of sqlglot's own taste as possible: it writes what it read."""

from __future__ import annotations

from typing import ClassVar, cast

from psycopg import sql
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError
from sqlglot.parsers.postgres import PostgresParser

from harness.trickle.delta.reasons import NotIncrementalError

# The functions that sqlglot may know by meaning; every other call keeps its name and arguments as they were written.
_KNOWN_FUNCTIONS = ("COUNT", "SUM", "AVG", "MIN", "MAX", "COALESCE", "GREATEST", "LEAST", "NULLIF")


class Canonical(Postgres):
    """What ``pg_get_viewdef`` writes: names resolved, stars expanded, casts explicit."""

    class Parser(PostgresParser):
        """Reads a call of an unknown function as just that."""

        FUNCTIONS: ClassVar = {
            name: parser for name, parser in PostgresParser.FUNCTIONS.items() if name in _KNOWN_FUNCTIONS
        }
        NO_PAREN_FUNCTION_PARSERS: ClassVar = {
            name: parser for name, parser in PostgresParser.NO_PAREN_FUNCTION_PARSERS.items() if name in ("ANY", "CASE")
        }


def parse(query: str) -> exp.Expression:
    """Read one query as PostgreSQL deparses it.

    Raises:
        NotIncrementalError: sqlglot cannot read it.
    """
    try:
        found = Canonical().parse(query)
    except (SqlglotError, RecursionError) as error:
        raise NotIncrementalError("a construct that the SQL parser does not know", str(error).splitlines()[0]) from None
    if len(found) != 1 or found[0] is None:
        raise NotIncrementalError("a construct that the SQL parser does not know")
    return cast("exp.Expression", found[0])


def text_of(node: exp.Expression) -> str:
    """A node as SQL text, every identifier quoted."""
    return Canonical().generate(node, identify=True)


def composed(node: exp.Expression) -> sql.SQL:
    """A node as a part of a statement: the one place where the parser's text becomes SQL.

    It began as PostgreSQL's own deparse of the defining query, which the owner of the stream table wrote, and
    `harness.trickle.canonical` has seen that PostgreSQL reads both texts as the same query.
    """
    return sql.SQL(text_of(node))
