"""Stream tables over stream tables, on both engines: what is altered or dropped below, a layer that reads itself."""

from __future__ import annotations

import pytest

from harness.errors import RefusedError
from scenarios.beside.shops import Shop
from scenarios.engine import test_layers_altered
from scenarios.engine.shop import TOTALS


def test_lower_layer_that_is_altered_is_followed_or_refused(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    shop.tables.create("spread", test_layers_altered.SPREAD, mode="DIFFERENTIAL")
    refusal = ""
    try:
        shop.tables.alter("totals", query=test_layers_altered.FEWER)
    except RefusedError as error:
        refusal = error.message
    assert not refusal or "spread" in refusal
    for name in ("totals", "spread"):
        shop.refreshed(name)
    shop.change()
    for name in ("totals", "spread"):
        shop.refreshed(name)


def test_lower_layer_is_not_dropped_below_another(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    shop.tables.create("spread", test_layers_altered.SPREAD, mode="DIFFERENTIAL")
    with pytest.raises(RefusedError, match="spread"):
        shop.tables.drop("totals")
    shop.change()
    for name in ("totals", "spread"):
        shop.refreshed(name)


def test_stream_table_cannot_be_made_to_read_itself(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    with pytest.raises(RefusedError):
        shop.tables.alter("totals", query="SELECT customer, n, total FROM totals")
    shop.change()
    shop.refreshed("totals")


@pytest.mark.pg_trickle(
    "unlike", match="DID NOT RAISE", reason="0.67 drops the stream table, and the view on it with it, without an error"
)
def test_view_on_a_stream_table_keeps_it_from_being_dropped(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    shop.connection.execute("CREATE VIEW seen AS SELECT customer FROM totals")
    with pytest.raises(RefusedError):
        shop.tables.drop("totals")
    assert shop.connection.execute("SELECT to_regclass('seen')").fetchone() == ("seen",)
    shop.change()
    shop.refreshed("totals")
