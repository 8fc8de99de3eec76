"""citus_time_partitions_inspector: bounds as they are, gaps, what is missing; and its arithmetic by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from harness.inspectors import Reason, Status, inspect, registry
from harness.inspectors.time_bounds import Bound, count_missing, read_bounds
from scenarios.inspectors.fixture_standard import PARTITIONS, Standard
from scenarios.inspectors_catalog.asking import look

NAME = "citus_time_partitions_inspector"
with_citus = pytest.mark.citus(">= 14")
# Range tables of every sort: by day and not of Citus; by a number; by text; two columns; an expression; no range.
SORTS = (
    "CREATE SCHEMA parts",
    "CREATE TABLE parts.days (day date NOT NULL, v int) PARTITION BY RANGE (day)",
    "CREATE TABLE parts.days_a PARTITION OF parts.days FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')",
    "CREATE TABLE parts.days_c PARTITION OF parts.days FOR VALUES FROM ('2026-01-03') TO ('10000-01-01')",
    "CREATE TABLE parts.days_0 PARTITION OF parts.days FOR VALUES FROM ('0044-03-15 BC') TO ('2026-01-01')",
    "CREATE TABLE parts.days_rest PARTITION OF parts.days DEFAULT",
    'CREATE TABLE parts."Num bers" (n int) PARTITION BY RANGE (n)',
    'CREATE TABLE parts.numbers_b PARTITION OF parts."Num bers" FOR VALUES FROM (10) TO (100)',
    'CREATE TABLE parts.numbers_a PARTITION OF parts."Num bers" FOR VALUES FROM (-5) TO (9)',
    "CREATE TABLE parts.words (w text) PARTITION BY RANGE (w)",
    "CREATE TABLE parts.words_a PARTITION OF parts.words FOR VALUES FROM ('it''s, (a)') TO ('z')",
    "CREATE TABLE parts.two (a date, b date) PARTITION BY RANGE (a, b)",
    "CREATE TABLE parts.two_a PARTITION OF parts.two FOR VALUES FROM (MINVALUE, MINVALUE) TO ('2026-01-01', MINVALUE)",
    "CREATE TABLE parts.expression (at timestamp) PARTITION BY RANGE ((at::date))",
    "CREATE TABLE parts.expression_a PARTITION OF parts.expression FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
    "CREATE TABLE parts.hashed (a int) PARTITION BY HASH (a)",
    "CREATE TABLE parts.hashed_a PARTITION OF parts.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE parts.childless (at timestamp NOT NULL) PARTITION BY RANGE (at)",
)


@pytest.fixture
def parts(own: Standard) -> Iterator[Standard]:
    for statement in SORTS:
        own.cluster.sql(statement)
    try:
        yield own
    finally:
        own.cluster.sql("DROP SCHEMA parts CASCADE")


def _bounds(standard: Standard, **values: Any) -> list[tuple[Any, ...]]:
    return [
        (row.parent, row.position, row.partition, row.lower, row.upper, row.is_default, row.gap_before)
        for row in look(standard, NAME, **values).rows
    ]


@with_citus
def test_monthly_partitions_are_those_of_the_catalog(own: Standard) -> None:
    rows = look(own, NAME).rows
    assert [(row.schema, row.parent, row.column, row.partition, row.lower, row.upper) for row in rows] == [
        ("app", "events", "at", name, f"2026-0{month}-01T00:00:00Z", f"2026-0{month + 1}-01T00:00:00Z")
        for month, name in enumerate(PARTITIONS, start=1)
    ]
    assert {(row.type, row.is_distributed, row.access_method, row.is_default, row.gap_before) for row in rows} == {
        ("timestamp with time zone", True, "heap", False, False)
    }
    # The view may be read here: no bound of this database is MINVALUE or MAXVALUE.
    theirs = own.cluster.rows(
        "SELECT partition::text, from_value::timestamptz, to_value::timestamptz FROM time_partitions ORDER BY 2"
    )
    assert [
        (f"app.{row.partition}", datetime.fromisoformat(row.lower), datetime.fromisoformat(row.upper)) for row in rows
    ] == theirs


@with_citus
def test_every_sort_of_partition_is_read_in_its_order(parts: Standard) -> None:
    assert _bounds(parts, schema="parts", distributed_only=False) == [
        ("childless", 1, None, None, None, False, False),
        ("days", 1, "days_0", "0044-03-15 BC", "2026-01-01", False, False),
        ("days", 2, "days_a", "2026-01-01", "2026-01-02", False, False),
        ("days", 3, "days_c", "2026-01-03", "10000-01-01", False, True),
        ("days", 4, "days_rest", None, None, True, False),
    ]
    assert _bounds(parts, schema="parts", parent="Num bers", distributed_only=False, time_only=False) == [
        ("Num bers", 1, "numbers_a", "-5", "9", False, False),
        ("Num bers", 2, "numbers_b", "10", "100", False, True),
    ]
    assert _bounds(parts, parent="words", distributed_only=False, time_only=False) == [
        ("words", 1, "words_a", "it's, (a)", "z", False, False)
    ]
    covering = [
        row.partition for row in look(parts, NAME, parent="days", distributed_only=False).rows if row.covers_now
    ]
    assert covering == ["days_c"]
    assert not look(parts, NAME).facts["unsafe_time_partitions_view"], "two columns and expressions are not in the view"


@with_citus
def test_parent_that_is_not_there_is_not_an_empty_list(own: Standard) -> None:
    for name in ("nothing", "orders", "events_p2026_01"):
        envelope = inspect(own.dsn(), NAME, {"parent": name})
        assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.NOT_FOUND)


@with_citus
def test_unbounded_partition_is_told_and_the_server_lives(parts: Standard) -> None:
    """Reading the view now would crash it (inspectors.md, finding 1); ours does not."""
    since = parts.cluster.value("SELECT pg_postmaster_start_time()")
    parts.cluster.sql('CREATE TABLE parts."No end" PARTITION OF parts."Num bers" FOR VALUES FROM (100) TO (MAXVALUE)')
    backend = parts.cluster.value("SELECT pg_backend_pid()")
    envelope = look(parts, NAME, role="plain", parent="Num bers", distributed_only=False, time_only=False)
    assert envelope.facts["unsafe_time_partitions_view"] is True
    assert list(envelope.facts["unsafe_partitions"]) == ['parts."No end"']
    assert envelope.rows[-1].upper == "MAXVALUE"
    assert envelope.warnings
    (finding,) = registry.get(NAME).severity(envelope)  # type: ignore[misc]
    assert (finding.rule, finding.target) == ("unsafe_time_partitions_view", 'parts."No end"')
    # It is a fact of the database, whatever was asked for.
    assert look(parts, NAME, parent="events").facts["unsafe_time_partitions_view"] is True
    assert parts.cluster.value("SELECT pg_postmaster_start_time()") == since
    assert parts.cluster.value("SELECT pg_backend_pid()") == backend, "no session was ended"


@with_citus
def test_locked_parent_is_not_waited_for(parts: Standard) -> None:
    with parts.cluster.coordinator.connect() as connection:
        connection.autocommit = False
        connection.execute("LOCK TABLE parts.days IN ACCESS EXCLUSIVE MODE")
        assert len(_bounds(parts, parent="days", distributed_only=False)) == 4
        connection.rollback()


def _months(*starts: str) -> list[Bound]:
    """Partitions of one month each."""
    found = []
    for start in starts:
        year, month = (int(part) for part in start.split("-"))
        end = f"{year + month // 12}-{month % 12 + 1:02}"
        found.append(
            read_bounds(f"FOR VALUES FROM ('{start}-01 00:00:00+00') TO ('{end}-01 00:00:00+00')", is_time=True)
        )
    return found


NOW = datetime(2026, 11, 21, 20, 30)  # noqa: DTZ001 - all in UTC


@pytest.mark.parametrize(
    ("starts", "interval", "days", "missing"),
    [
        (("2026-10", "2026-11", "2026-12"), "auto", 30, 0),
        (("2026-10", "2026-11"), "auto", 30, 1),
        (("2026-10", "2026-11"), "auto", 0, 0),
        (("2026-10", "2026-11"), "auto", 70, 2),
        (("2026-09", "2026-10"), "auto", 0, 0),
        (("2026-09", "2026-10"), "auto", 1, 1),
        (("2026-01", "2026-02", "2026-03"), "auto", 30, 2),
        (("2026-11", "2027-01"), "auto", 50, 1),
        (("2026-11",), "day", 30, 21),
        (("2026-11",), "week", 30, 3),
        (("2026-11",), "year", 3 * 365, 3),
        ((), "auto", 30, None),
        ((), "month", 30, 1),
    ],
)
def test_missing_partitions_are_counted(starts: tuple[str, ...], interval: str, days: int, missing: int | None) -> None:
    assert count_missing(_months(*starts), NOW, days, interval) == missing


def test_unbounded_end_covers_every_horizon() -> None:
    bound = read_bounds("FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)", is_time=True)
    assert count_missing([bound], NOW, 3660, "day") == 0
    assert bound.covers(NOW)


@pytest.mark.parametrize(
    ("lower", "upper", "covers"),
    [
        ("'-infinity'", "'infinity'", True),
        ("MINVALUE", "'2026-11-21'", False),
        ("'2026-11-21 20:30:00'", "'2026-11-22'", True),
        ("'2026-11-01'", "'2026-11-21 20:30:00'", False),
        ("'0044-03-15 BC'", "'0001-01-01 BC'", False),
        ("'0044-03-15 BC'", "'294276-01-01'", True),
        ("'10000-01-01'", "'20000-01-01'", False),
        ("'2026-11-21 20:29:59.999999'", "'2026-11-21 20:30:00.000001'", True),
    ],
)
def test_moment_belongs_where_postgresql_puts_it(lower: str, upper: str, covers: bool) -> None:
    assert read_bounds(f"FOR VALUES FROM ({lower}) TO ({upper})", is_time=True).covers(NOW) is covers


def test_bounds_sort_as_values_not_as_text() -> None:
    texts = ["MAXVALUE", "'infinity'", "'10000-01-01'", "'2026-01-01'", "'0044-03-15 BC'", "'0045-01-01 BC'"]
    texts += ["'-infinity'", "MINVALUE"]
    bounds = [read_bounds(f"FOR VALUES FROM ({text}) TO (MAXVALUE)", is_time=True) for text in texts]
    assert [bound.lower for bound in sorted(bounds, key=lambda each: each.sort_key)] == [
        "MINVALUE",
        "-infinity",
        "0045-01-01 BC",
        "0044-03-15 BC",
        "2026-01-01",
        "10000-01-01",
        "infinity",
        "MAXVALUE",
    ]
