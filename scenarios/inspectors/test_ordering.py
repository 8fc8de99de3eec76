"""The order of rows, whatever a server's collation is, and the place after one of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inspectors.ordering import Page, cut_cells, fill_page, make_cursor, rows_after, sort_rows


@dataclass(frozen=True)
class Row:
    value: int | None
    name: str | None
    id: int
    inner: tuple[str, ...] = ()


_ORDER = ("-value", "name", "id")
_ROWS = st.lists(
    st.builds(Row, st.one_of(st.none(), st.integers(-2, 2)), st.one_of(st.none(), st.text(max_size=2)), st.integers()),
    unique_by=lambda row: row.id,
    max_size=30,
)


def test_order_is_by_bytes_descending_where_asked_and_nulls_come_last() -> None:
    rows = [Row(1, "é", 1), Row(None, "a", 2), Row(1, "z", 3), Row(2, None, 4), Row(1, "Z", 5), Row(1, "z", 0)]
    assert [row.id for row in sort_rows(rows, _ORDER)] == [4, 5, 0, 3, 1, 2]


@given(_ROWS, st.randoms())
def test_order_does_not_depend_on_the_order_before(rows: list[Row], random: Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert sort_rows(shuffled, _ORDER) == sort_rows(rows, _ORDER)


@given(_ROWS)
def test_rows_after_each_row_are_those_behind_it(rows: list[Row]) -> None:
    in_order = sort_rows(rows, _ORDER)
    for place, row in enumerate(in_order):
        cursor = make_cursor("looks", row, _ORDER)
        assert rows_after(in_order, "looks", _ORDER, cursor) == in_order[place + 1 :]
        without = in_order[:place] + in_order[place + 1 :]
        assert rows_after(without, "looks", _ORDER, cursor) == in_order[place + 1 :]


def test_cells_are_cut_within_rows_too() -> None:
    cut = cut_cells(Row(1, "n" * 300, 1, ("i" * 300, "short")))
    assert (len(cut.name), len(cut.inner[0]), cut.inner[1]) == (200, 200, "short")
    row = Row(1, "n", 1)
    assert cut_cells(row) is row


def test_rows_that_fit_are_counted_in_bytes() -> None:
    rows = [Row(1, "é" * 100, n) for n in range(10)]
    assert fill_page(rows, 10**6) == Page(tuple(rows), 10, ())
    assert fill_page(rows, 1000) == Page(tuple(rows[:4]), 4, ())  # each takes 240 to 250


def test_row_that_never_fits_is_told_and_passed_over() -> None:
    rows = [Row(1, "a", 1), Row(1, "n" * 200, 2), Row(1, "a", 3)]
    page = fill_page(rows, 200)
    assert page == Page((rows[0], rows[2]), 3, ("row 2 has more than 200 bytes: it is left out",))
    assert fill_page(rows[1:2], 200).passed == 1


@pytest.mark.parametrize("most_bytes", [80, 200, 400, 6_000])
def test_row_with_a_long_list_is_shown_with_less_of_it_and_says_how_much_less(most_bytes: int) -> None:
    row = Row(1, "a", 1, tuple(f"{n:03}" for n in range(1_000)))
    page = fill_page([row, Row(1, "b", 2)], most_bytes)
    shown = page.rows[0]
    assert shown.inner == row.inner[: len(shown.inner)]
    left = 1_000 - len(shown.inner)
    assert page.left_off == (f"row 1 has more than {most_bytes} bytes: {left} inner are left off",)
    assert len(json.dumps(asdict(shown))) <= most_bytes
    # No more is left off than halving takes.
    assert len(json.dumps(asdict(replace(row, inner=row.inner[: 2 * len(shown.inner) + 1])))) + 2 > most_bytes


@dataclass(frozen=True)
class Outer:
    id: int
    rows: tuple[Row, ...]


def test_lists_within_lists_are_counted_by_name() -> None:
    row = Outer(1, tuple(Row(1, "a", n, ("x",) * 5) for n in range(6)))
    page = fill_page([row], 260)
    (shown,) = page.rows
    assert [len(each.inner) for each in shown.rows] == [2, 2]
    assert page.left_off == ("row 1 has more than 260 bytes: 4 rows, 6 inner are left off",)
