"""Stream tables that read one source share its buffer: rows go when the slowest is past; TRUNCATE is for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scenarios.coordination.ddl_shop import NAMES, PLACEMENTS, Shop, open_shop, open_where, placements

WAITING = "SELECT count(*) FROM pgtrickle_changes.changes_d6ad704b2cddddcd"


@pytest.fixture(params=placements(*PLACEMENTS))
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(open_where(request, request.param), request.param) as opened:
        yield opened


def test_consumed_rows_go_when_the_slowest_is_past(shop: Shop) -> None:
    shop.tables.create("third", "SELECT id, customer, amount FROM orders WHERE id > 50", None, "DIFFERENTIAL", "local")
    assert len(shop.tracked()) == 1, "one buffer for all"
    shop.write()
    pending = shop.value(WAITING)
    assert isinstance(pending, int)
    assert pending > 0
    shop.refresh("totals")
    shop.refresh("notes")
    assert shop.value(WAITING) == pending, "the third has not taken them"
    shop.write()
    for name in ("totals", "totals", "notes"):
        shop.refresh(name)
    shop.refresh("third")
    assert shop.value(WAITING) == 0
    shop.write()
    shop.refresh("third")
    shop.tables.drop("third")
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"
    assert shop.value(WAITING) == 0


def test_a_reader_that_never_comes_back_and_is_dropped_holds_nothing(shop: Shop) -> None:
    shop.write()
    shop.tables.suspend("notes", "on holiday")
    shop.refresh("totals")
    assert shop.value(WAITING) != 0
    shop.run("DROP TABLE notes")
    shop.write()
    assert shop.refresh("totals") == "DIFFERENTIAL"
    assert shop.value(WAITING) == 0


def test_a_reader_that_recomputes_reads_no_buffer(shop: Shop) -> None:
    shop.tables.create("whole", "SELECT id, row_number() OVER (ORDER BY id) AS r FROM orders", None, "FULL", "local")
    shop.write()
    for name in NAMES:
        shop.refresh(name)
    assert shop.value(WAITING) == 0
    shop.run("ALTER TABLE orders RENAME TO o2")
    shop.table = "public.o2"
    shop.write()
    assert shop.refresh("whole") == "FULL", "its query follows the name, too"
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"


def test_truncate_between_the_refreshes_of_two_readers(shop: Shop) -> None:
    shop.write()
    shop.refresh("totals")
    shop.run("TRUNCATE orders")
    shop.write()
    shop.refresh("notes")
    shop.write()
    for name in NAMES:
        shop.refresh(name)
    for name in NAMES:
        assert shop.refresh(name) == "NO_DATA"
    assert shop.value(WAITING) == 0
