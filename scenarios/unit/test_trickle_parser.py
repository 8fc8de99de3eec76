"""The SQL parser writes what it read; templates are filled at their places and nowhere else."""

from __future__ import annotations

import pytest
from psycopg import sql
from sqlglot import exp

from harness.trickle.delta.dialect import parse, text_of
from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.delta.template import Template, place


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.id FROM public.a",
        "SELECT upper(a.t) AS u, app.upper(a.t) AS v FROM public.a",
        "SELECT a.id FROM public.a WHERE (a.id OPERATOR(app.=) 3)",
        "SELECT 'it''s' AS a, 'back\\slash' AS b, E'a\\nb' AS c FROM public.a",
        'SELECT "A b"."c""d" AS "x y" FROM "S p"."A b"',
        "SELECT (a.t)::character varying(3) AS v, (a.n)::numeric(5,1) AS n FROM public.a",
        "SELECT CASE a.t WHEN 'x'::text THEN 1 ELSE NULL::integer END AS c FROM public.a",
        "SELECT (a.t ~~ 'n%'::text) AS l, (a.t ~* 'n'::text) AS r FROM public.a",
        "SELECT a.id FROM (public.a JOIN public.b USING (id))",
        "SELECT count(*) FILTER (WHERE (a.n > 3)) AS n FROM public.a GROUP BY a.t HAVING (count(*) > 1)",
    ],
)
def test_query_is_written_as_it_was_read(query: str) -> None:
    once = text_of(parse(query))
    assert text_of(parse(once)) == once


@pytest.mark.parametrize("query", ["SELECT (", "", "SELECT 1; SELECT 2"])
def test_text_that_is_no_single_query_is_none(query: str) -> None:
    with pytest.raises(NotIncrementalError):
        parse(query)


def test_function_keeps_its_schema() -> None:
    """``app.sum`` may be anything: what PostgreSQL resolves is not guessed from the name."""
    call = parse("SELECT app.sum(a.n) FROM public.a").expressions[0]
    assert isinstance(call, exp.Dot)
    assert text_of(call).lower().replace('"', "") == "app.sum(a.n)"


def test_deeply_nested_query_is_refused_and_not_a_crash() -> None:
    query = "SELECT " + "(" * 3_000 + "1" + ")" * 3_000
    with pytest.raises(NotIncrementalError, match="SQL parser"):
        parse(query)


def test_template_is_filled_at_its_places() -> None:
    template = Template.of(exp.Add(this=place("a0"), expression=exp.Literal.number(1)))
    assert template.places == {"a0"}
    assert template.only_place is None
    assert template.fill({"a0": sql.Identifier("total")}).as_string() == '("total") + 1'


def test_template_of_one_place_is_that_place() -> None:
    assert Template.of(place("k1")).only_place == "k1"
