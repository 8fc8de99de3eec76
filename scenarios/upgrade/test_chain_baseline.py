"""Revision 0001 is pg_trickle 0.2's catalog, and its functions give the library's values (baseline.md)."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.chain import runner
from harness.chain.adopt import load_baseline
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog
from harness.postgres import Node
from harness.trickle.names import stable_name

SEED = 0x517CC1B727220A95


@pytest.fixture
def baseline(database: Node) -> Node:
    runner.upgrade(database.dsn(), "0001")
    return database


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def test_chain_knows_all_revisions() -> None:
    assert runner.known_heads() == (runner.REVISIONS[-1],)


def test_baseline_equals_the_written_out_catalog(baseline: Node) -> None:
    written = load_baseline()
    kinds = {kind for kind, _ in written.entries}
    with baseline.connect() as conn:
        found = snapshot_catalog(conn).only("pgtrickle.")
    made = {key: value for key, value in found.entries.items() if key[0] in kinds and "alembic_version" not in key[1]}
    assert compare_catalogs(written, CatalogSnapshot(made)) == ()


def test_written_out_catalog_has_what_was_seen() -> None:
    """Not made by us: lines of baseline.md, checked against the file."""
    columns = {subject: text for (kind, subject), text in load_baseline().entries.items() if kind == "column"}
    assert sum(subject.startswith("pgtrickle.pgt_stream_tables.") for subject in columns) == 24
    assert sum(subject.startswith("pgtrickle.pgt_dependencies.") for subject in columns) == 10
    assert sum(subject.startswith("pgtrickle.pgt_refresh_history.") for subject in columns) == 15
    assert sum(subject.startswith("pgtrickle.pgt_change_tracking.") for subject in columns) == 4
    assert columns["pgtrickle.pgt_stream_tables.refresh_mode"].startswith(
        "text, not null t, default 'DIFFERENTIAL'::text"
    )
    assert columns["pgtrickle.pgt_change_tracking.tracked_by_pgt_ids"].startswith("bigint[], not null f")


@pytest.mark.parametrize(("value", "expected"), [("5", 8905914713984357400), ("1000", -3423056992172536074)])
def test_hash_gives_the_values_that_were_seen(baseline: Node, value: str, expected: int) -> None:
    assert baseline.value("SELECT pgtrickle.pg_trickle_hash(%s)", [value]) == expected


def test_hash_multi_gives_the_value_that_was_seen(baseline: Node) -> None:
    assert baseline.value("SELECT pgtrickle.pg_trickle_hash_multi(%s)", [["b", "2"]]) == 7013913361365764082


def test_hash_multi_tells_null_from_text(baseline: Node) -> None:
    expected = _signed(xxhash.xxh64(b"a\x1e\0NULL\0\x1e", seed=SEED).intdigest())
    assert baseline.value("SELECT pgtrickle.pg_trickle_hash_multi(%s)", [["a", None, ""]]) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (" 5m ", 300), ("1h30m", 5400), ("2d", 172800), ("1w", 604800), ("0", 0)]
    + [(bad, None) for bad in ("", "m5", "5x", "1h30", "-3", "99999999999999999999", "* * * * *")],
)
def test_durations_are_read_as_the_library_reads_them(baseline: Node, text: str, seconds: int | None) -> None:
    assert baseline.value("SELECT pgtrickle.parse_duration_seconds(%s)", [text]) == seconds


def test_views_answer_on_an_empty_catalog(baseline: Node) -> None:
    assert baseline.rows("SELECT * FROM pgtrickle.stream_tables_info") == []
    assert baseline.rows("SELECT * FROM pgtrickle.pg_stat_stream_tables") == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), seed=st.sampled_from([SEED, 0, 2**63 - 1]))
def test_xxh64_in_the_database_equals_xxhash(baseline: Node, data: bytes, seed: int) -> None:
    expected = _signed(xxhash.xxh64(data, seed=seed).intdigest())
    assert baseline.value("SELECT pgtrickle._xxh64(%s, %s)", [data, seed]) == expected


_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@pytest.fixture
def named(database: Node) -> Node:
    runner.upgrade(database.dsn(), "0002")
    return database


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=_NAME, table=_NAME)
def test_stable_names_are_the_same_in_python_and_in_the_database(named: Node, schema: str, table: str) -> None:
    in_database = named.value("SELECT pgtrickle.stable_hash(%s)", [f"{schema}.{table}"])
    assert in_database == stable_name(schema, table)


def test_stable_names_are_the_extensions_own(named: Node) -> None:
    names = [("public.orders", "d6ad704b2cddddcd"), ("public.customers", "163b982ae39383fe")]
    assert [named.value("SELECT pgtrickle.stable_hash(%s)", [name]) for name, _ in names] == [h for _, h in names]
