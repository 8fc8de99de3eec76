"""Refreshes with either engine, beside plain recomputing and REFRESH MATERIALIZED VIEW CONCURRENTLY."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from psycopg import sql

from harness.bench.byhand import DISTINCT, FEW_GROUPS, FILTER, JOIN, MANY_GROUPS, ByHand, Home, Operator
from harness.bench.comparing import share_text
from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Check, Gathered, Measurement, Ratio, Refusal, Tell
from harness.bench.peer.sides import Side, Sides, TooSlowError, rounds_for
from harness.bench.sales import make_sales
from harness.engines import Done
from harness.trickle.canonical import plain_query

# What a refresh of the extension may take before it counts as no answer.
LIMIT_S = 60.0
# Changes come in statements of so many rows: the extension's capture of one UPDATE grows with the square of its rows.
_STATEMENT_ROWS = 1_000
_KEPT, _AGAIN, _VIEW = "kept", "again", "viewed"
RECOMPUTE, MATVIEW = "recompute", "matview"
# Both take seconds, and about as long whatever changed.
_RECOMPUTED_AT = {RECOMPUTE: (0.001, 0.01, 0.1), MATVIEW: (0.01,)}

JOIN_AGGREGATE = Operator(
    "join_aggregate",
    "SELECT p.label, count(*) AS n, sum(f.amount) AS total FROM facts f JOIN products p ON p.product = f.product"
    " GROUP BY p.label",
    "label text, n bigint NOT NULL, total numeric",
    ("label",),
    ("n", "total"),
    sql.SQL("SELECT"),  # nobody keeps it by hand here
    "label",
    is_beside_source=False,
    is_grouped=True,
)
OPERATORS = (FEW_GROUPS, MANY_GROUPS, JOIN, JOIN_AGGREGATE, FILTER, DISTINCT)


@dataclass(frozen=True)
class Cell:
    """One refresh that is compared.

    Attributes:
        operator: what is kept.
        share: of the sales that changed.
    """

    operator: Operator = field(hash=False)  # a part of a statement has no hash
    share: float

    @property
    def name(self) -> str:
        """Words separated by slashes."""
        return f"refresh/{self.operator.name}/{share_text(self.share)}"


@dataclass
class RefreshFound:
    """What was found of refreshes.

    Attributes:
        over_peer: each cell's ratio of ours to the extension.
        over_recompute: each cell's ratio of ours to plain recomputing.
        actions: what ours did in a cell, and what the extension says it did; in more than one way if the rounds differ.
        too_slow: cells in which the extension did not answer in time.
        ours_s: what ours took in each cell.
    """

    over_peer: dict[Cell, Ratio] = field(default_factory=dict)
    over_recompute: dict[Cell, Ratio] = field(default_factory=dict)
    actions: dict[Cell, tuple[str, str]] = field(default_factory=dict)
    too_slow: list[Cell] = field(default_factory=list)
    ours_s: dict[Cell, Measurement] = field(default_factory=dict)


def make_sources(sides: Sides, rows: int) -> None:
    """The sales, in both databases, with an index by which statements find their rows."""
    for side in sides.both:
        make_sales(side.connection, rows=rows, has_citus=False)
        side.connection.execute("CREATE INDEX facts_id ON facts (id)")
        side.connection.execute("VACUUM ANALYZE facts")


class _Changes:
    """The same changes in both databases, once a round, before whoever comes first."""

    def __init__(self, sides: Sides, rows: int) -> None:
        self._sides, self._rows = sides, rows
        self._number = 0
        self._waiting: set[str] = set()
        self._readers: frozenset[str] = frozenset()

    def begin(self, readers: Iterable[str]) -> None:
        """From here on each of these reads every change once; nobody has yet."""
        self._readers = frozenset(readers)
        self._waiting = set()

    def before(self, reader: str, share: float) -> None:
        if reader not in self._waiting:
            self.make(share)
            self._waiting = set(self._readers)
        self._waiting.discard(reader)

    def make(self, share: float) -> None:
        """Change that share of the sales, all over the table, and sweep up as autovacuum would."""
        self._number += 1
        for side in self._sides.both:
            for table in (b"facts", b"kept"):
                side.connection.execute(b"VACUUM " + table)
            side.connection.execute(sql.SQL("VACUUM {}").format(side.buffer("facts")))
        self._sides.ours.connection.execute(b"VACUUM again")
        if not share:
            return
        step = round(1 / share)
        span = step * _STATEMENT_ROWS
        for side in self._sides.both:
            for first in range(1, self._rows + 1, span):
                side.connection.execute(
                    "UPDATE facts SET amount = (amount + 7) %% 1000, many = (many + 7919) %% 100000"
                    " WHERE id BETWEEN %s AND %s AND id %% %s = %s",
                    [first, min(first + span - 1, self._rows), step, self._number % step],
                )


def measure_refreshes(
    sides: Sides,
    operators: Sequence[Operator],
    shares: Sequence[float],
    gathered: Gathered,
    *,
    rows: int,
    rounds: int,
    tell: Tell,
    is_up: Callable[[], bool],
) -> RefreshFound:
    """Time each operator at each share with both engines in mode AUTO, and recomputing beside them.

    Args:
        sides: both, with the sales in them.
        operators: what is kept.
        shares: of the sales that change, in growing order.
        gathered: where measurements, ratios and checks go.
        rows: how many sales there are.
        rounds: how many count.
        tell: what is being done.
        is_up: whether the time is; each cell that is begun has three rounds.
    """
    found = RefreshFound()
    run = _Run(sides, gathered, found, rows, rounds, tell, is_up)
    for number, operator in enumerate(operators):
        if number and is_up():
            left = ", ".join(each.name for each in operators[number:])
            gathered.notes.append(f"The time was up before the refreshes of {left}.")
            break
        _measure_operator(run, operator, shares)
    return found


@dataclass(frozen=True)
class _Run:
    """What a run of the cells needs (see `measure_refreshes`)."""

    sides: Sides
    gathered: Gathered
    found: RefreshFound
    rows: int
    rounds: int
    tell: Tell
    is_up: Callable[[], bool]


def _measure_operator(run: _Run, operator: Operator, shares: Sequence[float]) -> None:
    ours, peer = run.sides.both
    run.tell(f"refresh/{operator.name}: tables")
    for side in run.sides.both:
        side.tables.create(_KEPT, operator.query, mode="AUTO")
        side.connection.execute(b"ANALYZE kept")
    by_hand = ByHand(ours.connection, operator, Home.SERVER)
    by_hand.make(_AGAIN)
    ours.connection.execute(sql.SQL("CREATE MATERIALIZED VIEW viewed AS {}").format(plain_query(operator.query)))
    keys = sql.SQL(", ").join(map(sql.Identifier, operator.key))
    ours.connection.execute(sql.SQL("CREATE UNIQUE INDEX ON viewed ({})").format(keys))
    ours.connection.execute(b"ANALYZE viewed")
    changes = _Changes(run.sides, run.rows)
    # Whoever fills anew at the first refresh has done so.
    for side in run.sides.both:
        side.tables.refresh(_KEPT)
    is_left_out = False
    for share in shares:
        cell = Cell(operator, share)
        run.tell(cell.name)
        if not is_left_out and not _measure_with_peer(run, cell, by_hand, changes):
            is_left_out = True
            # Its changes wait no longer: it begins anew, and is asked no more.
            peer.tables.drop(_KEPT)
            peer.tables.create(_KEPT, operator.query, mode="AUTO")
        if is_left_out:
            run.found.too_slow.append(cell)
            _measure_cell(run, cell, by_hand, changes, None)
    for side in run.sides.both:
        side.tables.drop(_KEPT)
    # The extension leaves it, with the columns that this query read, and the next one's writes would fail
    # (scenarios/beside/test_verbs.py).
    peer.connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(peer.buffer("facts")))
    ours.connection.execute(b"DROP TABLE again")
    ours.connection.execute(b"DROP MATERIALIZED VIEW viewed")


def _measure_with_peer(run: _Run, cell: Cell, by_hand: ByHand, changes: _Changes) -> bool:
    """With both; false, with a refusal and nothing else kept, if one of the extension's refreshes does not end in time.

    The warm-up may: in mode AUTO the next one can go another way.
    """
    try:
        _measure_cell(run, cell, by_hand, changes, _answer_s(run, changes, cell))
    except TooSlowError as error:
        run.gathered.refusals.append(Refusal(f"{cell.name}/{run.sides.peer.name}", str(error)))
        return False
    return True


def _answer_s(run: _Run, changes: _Changes, cell: Cell) -> float:
    """One refresh with each, which is the warm-up; the extension's seconds.

    Raises:
        TooSlowError: it did not end in time.
    """
    peer = run.sides.peer
    changes.make(cell.share)
    run.sides.ours.tables.refresh(_KEPT)
    begun = time.perf_counter()
    with peer.limited(LIMIT_S):
        peer.tables.refresh(_KEPT)
    return time.perf_counter() - begun


def _measure_cell(run: _Run, cell: Cell, by_hand: ByHand, changes: _Changes, took_s: float | None) -> None:
    """With the extension if it answered, in the seconds that the warm-up took.

    Raises:
        TooSlowError: a refresh of it did not end in time; nothing was gathered.
    """
    ours, peer = run.sides.both
    with_peer = took_s is not None
    sides = {side.name: side for side in (run.sides.both if with_peer else (ours,))}
    done: dict[str, Done] = {}
    actions: dict[str, set[str]] = {name: set() for name in sides}

    def prepare(name: str) -> None:
        # Refreshes are limited, what the rounds need besides is not.
        if with_peer:
            peer.limit(None)
        changes.before(name, cell.share)
        if with_peer:
            peer.limit(LIMIT_S)

    def act(name: str) -> None:
        if name in sides:
            done[name] = sides[name].tables.refresh(_KEPT)
        elif name == RECOMPUTE:
            by_hand.recompute(_AGAIN)
        else:
            ours.connection.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY viewed")

    def look(name: str) -> None:
        if name in done:
            actions[name].add(done[name].action)

    names = [*sides, *(way for way, shares in _RECOMPUTED_AT.items() if cell.share in shares)]
    changes.begin(names)
    contestants = [
        Contestant(
            f"{cell.name}/{name}",
            partial(act, name),
            before=partial(prepare, name),
            after=partial(look, name),
        )
        for name in names
    ]
    rounds = rounds_for(run.rounds, took_s, is_short=not cell.share)
    with peer.limited(LIMIT_S) if with_peer else nullcontext():
        times = measure(contestants, rounds=rounds, warmups=0, deadline=run.is_up)
    measured = dict(zip(names, times, strict=True))
    run.gathered.measurements += times
    run.found.ours_s[cell] = measured[ours.name]
    run.found.actions[cell] = (_words(actions[ours.name]), _words(actions.get(peer.name, ())))
    if with_peer:
        run.found.over_peer[cell] = ratio(measured[ours.name], measured[peer.name])
        run.gathered.ratios.append(run.found.over_peer[cell])
    if RECOMPUTE in measured:
        run.found.over_recompute[cell] = ratio(measured[ours.name], measured[RECOMPUTE])
        run.gathered.ratios.append(run.found.over_recompute[cell])
    if MATVIEW in measured:
        run.gathered.ratios.append(ratio(measured[ours.name], measured[MATVIEW]))
    _check(run, cell, tuple(sides.values()))


def _words(actions: Iterable[str]) -> str:
    return " and ".join(sorted(actions))


_SUM = sql.SQL("SELECT count(*), coalesce(sum(hash_record_extended(ROW({}), 0)::numeric), 0) FROM {} AS t")


def _check(run: _Run, cell: Cell, sides: Sequence[Side]) -> None:
    """Each stream table beside its query, in the same database: rows, and the sum of their hashes."""
    operator = cell.operator
    shown = [*operator.key, *(() if operator is DISTINCT else operator.values)]
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in shown)
    query = sql.SQL("({})").format(plain_query(operator.query))
    for side in sides:
        kept, wanted = (
            side.connection.execute(_SUM.format(columns, each)).fetchone() for each in (sql.Identifier(_KEPT), query)
        )
        name = f"{cell.name}/{side.name}"
        detail = f"rows and the sum of their hashes: {kept} kept, {wanted} by the query"
        if side.is_peer and kept != wanted:
            run.gathered.notes.append(f"{side.engine} is wrong after {name}: {detail}.")
        else:
            run.gathered.checks.append(Check(name, kept == wanted, detail))
