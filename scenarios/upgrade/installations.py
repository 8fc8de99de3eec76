"""Larger 0.2 installations for scenarios of the chain, and what is looked at after each of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.chain.catalog import CatalogSnapshot, snapshot_catalog
from harness.postgres import Node
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import note_captured, take_first
from harness.rehearsal.demonstration import build_demonstration
from harness.rehearsal.model import CheckResult, Verdict
from harness.rehearsal.stream_table_check import check_stream_tables, wrong_stream_tables
from harness.rehearsal.tables import SourceTable, fetch_sources
from harness.rehearsal.write_plans import WriteKind, fetch_write_plans, write_query
from harness.rehearsal.writers import Writers

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Installed:
    """An installation whose first contents are kept.

    Attributes:
        sources: its captured tables.
        wrong: stream tables that were wrong before the chain began, as the demonstration wants it.
        catalog: its definitions at 0001.
    """

    sources: tuple[SourceTable, ...]
    wrong: frozenset[str]
    catalog: CatalogSnapshot


def build_installation(node: Node, *, sources: int = 24, rows: int = 2_400, seed: int = 11) -> Installed:
    """The demonstration with few rows at 0001, its first contents and captured rows kept.

    Args:
        node: an empty database, as superuser.
        sources: how many captured tables.
        rows: about how many rows in the awkward 24 together.
        seed: of what they hold.
    """
    runner.upgrade(node.dsn(), "0001")
    with node.connect() as conn:
        build_demonstration(conn, sources=sources, rows=rows, seed=seed)
        found = fetch_sources(conn)
        take_first(conn, found)
        note_captured(conn, found)
        wrong = wrong_stream_tables(check_stream_tables(conn, phase="before"))
        return Installed(found, wrong, snapshot_catalog(conn))


def connector(node: Node) -> Callable[[], Connection]:
    """How writers connect: anew, on every call."""
    return node.connect


def write_to_each(node: Node, sources: Sequence[SourceTable], *, seed: int) -> None:
    """Some of every kind of change on each source; what a constraint of its own refuses is left out."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    with node.connect() as conn:
        for plan in fetch_write_plans(conn, sources):
            for kind in WriteKind:
                try:
                    conn.execute(write_query(plan, kind, rng, count=3))
                except (psycopg.IntegrityError, psycopg.DataError) as error:
                    if "pgtrickle" in (error.diag.context or ""):
                        raise


def check_all(
    node: Node, sources: Sequence[SourceTable], phase: str, *, wrong: frozenset[str] = frozenset()
) -> tuple[CheckResult, ...]:
    """Contents, captured rows and stream tables, while no writer runs. Returns all; none of them may have failed."""
    with node.connect() as conn:
        results = (
            *check_contents(conn, sources, phase=phase),
            *check_captured(conn, sources, phase=phase),
            *check_stream_tables(conn, phase=phase, wrong_before=wrong),
        )
    assert len(results) > 2 * len(sources)
    assert [r for r in results if r.verdict is Verdict.FAILED] == []
    return results


def slowest_ms(writers: Writers, from_s: float, to_s: float, *, without: str | None = None) -> float:
    """The slowest committed write that overlaps a time, in milliseconds; seconds are on the writers' clock.

    Args:
        writers: who wrote.
        from_s, to_s: the time.
        without: a source that does not count.
    """
    return max(
        (
            sample.latency_ms
            for sample in writers.samples()
            if sample.at_s < to_s and sample.at_s + sample.latency_ms / 1000 > from_s and sample.source != without
        ),
        default=0.0,
    )


def count_moved(node: Node) -> int:
    """How many change buffers bear a stable name."""
    return int(
        node.value(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgtrickle_changes'::regnamespace"
            " AND relname ~ '^changes_[0-9a-f]{16}$'"
        )
    )


def tell(text: str) -> None:
    """Figures for whoever runs the scenarios; pytest shows them with -s or -rP."""
    print(text)  # noqa: T201
