"""From a canonical query to its operators; what has no incremental form is named.

Long, because it is one walk over one grammar: each construct is met in one place, by a function of a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql
from sqlglot import exp

from harness.trickle.delta.aggregate import Aggregate, Key
from harness.trickle.delta.derived import Derived
from harness.trickle.delta.dialect import composed, parse, text_of
from harness.trickle.delta.distinct import distinct
from harness.trickle.delta.filter import Filter
from harness.trickle.delta.functions import EXACT, INEXACT, Call
from harness.trickle.delta.join import Item, Join, Link
from harness.trickle.delta.project import Project
from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.delta.rows import Rows, as_column, derived, select
from harness.trickle.delta.scan import Scan
from harness.trickle.delta.template import Template, place
from harness.trickle.delta.union_all import UnionAll
from harness.trickle.delta.window import Moment, Window
from harness.trickle.sources import Source

_AGGREGATES: dict[type[exp.Expression], str] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
}
# Parts of a SELECT that have no incremental form, and what a person calls them.
_REFUSED_PARTS = {
    "limit": "LIMIT",
    "offset": "OFFSET",
    "fetch": "FETCH FIRST",
    "windows": "WINDOW",
    "qualify": "QUALIFY",
    "locks": "FOR UPDATE or FOR SHARE",
    "into": "INTO",
    "laterals": "LATERAL",
    "pivots": "PIVOT",
    "sample": "TABLESAMPLE",
    "match": "MATCH_RECOGNIZE",
}
# Nodes of an expression that have none.
_REFUSED_NODES: dict[type[exp.Expression], str] = {
    exp.Window: "a window function",
    exp.Select: "a subquery in an expression",
    exp.SetOperation: "a subquery in an expression",
    exp.Exists: "EXISTS",
    exp.Star: "a whole row as a value",
    exp.GroupConcat: "an aggregate besides count, sum, avg, min and max",
}

TypesOf = Callable[[sql.Composable], Sequence[tuple[str, bool]]]


@dataclass(frozen=True)
class Catalog:
    """What the tree needs to know of the database.

    Attributes:
        sources: tables by schema and name.
        views: canonical queries by schema and name.
        refused: why a relation has no incremental form, by schema and name.
        aggregates: names of all aggregate functions, so that others than the five are recognised.
        types_of: the columns' types of a query, and whether each is an enum.
        counter: an entry for each join that was met, so that each has a number.
    """

    sources: Mapping[tuple[str, str], Source]
    views: Mapping[tuple[str, str], str]
    refused: Mapping[tuple[str, str], str]
    aggregates: frozenset[str]
    types_of: TypesOf = field(repr=False)
    counter: list[int] = field(default_factory=list, repr=False)


@dataclass
class _Scope:
    """What names mean inside one query."""

    catalog: Catalog
    ctes: dict[str, exp.Expression] = field(default_factory=dict)
    outer: _Scope | None = None

    def cte(self, name: str) -> tuple[exp.Expression, _Scope] | None:
        """A CTE of that name, and the scope in which it is written: it sees those before it and not itself."""
        found = self.ctes.get(name)
        if found is not None:
            return found, self.outer or self
        return self.outer.cte(name) if self.outer is not None else None


def build_tree(query: str, catalog: Catalog) -> Rows:
    """The operators of a canonical query.

    Args:
        query: as `harness.trickle.canonical` gives it.
        catalog: what it reads.

    Raises:
        NotIncrementalError: a construct has no incremental form; says which.
    """
    return _query(parse(query), _Scope(catalog), None)


def _unwrapped(node: exp.Expression) -> exp.Expression:
    while isinstance(node, (exp.Subquery, exp.Paren)) and not node.args.get("alias") and not node.args.get("with_"):
        node = node.this
    return node


def _query(node: exp.Expression, scope: _Scope, columns: Sequence[str] | None) -> Rows:
    node = _unwrapped(node)
    inner = _Scope(scope.catalog, outer=scope)
    with_ = node.args.get("with_") or node.args.get("with")
    if with_ is not None:
        if with_.args.get("recursive"):
            raise NotIncrementalError("a recursive CTE")
        for cte in with_.expressions:
            inner = _Scope(scope.catalog, {cte.alias: cte}, inner)
    if isinstance(node, exp.SetOperation):
        return _set_operation(node, inner, columns)
    if isinstance(node, exp.Select):
        return _select(node, inner, columns)
    raise NotIncrementalError(f"a construct of its own kind, {type(node).__name__}")


def _set_operation(node: exp.SetOperation, scope: _Scope, columns: Sequence[str] | None) -> Rows:
    if not isinstance(node, exp.Union):
        raise NotIncrementalError("EXCEPT" if isinstance(node, exp.Except) else "INTERSECT")
    _refuse_parts(node)
    first = _query(node.args["this"], scope, columns)
    second = _query(node.args["expression"], scope, first.columns)
    both = UnionAll(first.columns, (first, second))
    return _distinct(both, scope) if node.args.get("distinct") else both


def _distinct(rows: Rows, scope: _Scope) -> Aggregate:

    types = scope.catalog.types_of(rows.at_query(Moment.NOW, Window()))
    return distinct(rows, types[: len(rows.columns)])


def _refuse_parts(node: exp.Expression) -> None:
    for part, called in _REFUSED_PARTS.items():
        if node.args.get(part):
            raise NotIncrementalError(called)


def _select(node: exp.Select, scope: _Scope, columns: Sequence[str] | None) -> Rows:
    _refuse_parts(node)
    rows = _from(node, scope)
    names = tuple(columns) if columns is not None else tuple(item.alias_or_name for item in node.expressions)
    outputs = [item.this if isinstance(item, exp.Alias) else item for item in node.expressions]
    for expression in (*outputs, node.args.get("having")):
        if expression is not None:
            _check_expression(expression, scope)
    group = node.args.get("group")
    is_aggregate = (
        group is not None or node.args.get("having") is not None or any(_has_aggregate(item) for item in outputs)
    )
    found: Rows
    if is_aggregate:
        found = _aggregate(node, rows, names, outputs, scope)
    else:
        plain = tuple(_plain_column(item, rows) for item in outputs)
        found = Project(names, rows, tuple(composed(item) for item in outputs), plain)
    chosen = node.args.get("distinct")
    if chosen is not None:
        if chosen.args.get("on") is not None:
            raise NotIncrementalError("DISTINCT ON")
        return _distinct(found, scope)
    return found


def _plain_column(node: exp.Expression, rows: Filter) -> tuple[str, str] | None:
    if not isinstance(node, exp.Column):
        return None
    return (node.table or rows.items[0].alias, node.name)


# FROM


def _from(node: exp.Select, scope: _Scope) -> Filter:
    from_ = node.args.get("from_") or node.args.get("from")
    if from_ is None:
        raise NotIncrementalError("a query without FROM")
    needed = _needed_columns(node)
    items: list[Item] = []
    conditions: list[sql.Composable] = []
    _add(from_.this, scope, needed, items, conditions)
    for join in node.args.get("joins") or ():
        _add_join(join, scope, needed, items, conditions)
    where = node.args.get("where")
    if where is not None:
        _check_expression(where.this, scope)
    aliases = [item.alias for item in items]
    if len(set(aliases)) < len(aliases):
        raise NotIncrementalError("an alias that is used twice")
    equal = [condition for part in (from_, *(node.args.get("joins") or ())) for condition in _ons(part)]
    links = tuple(
        link
        for condition in (*equal, where and where.this)
        if condition is not None
        for link in _links(condition, items)
    )
    scope.catalog.counter.append(len(items))
    return Filter(
        Join(tuple(items), tuple(conditions), links, len(scope.catalog.counter)),
        None if where is None else composed(exp.paren(where.this)),
    )


def _ons(join: exp.Expression) -> Iterator[exp.Expression]:
    """The conditions of a join and of those in its parentheses."""
    for inner in join.find_all(exp.Join):
        if inner.args.get("on") is not None:
            yield inner.args["on"]


def _links(condition: exp.Expression, items: Sequence[Item]) -> Iterator[Link]:
    """The equalities of columns that a condition needs."""
    node = _bare(condition)
    if isinstance(node, exp.And):
        yield from _links(node.args["this"], items)
        yield from _links(node.args["expression"], items)
    elif isinstance(node, exp.EQ):
        left, right = _bare(node.args["this"]), _bare(node.args["expression"])
        known = {item.alias: item.rows.columns for item in items}
        if isinstance(left, exp.Column) and isinstance(right, exp.Column) and left.table != right.table:
            both = [(side.table, side.name) for side in (left, right)]
            if all(name in known.get(alias, ()) for alias, name in both):
                yield Link(*both)


def _needed_columns(node: exp.Select) -> dict[str, frozenset[str]]:
    """The columns that a query names, by the table it names them of; of no table: under the empty name."""
    found: dict[str, set[str]] = {}
    for below in node.walk(
        prune=lambda inner: isinstance(inner, exp.Query) and inner is not node and not isinstance(inner, exp.Subquery)
    ):
        if isinstance(below, exp.Column):
            found.setdefault(below.table, set()).add(below.name)
        elif isinstance(below, exp.Join):
            for using in below.args.get("using") or ():
                found.setdefault("", set()).add(using.name)
    return {table: frozenset(names) for table, names in found.items()}


def _add(
    node: exp.Expression,
    scope: _Scope,
    needed: Mapping[str, frozenset[str]],
    items: list[Item],
    conditions: list[sql.Composable],
) -> None:
    if isinstance(node, exp.Paren) or (isinstance(node, exp.Subquery) and _is_join(node.this)):
        if node.args.get("alias"):
            raise NotIncrementalError("an alias of a whole join")
        _add(node.this, scope, needed, items, conditions)
    elif isinstance(node, exp.Subquery):
        if not node.alias:
            raise NotIncrementalError("a subquery without an alias")
        items.append(Item(node.alias, Derived.of(_query(node.this, scope, None), _alias_columns(node))))
    elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        items.append(_table(node, scope, needed))
    else:
        raise NotIncrementalError("a function or a list of values in FROM", text_of(node))
    for join in node.args.get("joins") or ():
        _add_join(join, scope, needed, items, conditions)


def _is_join(node: exp.Expression) -> bool:
    """Whether what stands in parentheses is a table or a join, and not a query."""
    if isinstance(node, (exp.Subquery, exp.Paren)):
        return bool(node.args.get("alias") or node.args.get("joins")) or _is_join(node.args["this"])
    return not isinstance(node, exp.Query)


def _add_join(
    join: exp.Join,
    scope: _Scope,
    needed: Mapping[str, frozenset[str]],
    items: list[Item],
    conditions: list[sql.Composable],
) -> None:
    side, kind, method = (str(join.args.get(part) or "").upper() for part in ("side", "kind", "method"))
    if side or kind not in {"", "INNER", "CROSS"}:
        raise NotIncrementalError(f"{side or kind} JOIN")
    if method:
        raise NotIncrementalError(f"{method} JOIN")
    before = len(items)
    _add(join.this, scope, needed, items, conditions)
    on = join.args.get("on")
    if on is not None:
        _check_expression(on, scope)
        conditions.append(composed(exp.paren(on)))
    for using in join.args.get("using") or ():
        left = _owner(using.name, items[:before])
        right = _owner(using.name, items[before:])
        conditions.append(
            sql.SQL("{} = {}").format(sql.Identifier(left, using.name), sql.Identifier(right, using.name))
        )


def _owner(column: str, items: Sequence[Item]) -> str:
    for item in items:
        if column in item.rows.columns:
            return item.alias
    raise NotIncrementalError("USING of a column that is not found", column)


def _alias_columns(node: exp.Expression) -> tuple[str, ...]:
    alias = node.args.get("alias")
    return tuple(column.name for column in alias.args.get("columns") or ()) if alias is not None else ()


def _table(node: exp.Table, scope: _Scope, needed: Mapping[str, frozenset[str]]) -> Item:
    _refuse_parts(node)
    if node.args.get("only") or node.args.get("ordinality") or node.args.get("version") or node.args.get("when"):
        raise NotIncrementalError("ONLY or a like word before a table")
    alias = node.alias_or_name
    columns = _alias_columns(node)
    if not node.db:
        found = scope.cte(node.name)
        if found is None:
            raise NotIncrementalError("a relation that is not found", node.name)
        cte, its_scope = found
        rows = Derived.of(_query(cte.this, its_scope, None), _alias_columns(cte))
        return Item(alias, Derived.of(rows, columns))
    name = (node.db, node.name)
    if name in scope.catalog.refused:
        raise NotIncrementalError(scope.catalog.refused[name])
    if name in scope.catalog.views:
        return Item(alias, Derived.of(_query(parse(scope.catalog.views[name]), _Scope(scope.catalog), None), columns))
    if name not in scope.catalog.sources:
        raise NotIncrementalError("a relation that is not found", f"{node.db}.{node.name}")
    source = scope.catalog.sources[name]
    wanted = needed.get(alias, frozenset()) | needed.get("", frozenset())
    if columns:
        # The alias renames the table's columns by place, so all of them are read.
        every = Scan.of(source, frozenset(column.name for column in source.columns))
        return Item(alias, Derived.of(every, columns))
    unknown = needed.get(alias, frozenset()) - {column.name for column in source.columns}
    if unknown:
        raise NotIncrementalError("a system column", ", ".join(sorted(unknown)))
    return Item(alias, Scan.of(source, wanted))


# expressions


def _check_expression(node: exp.Expression, scope: _Scope) -> None:
    for found in node.walk():
        for kind, called in _REFUSED_NODES.items():
            if isinstance(found, kind) and not (kind is exp.Star and isinstance(found.parent, exp.Count)):
                raise NotIncrementalError(called, text_of(found)[:80])
        name = found.name.lower() if isinstance(found, exp.Anonymous) else found.key
        is_known = isinstance(found, tuple(_AGGREGATES))
        if isinstance(found, exp.Func) and not is_known and name in scope.catalog.aggregates:
            raise NotIncrementalError("an aggregate besides count, sum, avg, min and max", name)


def _has_aggregate(node: exp.Expression) -> bool:
    return any(isinstance(found, tuple(_AGGREGATES)) for found in node.walk())


def _bare(node: exp.Expression) -> exp.Expression:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _aggregate(
    node: exp.Select, rows: Filter, names: tuple[str, ...], outputs: Sequence[exp.Expression], scope: _Scope
) -> Aggregate:
    group = node.args.get("group")
    having = node.args.get("having")
    key_nodes: list[exp.Expression] = []
    if group is not None:
        if any(group.args.get(part) for part in ("rollup", "cube", "grouping_sets", "totals", "all")):
            raise NotIncrementalError("GROUPING SETS, ROLLUP or CUBE")
        for item in group.expressions:
            if isinstance(item, (exp.Rollup, exp.Cube, exp.GroupingSets)):
                raise NotIncrementalError("GROUPING SETS, ROLLUP or CUBE")
            _check_expression(item, scope)
            if _bare(item) not in key_nodes:
                key_nodes.append(_bare(item))
    collected = _Collected(key_nodes)
    templates = [collected.replaced(item) for item in outputs]
    having_template = None if having is None else collected.replaced(having.this)
    keys = [
        Key(f"k{number}", composed(item), plain_column=_plain_column(item, rows))
        for number, item in enumerate(collected.keys)
    ]
    found = Aggregate(
        columns=names,
        rows=rows,
        keys=tuple(keys),
        calls=tuple(collected.calls),
        outputs=tuple(Template.of(item) for item in templates),
        having=None if having_template is None else Template.of(having_template),
        has_groups=group is not None and bool(key_nodes),
    )
    return _typed(found, scope)


class _Collected:
    """Takes aggregates and keys out of expressions and puts places in their stead."""

    def __init__(self, keys: list[exp.Expression]) -> None:
        self.keys = keys
        self.calls: list[Call] = []
        self._known: list[exp.Expression] = []

    def replaced(self, node: exp.Expression) -> exp.Expression:
        """The expression over places."""
        return node.copy().transform(self._replace)

    def _replace(self, node: exp.Expression) -> exp.Expression:
        bare = _bare(node)
        if bare in self.keys:
            return place(f"k{self.keys.index(bare)}")
        if isinstance(node, (exp.Filter, *_AGGREGATES)):
            return place(self._call(node))
        if isinstance(node, exp.Column) and not node.name.startswith("__pgt_place_"):
            # It depends on the key (GROUP BY of a primary key), so as a key of its own it makes no other groups.
            self.keys.append(node.copy())
            return place(f"k{len(self.keys) - 1}")
        return node

    def _call(self, node: exp.Expression) -> str:
        if node in self._known:
            return f"a{self._known.index(node)}"
        condition = None
        call: exp.Expression = node
        if isinstance(node, exp.Filter):
            condition = node.expression.this
            call = node.this
        if not isinstance(call, tuple(_AGGREGATES)):
            raise NotIncrementalError("an aggregate besides count, sum, avg, min and max", text_of(call)[:80])
        argument = call.this
        is_distinct = isinstance(argument, exp.Distinct)
        if is_distinct:
            if len(argument.expressions) != 1:
                raise NotIncrementalError("an aggregate over several columns")
            argument = argument.expressions[0]
        if isinstance(argument, exp.Order) or call.args.get("expressions"):
            raise NotIncrementalError("an aggregate with ORDER BY or several arguments", text_of(call)[:80])
        if argument is not None and _has_aggregate(argument):
            raise NotIncrementalError("an aggregate in an aggregate")
        place_name = f"a{len(self._known)}"
        self._known.append(node.copy())
        self.calls.append(
            Call(
                _AGGREGATES[type(call)],
                place_name,
                None if argument is None or isinstance(argument, exp.Star) else composed(argument),
                None if condition is None else composed(condition),
                is_distinct,
            )
        )
        return place_name


def _typed(found: Aggregate, scope: _Scope) -> Aggregate:
    """The same with the types of its keys, arguments and results, which PostgreSQL tells."""
    below = found.input_query(found.rows.at_terms(Moment.NOW, Window()))
    below_types = dict(zip(found.input_names, scope.catalog.types_of(below), strict=False))
    results: Sequence[tuple[str, bool]] = ()
    if found.calls:
        results = scope.catalog.types_of(
            select([as_column(call.native(), call.place) for call in found.calls], derived(below, "__pgt_i"))
        )
    calls = []
    for call, (result_type, _is_enum) in zip(found.calls, results, strict=True):
        argument_type = below_types.get(f"__pgt_x_{call.place}", ("", False))[0]
        typed = replace(call, argument_type=argument_type, result_type=result_type)
        if call.function in {"sum", "avg"} and typed.base_type not in (*EXACT, *INEXACT):
            raise NotIncrementalError(f"{call.function} of {argument_type}")
        calls.append(typed)
    keys = tuple(
        replace(key, type_text=below_types[key.name][0], is_enum=below_types[key.name][1]) for key in found.keys
    )
    return replace(found, keys=keys, calls=tuple(calls))
