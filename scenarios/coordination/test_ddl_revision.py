"""Revision 0009 goes both ways, and knows the stream tables that are there when it comes."""

from __future__ import annotations

import pytest

from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.chain.runner import downgrade, upgrade
from harness.errors import HarnessError
from harness.trickle import StreamTables
from harness.trickle.repair import repair
from scenarios.coordination.ddl_shop import NAMES, open_shop, open_where, placements

REFERENCES = (
    "SELECT count(*), count(*) FILTER (WHERE column_name IN ('customer', 'amount', 'note'))"
    " FROM pgtrickle.st_references"
)


@pytest.mark.parametrize("placement", placements("plain", "distributed"))
def test_up_and_down_with_changes_pending(request: pytest.FixtureRequest, placement: str) -> None:
    with open_shop(open_where(request, placement), placement) as shop:
        at_head = snapshot_catalog(shop.connection)
        noted = shop.connection.execute(REFERENCES).fetchone()
        shop.write()
        downgrade(shop.node.dsn(), "0008")
        below = snapshot_catalog(shop.connection)
        assert not any("0009" in str(each) or "st_references" in str(each) for each in compare_catalogs(below, below))
        shop.write()
        shop.run("ALTER TABLE orders ADD COLUMN below int")  # the hooks of 0006
        shop.run("ALTER TABLE orders DROP COLUMN below")
        shop.write()
        upgrade(shop.node.dsn())
        assert compare_catalogs(at_head, snapshot_catalog(shop.connection)) == ()
        assert shop.connection.execute(REFERENCES).fetchone() == noted
        shop.write()
        with StreamTables(shop.connection) as tables:
            for name in NAMES:
                assert tables.refresh(name).action == "DIFFERENTIAL"
                shop.refresh(name)
        shop.run("ALTER TABLE orders ALTER COLUMN note TYPE varchar(50)")
        assert shop.marked() == {"notes"}


@pytest.mark.citus(">= 14")
def test_the_way_down_is_refused_while_capture_does_not_fit(request: pytest.FixtureRequest) -> None:
    with open_shop(open_where(request, "distributed"), "distributed") as shop:
        shop.run("SELECT undistribute_table('orders')")
        with pytest.raises(HarnessError, match=r"the capture of public\.orders does not fit it"):
            downgrade(shop.node.dsn(), "0008")
        assert repair(shop.connection).passed
        downgrade(shop.node.dsn(), "0008")
        upgrade(shop.node.dsn())
        shop.write()
        for name in NAMES:
            assert shop.refresh(name) == "REINITIALIZE"
