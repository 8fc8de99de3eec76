"""How a stream table is kept: its query's operators, and the way that Citus lets a delta into its storage."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.analysis import Analysis
from harness.trickle.delta.aggregate import Aggregate
from harness.trickle.delta.colocation import has_inner_groups, joins_across
from harness.trickle.delta.derived import Derived
from harness.trickle.delta.filter import Filter
from harness.trickle.delta.project import Project
from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.delta.rows import Rows
from harness.trickle.delta.scan import Scan
from harness.trickle.delta.staging import joins_of, stage_joins
from harness.trickle.delta.union_all import UnionAll
from harness.trickle.delta.window import Moment, SourceWindow, Window, held_by
from harness.trickle.frontier import Cut, MarkedCut, raw_mark
from harness.trickle.pushdown import refuse_reading_apart
from harness.trickle.session import Statements, Texts, transaction
from harness.trickle.sources import Source
from harness.trickle.surroundings import is_of_the_surroundings
from harness.trickle.targets.groups import GroupTarget
from harness.trickle.targets.regroup import RegroupTarget
from harness.trickle.targets.target import Place, Way, stage_query


@dataclass(frozen=True)
class Form:
    """The statements of refreshes in which the same sources changed: equal but for the cuts and the counts.

    Attributes:
        window: marks in their place.
        known: what was put together of it.
    """

    window: Window
    known: dict[tuple[str, str], bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a stream table follows its query.

    Attributes:
        analysis: what the query is.
        place: where the table is, and how a delta gets in.
        stages_joins: whether what joins is brought to the coordinator first, so that it joins in any way (F23).
        full_moment: at which moment the query is recomputed: NEW, exactly at the cut; NOW, under a lock on the sources,
            where Citus cannot plan the other.
        reason: why it has to be recomputed each time; empty if not.
        forms: its statements, put together once for each set of sources that changed.
    """

    analysis: Analysis
    place: Place
    stages_joins: bool = False
    full_moment: Moment = Moment.NEW
    reason: str = ""
    forms: dict[object, Form] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_incremental(self) -> bool:
        """Whether deltas are applied."""
        return not self.reason

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources whose changes count."""
        return self.analysis.tables if self.is_incremental else ()

    @property
    def has_distributed(self) -> bool:
        """Whether a source's changes are on the workers."""
        return any(source.is_distributed for source in self.sources)

    @property
    def looks_up(self) -> bool:
        """Whether a captured row is looked up by itself: in a table that it joins, or in the stream table."""
        target = self.analysis.target
        if not isinstance(target, GroupTarget):
            return True
        below = target.rows.rows.items
        return len(below) > 1 or not isinstance(below[0].rows, Scan)

    @property
    def strategy(self) -> str:
        """For history and explain."""
        if not self.is_incremental:
            return "whole"
        return f"{self.analysis.target.strategy} {self.place.way.value}"


def origin(rows: Rows | None, column: str) -> Source | None:
    """The distributed source whose distribution column this is, unchanged.

    Args:
        rows: the operators of a query; None where it is recomputed.
        column: one of their columns, by name.

    Returns:
        The source; None if the column is none of the kind.
    """
    if isinstance(rows, Scan):
        return rows.source if rows.source.distribution_column == column else None
    if isinstance(rows, Derived):
        return origin(rows.rows, rows.rows.columns[rows.columns.index(column)])
    if isinstance(rows, UnionAll):
        found = {origin(part, part.columns[rows.columns.index(column)]) for part in rows.parts}
        return found.pop() if len(found) == 1 else None
    if isinstance(rows, Project):
        return _origin_below(rows.rows, rows.plain_columns[rows.columns.index(column)])
    if isinstance(rows, Aggregate):
        place = rows.outputs[rows.columns.index(column)].only_place
        for key in rows.keys:
            if key.place == place:
                return _origin_below(rows.rows, key.plain_column)
    return None


def _origin_below(rows: Filter, column: tuple[str, str] | None) -> Source | None:
    if column is None:
        return None
    for item in rows.items:
        if item.alias == column[0] and column[1] in item.rows.columns:
            return origin(item.rows, column[1])
    return None


def kept_distribution(analysis: Analysis) -> tuple[str, Source] | None:
    """A column of the result that is a source's distribution column, and that source."""
    rows = analysis.target.rows
    if rows is None or not analysis.is_incremental:
        return None
    for column in rows.columns:
        source = origin(rows, column)
        if source is not None:
            return column, source
    return None


