"""Six writers, a hundred cuts beside them, and not one wrong row (the plan's own frontier lost 119 of 1,308: F19)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.concurrency.writers import SCHEMA, Writer, writing

WRITERS = 6
CUTS = 100
BALANCES = "SELECT account, count(*) AS entries, sum(amount) AS balance FROM entries GROUP BY account"
DETAILS = (
    "SELECT e.id, e.amount, a.account, a.owner, a.touched FROM entries e JOIN accounts a ON e.account = a.account"
    " WHERE e.amount > 0"
)


def _run(coordinator: Node, nodes: Sequence[Node], *, is_one_node: bool) -> None:
    """A hundred cuts of two stream tables beside six writers; both equal their queries afterwards."""
    actions: Counter[str] = Counter()
    with coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        stream_tables.create("balances", BALANCES, None, "DIFFERENTIAL")
        stream_tables.create("details", DETAILS, None, "DIFFERENTIAL")
        with writing(nodes, WRITERS) as writers:
            for cut in range(CUTS):
                name = ("balances", "details")[cut % 2]
                _wait_for_commits(writers)
                done = stream_tables.refresh(name)
                actions[done.action] += 1
                # A rebuild would mend what a cut lost, and hide it.
                assert done.action != "REINITIALIZE", f"cut {cut} of {name}: {done.reason}"
                if is_one_node and name == "balances":
                    # Each transaction's amounts sum to nothing: a cut that took half of one would show here.
                    total = connection.execute("SELECT sum(balance) FROM balances").fetchone()
                    assert total in {(0,), (None,)}, f"cut {cut} took half a transaction"
        for name in ("balances", "details"):
            stream_tables.refresh(name)
            assert_equal(connection, name)
            assert not any(stream_tables.status(name)[0].pending.values()), "nothing is left to apply"
        _assert_counts(coordinator, writers)
    assert actions["DIFFERENTIAL"] >= 0.8 * CUTS, f"the cuts had something to take: {dict(actions)}"


def _wait_for_commits(writers: Sequence[Writer]) -> None:
    """Until two more transactions are committed, so that each cut has something to take."""

    def committed() -> int:
        return sum(writer.counts["committed"] for writer in writers)

    before = committed()
    wait_until(
        "the writers to commit",
        lambda: committed() >= before + 2 or any(writer.failure for writer in writers),
        deadline_s=20,
        poll_s=0.001,
    )


def _assert_counts(coordinator: Node, writers: Sequence[Writer]) -> None:
    """The tables hold what the writers counted themselves, and so do the stream tables."""
    known = {entry: row for writer in writers for entry, row in writer.entries.items()}
    assert len(known) > 200, "the writers wrote"
    assert all(writer.counts["committed"] > 5 for writer in writers), [dict(writer.counts) for writer in writers]
    found = {row[0]: (row[1], row[2]) for row in coordinator.rows("SELECT id, account, amount FROM entries")}
    assert found == known
    assert coordinator.row("SELECT sum(entries), sum(balance) FROM balances") == (len(known), 0)
    assert coordinator.value("SELECT count(*) FROM details") == sum(amount > 0 for _, amount in known.values())


@pytest.mark.slow
def test_a_hundred_cuts_beside_six_writers_lose_nothing_on_postgresql(database: Node) -> None:
    upgrade(database.dsn())
    for statement in SCHEMA:
        database.sql(statement)
    _run(database, [database], is_one_node=True)


@pytest.mark.slow
@pytest.mark.citus(">= 13")
@pytest.mark.allow_log("deadlock|could not serialize", "writers of the same row through different nodes")
def test_a_hundred_cuts_beside_six_writers_lose_nothing_on_citus(citus_database: Cluster) -> None:
    """Writers through the coordinator and both workers; a distributed and a reference source."""
    coordinator = citus_database.coordinator
    upgrade(coordinator.dsn())
    for statement in SCHEMA:
        coordinator.sql(statement)
    coordinator.sql("SELECT create_distributed_table('entries', 'id', shard_count => 4)")
    coordinator.sql("SELECT create_reference_table('accounts')")
    assert (
        coordinator.value(
            "SELECT count(DISTINCT (nodename, nodeport)) FROM citus_shards WHERE table_name = 'entries'::regclass"
        )
        == 2
    )
    _run(coordinator, citus_database.nodes, is_one_node=False)
