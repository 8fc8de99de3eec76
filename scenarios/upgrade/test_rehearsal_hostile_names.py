"""Hostile names: what is composed for a source, and what checks it, holds for any name that PostgreSQL takes."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import sql

from harness.chain import runner
from harness.postgres import Node
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source, refresh_full
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.stream_table_check import check_stream_tables
from harness.rehearsal.tables import TableName, fetch_table
from harness.rehearsal.write_plans import WriteKind, fetch_write_plans, write_query

# Names that end in dots, quotes, percent signs, braces, keywords, many-byte characters; no NUL, which no name can have.
_CHARACTERS = st.sampled_from([*"aZ_0 .\"'%{}$\\;-/é☃𝄞\u202e\n", "select", "new_", "OLD"])
_NAMES = st.lists(_CHARACTERS, min_size=1, max_size=25).map("".join)


def _fits(name: str) -> bool:
    return len(name.encode()) <= 63 and not name.startswith("pg_")


_IDENTIFIERS = _NAMES.filter(_fits)
# 63 bytes that end in the middle of what the server cuts off new_...
_LONG = st.sampled_from(["é" * 31 + "x", "x" + "é" * 31, "☃" * 21, "a" * 60 + "☃"])
_COLUMNS = st.lists(_IDENTIFIERS | _LONG, min_size=1, max_size=5, unique=True)


def _cut(name: str) -> str:
    """What the server keeps of ``new_`` and the name: 63 bytes, no character in half."""
    return ("new_" + name).encode()[:63].decode(errors="ignore")


@pytest.fixture
def baseline(database: Node) -> Node:
    """An empty catalog of 0.2.0."""
    runner.upgrade(database.dsn(), "0001")
    return database


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=_IDENTIFIERS, name=_IDENTIFIERS, columns=_COLUMNS, has_key=st.booleans(), seed=st.integers(0, 2**31))
def test_source_with_hostile_names_is_captured_and_checked(
    baseline: Node, schema: str, name: str, columns: list[str], has_key: bool, seed: int
) -> None:
    # two columns that the server cuts to the same buffer column are impossible in 0.2.0, too
    assume(len({_cut(column) for column in columns}) == len(columns))
    schema = f"{uuid.UUID(int=seed)!s:.8}{schema}".encode()[:63].decode(errors="ignore")
    table = TableName(schema, name)
    identifiers = [sql.Identifier(column) for column in columns]
    texts = sql.SQL(", ").join(sql.SQL("{} text").format(column) for column in identifiers)
    key = sql.SQL(", PRIMARY KEY ({})").format(identifiers[0]) if has_key else sql.SQL("")
    with baseline.connect() as conn:
        # what an earlier example left behind
        conn.execute("DELETE FROM pgtrickle.pgt_stream_tables")
        conn.execute("DELETE FROM pgtrickle.pgt_change_tracking")
        conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        conn.execute(sql.SQL("CREATE TABLE {} ({}{})").format(table.identifier, texts, key))
        source = install_source(conn, table)
        storage = TableName(schema, ("st " + name).encode()[:55].decode(errors="ignore"))
        assume(storage.name != name)
        counted = sql.SQL("FROM {}").format(table.identifier)
        made = create_stream_table(
            conn, StreamTableSpec(storage, sql.SQL("count(*) AS n"), counted, (table,), is_aggregate=True)
        )
        values = sql.SQL(", ").join(sql.SQL("i || ', \"{{}}\" ' || {}").format(sql.Literal(c)) for c in columns)
        conn.execute(sql.SQL("INSERT INTO {} SELECT {} FROM generate_series(1, 5) i").format(table.identifier, values))
        refresh_full(conn, made)
        take_first(conn, [source])
        plans = fetch_write_plans(conn, [source])
        rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        for kind in WriteKind:
            conn.execute(write_query(plans[0], kind, rng, count=2))
        assert fetch_table(conn, table) == source
        results = (
            *check_contents(conn, [source], phase="x"),
            *check_captured(conn, [source], phase="x"),
            *check_stream_tables(conn, phase="x", wrong_before=frozenset()),
        )
        assert [r for r in results if r.verdict is not Verdict.PASSED] == []
