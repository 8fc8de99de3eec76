"""Cuts: what is in a snapshot, what the catalog keeps of it, and that it comes back as it was."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.postgres import Node
from harness.trickle.frontier import GROUP_BITS, Cut, horizon, in_progress, read_cut


@pytest.mark.parametrize(
    ("snapshot", "oldest", "open_ones"),
    [
        ("700:700:", "700", frozenset()),
        ("700:705:700,703", "700", frozenset({"700", "703"})),
        ("9223372036854775807:9223372036854775807:", "9223372036854775807", frozenset()),
    ],
)
def test_snapshot_is_read_as_postgresql_writes_it(snapshot: str, oldest: str, open_ones: frozenset[str]) -> None:
    assert horizon(snapshot) == oldest
    assert in_progress(snapshot) == open_ones


def test_cut_comes_back_from_the_catalog_as_it_was() -> None:
    cut = Cut({0: "700:705:703", 1: "900:900:", 2: "810:811:810"}, 2)
    entry = cut.as_entry(lsn="0/1", at="1Z", seq_id=7)
    assert entry["horizons"] == {"0": "700", "1": "900", "2": "810"}
    assert entry["seq_id"] == 7
    assert read_cut({"sources": {"d6ad704b2cddddcd": entry}}, "d6ad704b2cddddcd") == cut


def test_local_source_keeps_the_coordinators_snapshot_alone() -> None:
    entry = Cut({0: "700:700:", 1: "900:900:"}, 1).as_entry(lsn="0/1", at="1Z", seq_id=None, only=0)
    assert entry["snapshots"] == {"0": "700:700:"}
    assert "seq_id" not in entry


@pytest.mark.parametrize(
    "frontier",
    [
        None,
        {},
        {"sources": {}},
        {"sources": {"other": {"snapshots": {"0": "1:1:"}}}},
        {"sources": {"mine": {"lsn": "0/1", "snapshot_ts": "1Z"}}},  # as 0.2 left it
        {"sources": {"mine": "0/1"}},
        {"sources": {"mine": {"snapshots": {}}}},
    ],
)
def test_frontier_without_a_snapshot_is_no_cut(frontier: dict[str, object] | None) -> None:
    assert read_cut(frontier, "mine") is None


@pytest.mark.parametrize(
    ("snapshot", "held"),
    [
        ("700:700:", [699]),
        ("700:705:700,703", [699, 701, 702, 704]),
        ("705:705:", [699, 700, 701, 702, 703, 704]),
    ],
)
def test_condition_holds_what_is_in_the_snapshot_and_nothing_else(
    database: Node, snapshot: str, held: list[int]
) -> None:
    condition = Cut({0: snapshot}).holds(sql.SQL("x::text::xid8"))
    query = sql.SQL("SELECT x FROM unnest(ARRAY[699,700,701,702,703,704,705,706]) x WHERE {} ORDER BY x")
    with database.connect() as connection:
        assert [row[0] for row in connection.execute(query.format(condition))] == held


def test_condition_by_node_knows_groups_that_were_gone_and_groups_that_came_later(database: Node) -> None:
    """Group 1 was gone when the cut was read, group 3 did not exist: all of the one is in, nothing of the other."""
    cut = Cut({0: "700:700:", 2: "50:60:55"}, 2)
    node = sql.SQL("(seq >> {})").format(sql.Literal(GROUP_BITS))
    condition = cut.holds(sql.SQL("x::text::xid8"), node)
    values = [(1, 10_000), (2, 49), (2, 55), (2, 59), (2, 60), (3, 1)]
    rows = sql.SQL(", ").join(
        sql.SQL("({}::bigint << {}, {})").format(sql.Literal(group), sql.Literal(GROUP_BITS), sql.Literal(xid))
        for group, xid in values
    )
    query = sql.SQL("SELECT (seq >> {})::int, x FROM (VALUES {}) v(seq, x) WHERE {} ORDER BY 1, 2")
    with database.connect() as connection:
        found = connection.execute(query.format(sql.Literal(GROUP_BITS), rows, condition)).fetchall()
    assert found == [(1, 10_000), (2, 49), (2, 59)]