def make_window(
    plan: Plan,
    *,
    old: Mapping[int, Cut | None],
    new: Mapping[int, Cut],
    changed: Mapping[int, int | sql.SQL | None],
    large: Container[int] = (),
) -> Window:
    """The window between where a stream table stopped and now.

    Args:
        plan: whose.
        old: by source.
        new: likewise, where this refresh stops.
        changed: the sources that have changes in it, and how many; None: not counted.
        large: those of them with so many that whole tables had better be read than looked up in.
    """
    return Window(
        {
            source.relid: SourceWindow(
                source,
                source.relid in changed,
                old.get(source.relid),
                new[source.relid],
                changed.get(source.relid),
                source.relid in large,
            )
            for source in plan.sources
        }
    )


def make_texts(
    connection: psycopg.Connection[Any],
    plan: Plan,
    *,
    old: Mapping[int, Cut | None],
    new: Mapping[int, Cut],
    changed: Mapping[int, int],
) -> tuple[Window, Texts]:
    """The window of `make_window` with marks for what differs from refresh to refresh, and its statements.

    Args:
        connection: that they are run on.
        plan: whose; it keeps them.
        old, new, changed: see `make_window`; every source has an old cut.

    Returns:
        The window to give to whoever makes the statements, and what runs them with these cuts.
    """
    limit = LARGE_CHANGE if plan.looks_up else LARGE_SUM
    large = frozenset(relid for relid, count in changed.items() if count > limit)
    form = plan.forms.get((frozenset(changed), large))
    if form is None:
        marks = {
            relid: tuple(MarkedCut({}, mark=_mark(end, relid)) for end in ("old", "new"))
            for relid in (source.relid for source in plan.sources)
        }
        window = make_window(
            plan,
            old={relid: both[0] for relid, both in marks.items()},
            new={relid: both[1] for relid, both in marks.items()},
            changed={relid: raw_mark(_mark("count", relid)) for relid in changed},
            large=large,
        )
        form = plan.forms[frozenset(changed), large] = Form(window)
    values: dict[str, sql.Composable] = {}
    for source in plan.sources:
        before = old[source.relid]
        if before is None:
            raise ValueError(f"{source.qualified} has no old cut")
        values[_mark("old", source.relid)] = held_by(before, source)
        values[_mark("new", source.relid)] = held_by(new[source.relid], source)
        values[_mark("count", source.relid)] = sql.Literal(changed.get(source.relid, 0))
    texts = {mark.encode(): value.as_bytes(connection) for mark, value in values.items()}
    return form.window, Texts(connection, form.known, texts)


# Looking so many rows up costs about what reading a million does: some 3 us each from memory, against 0.15 us.
LARGE_CHANGE = 50_000
# Where they are only added up by group, hashing them is cheaper than sorting them from about here on.
LARGE_SUM = 1_000
# No query of anybody's has it in it.
_SECRET = secrets.token_hex(8)


def _mark(what: str, relid: int) -> str:
    return f"__pgt_mark_{_SECRET}_{what}_{relid}__"


def stage(statements: Statements, plan: Plan, window: Window) -> Window:
    """Bring the parts of joins to the coordinator, where the plan wants it.

    Args:
        statements: of the refresh's transaction; what they make there is temporary and goes with it.
        plan: whose.
        window: what is refreshed.

    Returns:
        The window, which reads what was brought.
    """
    if not plan.stages_joins:
        return window

    def make(purpose: str, name: str, query: Callable[[], sql.Composed]) -> None:
        statements.run(purpose, lambda: stage_query(name, query()), variant=name)

    return stage_joins(make, plan.analysis.target.rows, window)


