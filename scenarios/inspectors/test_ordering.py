"""The order of rows, whatever a server's collation is, and the place after one of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from harness.inspectors.ordering import cut_cells, fitting, make_cursor, rows_after, sort_rows


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
    assert fitting(rows, 10**6) == 10
    assert fitting(rows, 1000) == 4  # each takes 240 to 250
    assert fitting(rows, 10) == 0
