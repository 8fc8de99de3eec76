"""What every row's report must show before its scenario may pass."""

from __future__ import annotations

from harness.matrix.model import Row, RowReport


def assert_proven(row: Row, report: RowReport, *, workers: int) -> None:
    """The row ran on the cluster that it claims, proved where its tables are, and counted its rows.

    Raises:
        AssertionError: it did not.
    """
    topology = report.topology
    assert topology["cluster"] == (f"1+{workers}" if workers else "one server")
    sources = [fact for fact in topology if fact.startswith(("orders is a ", "customers is a "))]
    assert sources, f"row {row.number} proved no source"
    assert any(fact.startswith("stream table ") for fact in topology), f"row {row.number} proved no storage"
    if topology.get("orders is a distributed table"):
        assert topology["changes of orders were captured on every worker"].count("group") == workers
        assert topology["orders has shards on every worker"].count("group") == workers
    assert report.counts["orders"] > 0
    for name in ("totals", "channels"):
        assert report.counts.get(name, report.counts["orders"]) == report.counts["orders"]