def choose_plan(
    connection: psycopg.Connection[Any],
    analysis: Analysis,
    *,
    table: sql.Identifier,
    placement: str,
    distribution_column: str | None,
    has_citus: bool,
    is_tried: bool = True,
) -> Plan:
    """The first way that Citus accepts, tried on an empty change and rolled back.

    Args:
        connection: to the coordinator; capture is installed and the storage is there.
        analysis: of the query.
        table, placement, distribution_column: of the storage.
        has_citus: whether there is a cluster.
        is_tried: whether the delta is tried; if not, the first way is taken.

    Returns:
        The plan; one without a delta, with the reason, where no way is accepted.
    """
    if not analysis.is_incremental:
        return Plan(analysis, Place(table, Way.STAGED, distribution_column), reason=analysis.reason)
    if _is_untrusted(analysis):
        return Plan(
            analysis,
            Place(table, Way.STAGED, distribution_column),
            full_moment=Moment.NOW,
            reason="groups over a join of distributed tables that is not on their distribution columns",
        )
    problem = ""
    for candidate in _candidates(analysis, table, placement, distribution_column):
        if not is_tried:
            return candidate
        try:
            with transaction(connection, has_citus=has_citus, is_repeatable=False, is_undone=True):
                statements = _try_delta(connection, candidate)
            refuse_reading_apart(connection, statements, candidate.sources)
        except NotIncrementalError as error:
            problem = str(error)
            continue
        except psycopg.Error as error:
            if is_of_the_surroundings(error, connection):
                raise
            problem = (error.diag.message_primary or str(error)).splitlines()[0]
            continue
        return replace(candidate, full_moment=_full_moment(connection, candidate))
    return Plan(
        analysis,
        Place(table, Way.STAGED, distribution_column),
        full_moment=Moment.NOW,
        reason=f"a delta that {'Citus' if has_citus else 'PostgreSQL'} cannot plan: {problem}",
    )


def _candidates(
    analysis: Analysis, table: sql.Identifier, placement: str, distribution_column: str | None
) -> Iterable[Plan]:
    target = analysis.target
    has_distributed = any(source.is_distributed for source in analysis.tables)
    joins = has_distributed and any(True for _ in joins_of(target.rows))
    if placement == "local" and not has_distributed:
        yield Plan(analysis, Place(table, Way.MERGE))
        return
    if placement == "local":
        yield Plan(analysis, Place(table, Way.STAGED_MERGE), stages_joins=joins)
        return
    place = Place(table, Way.STAGED, distribution_column)
    if placement == "distributed" and distribution_column is not None and not distribution_column.startswith("__pgt_"):
        is_linear = isinstance(target, GroupTarget) and not target.looks_again
        is_trusted = target.rows is not None and not joins_across(target.rows, _by_relid(analysis))
        is_keyed = target.rows is not None and target.rows.is_unique() and target.strategy == "rows"
        if is_trusted and (is_linear or is_keyed):
            yield Plan(analysis, replace(place, way=Way.MERGE))
    yield Plan(analysis, place, stages_joins=joins)


def _by_relid(analysis: Analysis) -> dict[int, Source]:
    return {source.relid: source for source in analysis.sources}


def _is_untrusted(analysis: Analysis) -> bool:
    """Whether a delta would read, at a moment, a join that Citus gets wrong."""
    target = analysis.target
    if target.rows is None or not joins_across(target.rows, _by_relid(analysis)):
        return False
    looks = isinstance(target, RegroupTarget) or (isinstance(target, GroupTarget) and target.looks_again)
    return looks or has_inner_groups(target.rows)


def empty_cut() -> Cut:
    """A cut for trying statements: everything is in it, so nothing is after it."""
    return Cut({0: "9223372036854775807:9223372036854775807:"}, 1 << 40)


def _try_delta(connection: psycopg.Connection[Any], plan: Plan) -> list[tuple[str, sql.Composed]]:
    cut = empty_cut()
    relids = [source.relid for source in plan.sources]
    cuts = dict.fromkeys(relids, cut)
    window = make_window(plan, old=cuts, new=cuts, changed=dict.fromkeys(relids))
    statements = Statements(connection)
    window = stage(statements, plan, window)
    plan.analysis.target.apply(statements, plan.place, window)
    return statements.seen


def _full_moment(connection: psycopg.Connection[Any], plan: Plan) -> Moment:
    if not plan.has_distributed:
        return Moment.NEW
    rows = plan.analysis.target.rows
    if rows is not None and joins_across(rows, _by_relid(plan.analysis)):
        return Moment.NOW
    cut = empty_cut()
    window = make_window(plan, old={}, new={source.relid: cut for source in plan.sources}, changed={})
    query = plan.analysis.target.full_query(Moment.NEW, window)
    try:
        refuse_reading_apart(connection, [("the query, recomputed", query)], plan.sources)
    except NotIncrementalError:
        return Moment.NOW
    except psycopg.Error as error:
        if is_of_the_surroundings(error, connection):
            raise
        return Moment.NOW
    return Moment.NEW
