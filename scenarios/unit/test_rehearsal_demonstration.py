"""What the demonstration is made of, told without a server."""

from __future__ import annotations

import pytest

from harness.rehearsal.demonstration.stream_tables import State, choose_stream_tables
from harness.rehearsal.demonstration.tables import LONG_COLUMN, LONG_NAME, TABLES
from harness.rehearsal.tables import TableName


def test_demonstration_has_24_sources_and_a_million_rows() -> None:
    assert len({table.table for table in TABLES}) == 24
    # a TRUNCATE takes some of the last one's away again
    assert 1_000_000 <= sum(table.share for table in TABLES) <= 1_010_000


def test_demonstration_has_pgbench_tables_among_its_sources() -> None:
    names = {table.table.name for table in TABLES if table.table.schema == "public"}
    assert names >= {"pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"}


@pytest.mark.parametrize("name", [LONG_NAME, LONG_COLUMN])
def test_demonstration_long_names_fill_63_bytes(name: str) -> None:
    assert len(name.encode()) == 63
    assert len(name) < 63, "some of its characters take more than one byte"


def test_demonstration_has_a_dozen_stream_tables_in_every_state() -> None:
    made = choose_stream_tables([table.table for table in TABLES])
    assert len(made) >= 12
    assert {stream_table.state for stream_table in made} == set(State)


@pytest.mark.parametrize("count", [1, 5, 23, 24])
def test_demonstration_every_source_is_read_by_a_stream_table(count: int) -> None:
    sources = [table.table for table in TABLES[:count]]
    read = {source for made in choose_stream_tables(sources) for source in made.spec.sources}
    assert read.issuperset(sources)


def test_demonstration_extra_sources_share_stream_tables() -> None:
    extras = [TableName("demo", f"extra_{number}") for number in range(60)]
    made = choose_stream_tables(extras)
    assert [len(stream_table.spec.sources) for stream_table in made] == [25, 25, 10]


@pytest.mark.parametrize(
    ("table", "stable_name"),
    [(TableName("public", "orders"), "d6ad704b2cddddcd"), (TableName("public", "customers"), "163b982ae39383fe")],
)
def test_stable_name_is_the_one_that_the_extension_gives(table: TableName, stable_name: str) -> None:
    assert table.stable_name == stable_name  # D1


@pytest.mark.parametrize(
    ("table", "label"),
    [
        (TableName("public", "orders"), "public.orders"),
        (TableName("Sales.EU", "Order Lines"), '"Sales.EU"."Order Lines"'),
        (TableName("s", 'say "hi"'), 's."say ""hi"""'),
    ],
)
def test_label_is_quoted_where_it_must_be(table: TableName, label: str) -> None:
    assert table.label == label
