"""SQL laid out for the eye: lines before clauses, and never another word."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.sql_layout import laid_out


def words(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_clauses_and_subqueries_begin_lines() -> None:
    text = "SELECT a, sum(b) FILTER (WHERE c) FROM (SELECT x FROM \"FROM t\" WHERE y = ' WHERE ') AS s GROUP BY a"
    expected = [
        "SELECT a, sum(b) FILTER (WHERE c)",
        "FROM (",
        "  SELECT x",
        '  FROM "FROM t"',
        "  WHERE y = ' WHERE '",
        ") AS s",
        "GROUP BY a",
    ]
    assert laid_out(text).splitlines() == expected


def test_when_begins_a_line_in_merge_and_none_in_case() -> None:
    text = "MERGE INTO t USING s ON a WHEN b THEN UPDATE SET x = CASE WHEN y THEN 1 END WHEN c THEN DELETE WHEN z"
    beginnings = [line.split()[0] for line in laid_out(text).splitlines()]
    assert beginnings == ["MERGE", "USING", "WHEN", "SET", "WHEN", "WHEN"]


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM t WHERE a IS DISTINCT FROM b",
        "SELECT 1",
        "SELECT $x$ FROM $x$, E'\\' FROM '",
        "SELECT extract(epoch FROM now())",
        "a LEFT JOIN b USING (x) CROSS JOIN c",
        "",
    ],
)
def test_words_stay_as_they_are(text: str) -> None:
    found = laid_out(text)
    assert words(found) == words(text)
    assert "\nFROM b" not in found
    assert "JOIN" not in found.replace("LEFT JOIN", "").replace("CROSS JOIN", "")


def test_statement_with_lines_of_its_own_stays() -> None:
    assert laid_out("SELECT 1\n  FROM t") == "SELECT 1\n  FROM t"


@given(
    st.lists(
        st.sampled_from(["SELECT", "FROM", "(", ")", " ", "'", '"', "a", "WHERE", "\\", "$", "--", "ä"]), max_size=40
    )
)
def test_any_text_keeps_its_characters(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert words(laid_out(text)) == words(text)
