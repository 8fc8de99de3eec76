"""The demonstration's stream tables, and in which state 0.2.0 left each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from harness.rehearsal.baseline_objects import StreamTableSpec
from harness.rehearsal.demonstration.tables import LONG_COLUMN, LONG_NAME
from harness.rehearsal.tables import TableName


class State(StrEnum):
    """What became of a stream table before the upgrade."""

    REFRESHED = "refreshed"
    NEVER_REFRESHED = "never refreshed"
    WRONG = "wrong"
    SUSPENDED = "suspended"
    NEEDS_REINIT = "needs reinit"


@dataclass(frozen=True)
class DemoStreamTable:
    """A stream table and its state."""

    spec: StreamTableSpec
    state: State = State.REFRESHED


def _public(name: str) -> TableName:
    return TableName("public", name)


def _demo(name: str) -> TableName:
    return TableName("demo", name)


_ORDERS, _CUSTOMERS, _LINES = _public("orders"), _public("customers"), _demo("order_lines")

_BY_GROUP = (
    DemoStreamTable(
        StreamTableSpec(
            _public("branch_balances"),
            sql.SQL("b.bid, sum(a.abalance) AS balance, count(a.aid) AS accounts"),
            sql.SQL(
                "FROM public.pgbench_accounts a JOIN public.pgbench_branches b ON b.bid = a.bid"
                " WHERE a.aid % 10 = 0 GROUP BY b.bid"
            ),
            (_public("pgbench_accounts"), _public("pgbench_branches")),
            ("bid",),
            is_aggregate=True,
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            _public("teller_deltas"),
            sql.SQL("h.tid, sum(h.delta) AS moved, max(t.tbalance) AS balance"),
            sql.SQL("FROM public.pgbench_history h JOIN public.pgbench_tellers t ON t.tid = h.tid GROUP BY h.tid"),
            (_public("pgbench_history"), _public("pgbench_tellers")),
            ("tid",),
            is_aggregate=True,
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            _public("order_totals"),
            sql.SQL("c.region, o.status, count(*) AS orders, sum(o.amount) AS total"),
            sql.SQL("FROM public.orders o JOIN public.customers c ON c.id = o.customer GROUP BY c.region, o.status"),
            (_ORDERS, _CUSTOMERS),
            ("region", "status"),
            is_aggregate=True,
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("readings_by_day"),
            sql.SQL("day, count(*) AS readings, min(reading) AS lowest, avg(reading) AS mean"),
            sql.SQL("FROM demo.readings GROUP BY day"),
            (_demo("readings"),),
            ("day",),
            is_aggregate=True,
        )
    ),
    # two groups are NULL, so their row ids are hashes of a NULL
    DemoStreamTable(
        StreamTableSpec(
            _demo("log_levels"),
            sql.SQL("level, code, count(*) AS lines"),
            sql.SQL("FROM demo.log_lines GROUP BY level, code"),
            (_demo("log_lines"),),
            ("level", "code"),
            is_aggregate=True,
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            TableName("Sales.EU", "Übersicht.der Größen"),
            sql.SQL('l."select" AS "K ey", count(*) AS "n.o", count(g.{}) AS "from"').format(
                sql.Identifier(LONG_COLUMN)
            ),
            sql.SQL(
                'FROM "Sales.EU"."Order Lines" l LEFT JOIN "Sales.EU".{} g ON g.id = l."K ey" GROUP BY l."select"'
            ).format(sql.Identifier(LONG_NAME)),
            (TableName("Sales.EU", "Order Lines"), TableName("Sales.EU", LONG_NAME)),
            ("K ey",),
            is_aggregate=True,
        )
    ),
)

_ROW_BY_ROW = (
    DemoStreamTable(
        StreamTableSpec(
            _demo("dear_open_lines"),
            sql.SQL("l.order_id, l.line_no, l.price, o.amount, c.name"),
            sql.SQL(
                "FROM demo.order_lines l JOIN public.orders o ON o.id = l.order_id"
                " JOIN public.customers c ON c.id = o.customer WHERE o.status = 'open' AND l.order_id < 400"
            ),
            (_LINES, _ORDERS, _CUSTOMERS),
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("measures_kept"),
            sql.SQL("id, exact, rounded, approx"),
            sql.SQL("FROM demo.measures WHERE id % 40 = 0 OR id <= 60"),
            (_demo("measures"),),
            ("id",),
        )
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("highest_stock"),
            sql.SQL("item, shelf, held"),
            sql.SQL("FROM public.stock"),
            (_public("stock"),),
            ("item",),
            topk=(sql.SQL("shelf DESC, item"), 10),
        )
    ),
    # over another stream table, which has no buffer and no place in its frontier
    DemoStreamTable(
        StreamTableSpec(
            _demo("region_shares"),
            sql.SQL("t.region, sum(t.total) AS total"),
            sql.SQL("FROM public.order_totals t GROUP BY t.region"),
            (_public("order_totals"),),
            ("region",),
            is_aggregate=True,
            refresh_mode="FULL",
        )
    ),
)

_STATES = (
    DemoStreamTable(
        StreamTableSpec(
            _demo("never_refreshed"),
            sql.SQL("mood, count(*) AS people"),
            sql.SQL("FROM demo.moods GROUP BY mood"),
            (_demo("moods"),),
            ("mood",),
            is_aggregate=True,
        ),
        State.NEVER_REFRESHED,
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("wrong_before"),
            sql.SQL("owner, count(*) AS secrets"),
            sql.SQL("FROM demo.secrets GROUP BY owner"),
            (_demo("secrets"),),
            ("owner",),
            is_aggregate=True,
        ),
        State.WRONG,
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("suspended"),
            sql.SQL("count(*) AS kept, sum(later) AS later"),
            sql.SQL("FROM demo.dropped"),
            (_demo("dropped"),),
            is_aggregate=True,
        ),
        State.SUSPENDED,
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("to_be_rebuilt"),
            sql.SQL("kind, count(*) AS events"),
            sql.SQL("FROM demo.events GROUP BY kind"),
            (_demo("events"),),
            ("kind",),
            is_aggregate=True,
        ),
        State.NEEDS_REINIT,
    ),
    DemoStreamTable(
        StreamTableSpec(
            _demo("staged"),
            sql.SQL("batch, count(*) AS items"),
            sql.SQL("FROM demo.staging GROUP BY batch"),
            (_demo("staging"),),
            ("batch",),
            is_aggregate=True,
        )
    ),
)


def row_counts(table: TableName, sources: Sequence[TableName]) -> DemoStreamTable:
    """A stream table that counts the rows of several sources, which so all become captured."""
    counted = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} AS source, count(*) AS n FROM {}").format(sql.Literal(source.label), source.identifier)
        for source in sources
    )
    rest = sql.SQL("FROM ({}) counted").format(counted)
    return DemoStreamTable(StreamTableSpec(table, sql.SQL("source, n"), rest, tuple(sources), ("source",)))


def choose_stream_tables(sources: Sequence[TableName]) -> tuple[DemoStreamTable, ...]:
    """The stream tables for these sources: the dozen whose sources are all there, then one for each 25 that none reads.

    Args:
        sources: in the order in which they were made.
    """
    present = set(sources)
    chosen: list[DemoStreamTable] = []
    for made in (*_BY_GROUP, *_ROW_BY_ROW, *_STATES):
        if present.issuperset(made.spec.sources):
            chosen.append(made)
            present.add(made.spec.table)
    read: set[TableName] = {source for made in chosen for source in made.spec.sources}
    rest = [source for source in sources if source not in read]
    chosen += [
        row_counts(TableName("demo", f"row_counts_{start // 25 + 1}"), rest[start : start + 25])
        for start in range(0, len(rest), 25)
    ]
    return tuple(chosen)
