"""citus_table_stats: the nodes' counters of shards; workers write theirs late, so that these tests wait for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from harness.inspectors import registry
from harness.inspectors.table_stats import summarize
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import TABLES, Standard
from scenarios.inspectors_catalog.asking import by, counters_of, look

with_citus = pytest.mark.citus(">= 14")
NAME = "citus_table_stats"
# Sessions of Citus between nodes are kept open and write their counters when they get round to it (inspectors.md).
LATE_S = 30.0


def _row(own: Standard, table: str, **values: Any) -> Any:
    (row,) = look(own, NAME, schema="app", table=table, **values).rows
    return row


@with_citus
def test_every_table_with_rows_has_all_of_its_copies(own: Standard) -> None:
    rows = by(look(own, NAME, role="plain"), lambda row: (row.schema, row.table))
    assert set(rows) == set(TABLES) - {("app", "events")}
    placements = dict(
        own.cluster.rows("""
            SELECT c.relname, count(*) FROM pg_dist_placement JOIN pg_dist_shard s USING (shardid)
              JOIN pg_class c ON c.oid = s.logicalrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'app' GROUP BY 1""")
    )
    for (schema, table), row in rows.items():
        assert row.shards_seen == row.shards_expected
        if schema == "app":
            assert row.shards_seen == placements[table]


@with_citus
def test_dead_rows_are_counted_until_vacuum(own: Standard) -> None:
    own.cluster.sql("CREATE TABLE app.fading (id bigint PRIMARY KEY)")
    own.cluster.sql("SELECT create_distributed_table('app.fading', 'id', shard_count := 4, colocate_with := 'none')")
    own.cluster.sql("INSERT INTO app.fading SELECT generate_series(1, 1000)")
    own.cluster.sql("DELETE FROM app.fading WHERE id <= 250")
    columns = ("n_live_tup", "n_dead_tup", "n_tup_ins", "n_tup_del")

    def row_when_counted() -> Any:
        row = _row(own, "fading")
        return row if (row.ins, row.deleted) == (1000, 250) else None

    row = wait_until("the counters of the shards", row_when_counted, deadline_s=LATE_S)
    assert [row.live, row.dead, row.ins, row.deleted] == counters_of(own, "fading", *columns) == [750, 250, 1000, 250]
    assert row.dead_pct == 25.0
    assert (row.never_analyzed_shards, row.is_stale, row.oldest_analyze) == (4, True, None)
    envelope = look(own, NAME, schema="app", table="fading")
    (finding,) = registry.get(NAME).severity(envelope)  # type: ignore[misc]
    assert (finding.rule, finding.target) == ("stale_stats", "app.fading")
    assert look(own, NAME).rows[0].dead >= 250, "the most dead rows come first"
    before = own.cluster.value("SELECT now()")
    own.cluster.sql("VACUUM ANALYZE app.fading")

    def row_when_vacuumed() -> Any:
        row = _row(own, "fading")
        return row if row.dead == 0 and row.never_analyzed_shards == 0 else None

    row = wait_until("VACUUM of the shards", row_when_vacuumed, deadline_s=LATE_S)
    assert (row.live, row.is_stale) == (750, False)
    assert datetime.fromisoformat(row.oldest_analyze) >= before
    assert datetime.fromisoformat(row.oldest_vacuum) >= before
    own.cluster.sql("DROP TABLE app.fading")


@pytest.mark.parametrize(
    ("copies", "never", "is_stale", "oldest"),
    [
        ([[1, 5, 0, 5, 0, 0, 0, 0, 100.0, None]], 0, False, "1970-01-01T00:01:40+00:00"),
        ([[1, 5, 0, 5, 0, 0, 0, 0, 49.0, None]], 0, True, "1970-01-01T00:00:49+00:00"),
        (
            [[1, 5, 0, 5, 0, 0, 0, 0, 100.0, None], [2, 5, 0, 5, 0, 0, 0, 0, None, None]],
            1,
            True,
            "1970-01-01T00:01:40+00:00",
        ),
        ([[1, 0, 0, 0, 0, 0, 0, 0, None, None]], 0, False, None),
        ([[1, 0, 0, 0, 0, 0, 0, 0, 49.0, None]], 0, False, "1970-01-01T00:00:49+00:00"),
        ([], 0, False, None),
    ],
)
def test_statistics_are_stale_where_rows_were_never_or_long_ago_analysed(
    copies: list[list[Any]],
    never: int,
    is_stale: bool,
    oldest: str | None,
) -> None:
    row = summarize(("app", "t"), 2, copies, stale_before=50.0)
    assert (row.never_analyzed_shards, row.is_stale, row.oldest_analyze) == (never, is_stale, oldest)
    assert row.live == (sum(copy[1] for copy in copies) if copies else None), "nothing seen is not nothing there"


@with_citus
def test_just_analysed_table_is_not_stale(own: Standard) -> None:
    assert not _row(own, "orders", stale_hours=1).is_stale
