"""Which joins have a key of their own, how a change meets the other tables, and statements that are kept."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.trickle.delta.join import MOST_PARTS
from harness.trickle.delta.project import Project
from harness.trickle.delta.tree import Catalog, build_tree
from harness.trickle.delta.window import SourceWindow, Window
from harness.trickle.frontier import Cut
from harness.trickle.session import Texts
from harness.trickle.sources import Source, SourceColumn

COLUMNS = ("id", "customer", "product", "name")


def source(relid: int, name: str, *key: str) -> Source:
    columns = tuple(
        SourceColumn(column, "integer", 23, -1, True, None, f"new_{column}", f"old_{column}") for column in COLUMNS
    )
    return Source(relid, "public", name, "r", f"{relid:016x}", "local", None, None, False, False, key, False, columns)


FACTS, CUSTOMERS, PAIRS, LOOSE = (
    source(1, "facts", "id"),
    source(2, "customers", "id"),
    source(3, "pairs", "customer", "product"),
    source(4, "loose"),
)


def tree(query: str) -> Project:
    sources = {("public", each.name): each for each in (FACTS, CUSTOMERS, PAIRS, LOOSE)}
    found = build_tree(query, Catalog(sources, {}, {}, frozenset(), lambda _query: []))
    assert isinstance(found, Project)
    return found


@pytest.mark.parametrize(
    ("query", "is_unique"),
    [
        ("SELECT f.id, c.name FROM (public.facts f JOIN public.customers c ON ((c.id = f.customer)))", True),
        ("SELECT f.id, c.name FROM public.facts f, public.customers c WHERE (c.id = f.customer)", True),
        # The customer is known, which of its facts is not.
        ("SELECT c.id, f.name FROM (public.facts f JOIN public.customers c ON ((c.id = f.customer)))", False),
        ("SELECT f.id, c.name FROM public.facts f, public.customers c WHERE (c.id > f.customer)", False),
        (
            "SELECT f.id, c.name FROM public.facts f, public.customers c WHERE ((c.id = f.customer) OR (c.id = 1))",
            False,
        ),
        # Half of a key is none; the other half may be selected.
        ("SELECT f.id FROM (public.facts f JOIN public.pairs p ON ((p.customer = f.customer)))", False),
        ("SELECT f.id, p.product FROM (public.facts f JOIN public.pairs p ON ((p.customer = f.customer)))", True),
        # Two that are known by each other alone are not known.
        ("SELECT a.name FROM (public.customers a JOIN public.customers b ON ((a.id = b.id)))", False),
        # From one to the next, whatever their order.
        (
            (
                "SELECT f.id FROM ((public.customers d JOIN public.customers c ON ((d.id = c.product)))"
                " JOIN public.facts f ON ((c.id = f.customer)))"
            ),
            True,
        ),
        ("SELECT f.id, l.id FROM (public.facts f JOIN public.loose l ON ((l.id = f.customer)))", False),
    ],
)
def test_join_has_a_key_where_the_columns_say_which_rows_met(query: str, is_unique: bool) -> None:
    assert tree(query).is_unique() is is_unique


def window(*changed: Source) -> Window:
    cut = Cut({0: "100:105:"})
    return Window(
        {each.relid: SourceWindow(each, each in changed, cut, cut, 10) for each in (FACTS, CUSTOMERS, PAIRS, LOOSE)}
    )


def test_change_meets_a_table_and_what_is_taken_back_from_it_apart() -> None:
    rows = tree("SELECT f.id, c.name FROM (public.facts f JOIN public.customers c ON ((c.id = f.customer)))").rows
    assert len(rows.delta_terms(window(FACTS))) == 1, "customers did not change: nothing is taken back"
    # The facts' change with the new customers; the customers' with the facts, and with what these were not yet.
    assert len(rows.delta_terms(window(FACTS, CUSTOMERS))) == 3


def test_join_of_many_changed_tables_has_no_more_terms_than_tables() -> None:
    aliases = [f"t{number}" for number in range(6)]
    joined = ", ".join(f"public.facts {alias}" for alias in aliases)
    rows = tree(f"SELECT t0.id FROM {joined}").rows  # noqa: S608 - names from here
    most = 2 ** (len(aliases) - 1)
    assert most > MOST_PARTS
    # Up to three tables before it are read in parts, more are not.
    assert len(rows.delta_terms(window(FACTS))) == 1 + 2 + 4 + 8 + 1 + 1


def test_statement_is_put_together_once_and_gets_the_values_of_each_time() -> None:
    made: list[str] = []

    def make() -> sql.Composed:
        made.append("once")
        return sql.SQL("DELETE FROM {} WHERE mark_1 AND NOT (mark_1)").format(sql.Identifier("t"))

    known: dict[tuple[str, str], bytes] = {}
    for value in (b"a < 1", b"a < 2"):
        texts = Texts(None, known, {b"mark_1": value})  # type: ignore[arg-type]  # no server is asked
        assert texts.get("rows go", "", make) == b'DELETE FROM "t" WHERE ' + value + b" AND NOT (" + value + b")"
    assert made == ["once"]
    Texts(None, known, {}).get("rows go", "others", make)  # type: ignore[arg-type]
    assert made == ["once", "once"], "another variant is another statement"
