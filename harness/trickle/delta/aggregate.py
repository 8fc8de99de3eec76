"""GROUP BY and aggregates: the groups that rows fall into.

As the outermost operator its groups are kept in the stream table and follow their changes (`harness.trickle.targets`).
Below another one, the groups that a change touches are computed before and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.filter import Filter
from harness.trickle.delta.functions import Call
from harness.trickle.delta.join import Term
from harness.trickle.delta.project import projected
from harness.trickle.delta.rows import ONE, Rows, as_column, derived, names, row_hash, select, settled
from harness.trickle.delta.template import Template
from harness.trickle.delta.window import WEIGHT, Moment, Window

_AFFECTED = sql.Identifier("__pgt_affected")
_HASH = sql.Identifier("__pgt_h")


@dataclass(frozen=True)
class Key:
    """An expression of GROUP BY.

    Attributes:
        place: its name in templates: ``k0``, ``k1``, ...
        expression: over the rows below.
        type_text: its type, as SQL writes it.
        is_enum: whether its type is an enum, whose own hash differs from node to node.
        plain_column: where it is a column and nothing else: alias and name.
    """

    place: str
    expression: sql.Composable
    type_text: str = ""
    is_enum: bool = False
    plain_column: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The column of the rows below that holds it."""
        return f"__pgt_{self.place}"


def group_hash(values: Sequence[tuple[Key, sql.Composable]]) -> sql.Composed:
    """The row id of a group: PostgreSQL's own hash of its key, equal for keys that are equal; 0 for the only group."""
    if not values:
        return sql.Composed([sql.SQL("0::bigint")])
    hashed = [
        sql.SQL("({})::text").format(value) if key.is_enum else sql.SQL("({})").format(value) for key, value in values
    ]
    return row_hash(hashed)


@dataclass(frozen=True)
class Aggregate(Rows):
    """Groups of rows.

    Attributes:
        rows: FROM and WHERE.
        keys: GROUP BY; empty: one group of all rows, which is there without any.
        calls: the aggregates.
        outputs: one a column, over the places of keys and calls.
        having: over the same places.
        has_groups: whether there is a GROUP BY.
    """

    rows: Filter
    keys: tuple[Key, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Template, ...]
    having: Template | None
    has_groups: bool

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return self.rows.sources()

    def is_unique(self) -> bool:
        """Where every key is a column: no two groups have the same."""
        kept = {output.only_place for output in self.outputs}
        return all(key.place in kept for key in self.keys)

    @property
    def input_names(self) -> list[str]:
        """The columns of the rows below: keys and what the aggregates need."""
        return [*(key.name for key in self.keys), *(name for call in self.calls for name in call.input_names())]

    def input_query(self, terms: Sequence[Term]) -> sql.Composed:
        """The rows below, with weights."""
        items = [as_column(key.expression, key.name) for key in self.keys]
        return projected(terms, [*items, *(item for call in self.calls for item in call.inputs())] or [sql.SQL("1")])

    def groups_at_query(
        self,
        moment: Moment,
        window: Window,
        *,
        affected: sql.Composable | None = None,
        extra: Sequence[sql.Composable] = (),
    ) -> sql.Composed:
        """Its groups at one end of the window, without weights.

        Args:
            moment, window: when.
            affected: a query for the row ids of the groups that are wanted; None: all.
            extra: further columns, over the columns ``__pgt_k0``, ... and the aggregates' inputs.
        """
        terms = self.rows.at_terms(moment, window)
        if affected is not None and self.keys:
            ids = group_hash([(key, key.expression) for key in self.keys])
            wanted = sql.SQL("{} IN ({})").format(ids, affected)
            terms = [Term(term.tables, term.weight, (*term.conditions, wanted)) for term in terms]
        rows = self.input_query(terms)
        is_plain = self.rows.is_plain(moment, window)
        if not is_plain and any(call.needs_settled_rows for call in self.calls):
            rows = settled(rows, self.input_names)
        values: dict[str, sql.Composable] = {key.place: sql.Identifier(key.name) for key in self.keys}
        values.update({call.place: call.native() if is_plain else call.weighted() for call in self.calls})
        conditions: list[sql.Composable] = []
        if not is_plain and self.has_groups:
            conditions.append(sql.SQL("sum({}) > 0").format(WEIGHT))
        if self.having is not None:
            conditions.append(sql.SQL("({})").format(self.having.fill(values)))
        return select(
            [
                *(
                    as_column(output.fill(values), name)
                    for output, name in zip(self.outputs, self.columns, strict=True)
                ),
                *extra,
            ],
            derived(rows, "__pgt_i"),
            group_by=names([key.name for key in self.keys]) if self.keys else (),
            having=sql.SQL(" AND ").join(conditions) if conditions else None,
        )

    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """Its rows at one end of the window, with weights."""
        groups = self.groups_at_query(moment, window)
        return select([*names(self.columns), sql.SQL("{} AS {}").format(ONE, WEIGHT)], derived(groups, "__pgt_g"))

    def affected_query(self, window: Window) -> sql.Composed | None:
        """The row ids of the groups that a change touches."""
        terms = self.rows.delta_terms(window)
        if not terms:
            return None
        ids = group_hash([(key, sql.Identifier(key.name)) for key in self.keys])
        return select([sql.SQL("DISTINCT {} AS {}").format(ids, _HASH)], derived(self.input_query(terms), "__pgt_c"))

    def delta_query(self, window: Window) -> sql.Composed | None:
        """The groups that a change touches: as they were with weight -1, as they are with weight 1."""
        affected = self.affected_query(window)
        if affected is None:
            return None
        wanted = sql.SQL("SELECT {} FROM {}").format(_HASH, _AFFECTED)
        halves = [
            select(
                [*names(self.columns), sql.SQL("{}::bigint AS {}").format(sql.Literal(weight), WEIGHT)],
                derived(self.groups_at_query(moment, window, affected=wanted), "__pgt_g"),
            )
            for moment, weight in ((Moment.NEW, 1), (Moment.OLD, -1))
        ]
        changed = sql.SQL("WITH {} AS MATERIALIZED ({}) {} UNION ALL {}").format(_AFFECTED, affected, *halves)
        return select([*names(self.columns), WEIGHT], derived(changed, "__pgt_g"))

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""
        return True
