"""One stream table beside the same table kept by hand, and beside recomputing: timed by turns, then checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from harness.bench.byhand import DISTINCT, ByHand, Connection, Home, Operator
from harness.bench.interleaved import Contestant, measure
from harness.bench.model import Check, Measurement
from harness.bench.sales import Changes
from harness.trickle import StreamTables
from harness.trickle.oracle import compare

_ENGINE, _HAND, _AGAIN, _VIEW = "engine", "by_hand", "recompute", "matview"


@dataclass(frozen=True)
class Turn:
    """What is compared at one share of changed rows.

    Attributes:
        share: of the sales.
        rounds: how many count.
        with_recomputing: whether recomputing takes part (and, on one server, REFRESH MATERIALIZED VIEW CONCURRENTLY).
    """

    share: float
    rounds: int
    with_recomputing: bool = False


@dataclass
class Compared:
    """What was found of one operator in one placement.

    Attributes:
        home, operator: which.
        by_share: the measurements of each share, by the contestant's name.
        changed: rows of each share.
        checks: the answers.
        strategy: how the engine applied its deltas.
    """

    home: Home
    operator: Operator
    by_share: dict[float, dict[str, Measurement]] = field(default_factory=dict)
    changed: dict[float, int] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    strategy: str = ""

    @property
    def name(self) -> str:
        """Of its measurements."""
        return f"{self.home}/{self.operator.name}"


def share_text(share: float) -> str:
    """A share as people write it: ``0.1%``."""
    return f"{share * 100:g}%"


def compare_operator(
    connection: Connection,
    operator: Operator,
    home: Home,
    turns: Sequence[Turn],
    *,
    rows: int,
    deadline: Callable[[], bool] = lambda: False,
) -> Compared:
    """Measure one operator in one placement.

    Args:
        connection: to the coordinator or the server, which has the sales.
        operator: what is kept.
        home: where.
        turns: the shares.
        rows: how many sales there are.
        deadline: whether the time is up; each turn has three rounds at least.

    Returns:
        What was found; the tables are dropped.
    """
    found = Compared(home, operator)
    has_again = any(turn.with_recomputing for turn in turns)
    has_view = has_again and not home.has_citus
    readers = frozenset({_ENGINE, _HAND, *([_AGAIN] if has_again else []), *([_VIEW] if has_view else [])})
    with StreamTables(connection) as stream_tables:
        # DIFFERENTIAL: what is compared is the delta, whatever AUTO would choose.
        placement = "local" if home is Home.SERVER else str(home)
        stream_tables.create("kept", operator.query, schedule=None, mode="DIFFERENTIAL", placement=placement)
        connection.execute("ANALYZE kept")  # as autovacuum would
        changes = Changes(connection, rows=rows, has_citus=home.has_citus, readers=readers)
        by_hand = ByHand(connection, operator, home)
        by_hand.make("hand")
        if has_again:
            by_hand.make("again")
        if has_view:
            _make_view(connection, operator)
        for turn in turns:
            names = [_ENGINE, _HAND]
            if turn.with_recomputing:
                names += [each for each in (_AGAIN, _VIEW) if each in readers]
            changes.readers = frozenset(names)
            strategies: list[str] = []

            def refresh(strategies: list[str] = strategies) -> None:
                strategies.append(stream_tables.refresh("kept").strategy)

            ways: dict[str, Callable[[], None]] = {
                _ENGINE: refresh,
                _HAND: by_hand.refresh,
                _AGAIN: lambda: by_hand.recompute("again"),
                _VIEW: lambda: _refresh_view(connection),
            }
            contestants = [_contestant(name, ways[name], found, changes, turn) for name in names]
            # Recomputing takes seconds: nothing of it is warmed up.
            warmups = 0 if turn.with_recomputing else 1
            measured = measure(contestants, rounds=turn.rounds, warmups=warmups, deadline=deadline)
            found.by_share[turn.share] = dict(zip(names, measured, strict=True))
            found.changed[turn.share] = changes.changed
            found.strategy = next((each for each in strategies if each), found.strategy)
        found.checks += _checked(connection, found)
        stream_tables.drop("kept")
    for table in ("hand", "again") if has_again else ("hand",):
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
    if has_view:
        connection.execute("DROP MATERIALIZED VIEW viewed")
    changes.close()
    return found


def _contestant(name: str, run: Callable[[], None], found: Compared, changes: Changes, turn: Turn) -> Contestant:
    def sweep() -> None:
        if name == _AGAIN:
            changes.vacuum("again")

    return Contestant(
        f"{found.name}/{share_text(turn.share)}/{name}",
        run,
        before=lambda: changes.before(name, turn.share),
        after=sweep,
    )


def _make_view(connection: Connection, operator: Operator) -> None:
    connection.execute(b"CREATE MATERIALIZED VIEW viewed AS " + operator.query.encode())
    connection.execute(b"CREATE UNIQUE INDEX ON viewed (" + ", ".join(operator.key).encode() + b")")
    connection.execute(b"ANALYZE viewed")


def _refresh_view(connection: Connection) -> None:
    connection.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY viewed")


def _checked(connection: Connection, found: Compared) -> list[Check]:
    """The engine's table by the oracle; the one kept by hand beside the engine's, or the comparison was not fair."""
    difference = compare(connection, "kept")
    operator = found.operator
    shown = [*operator.key, *(() if operator is DISTINCT else operator.values)]
    query = sql.SQL("SELECT count(*), sum(hash_record_extended(ROW({}), 0)::numeric) FROM {}")
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in shown)
    kept, hand = (
        connection.execute(query.format(columns, sql.Identifier(table))).fetchone() for table in ("kept", "hand")
    )
    return [
        Check(f"{found.name}/engine", difference.is_equal, str(difference)),
        Check(f"{found.name}/by_hand", kept == hand, f"rows and the sum of their hashes: {kept} kept, {hand} by hand"),
    ]
