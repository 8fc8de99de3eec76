"""The lower of two layers is altered: the upper one follows, or the change is refused by its name."""

from __future__ import annotations

import pytest

from harness.errors import RefusedError
from harness.postgres import Node
from scenarios.engine.shop import CHANGES, TOTALS, open_shop, refreshed

SPREAD = "SELECT n, count(*) AS customers, sum(total) AS total FROM totals GROUP BY n"
FEWER = TOTALS.replace("GROUP BY", "WHERE id > 10 GROUP BY")


def test_lower_layer_that_is_altered_is_followed_or_refused(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("spread", SPREAD, None, "DIFFERENTIAL")
        refusal = ""
        try:
            stream_tables.alter("totals", query=FEWER)
        except RefusedError as error:
            refusal = error.message
        assert not refusal or "spread" in refusal
        if not refusal:
            assert refreshed(connection, stream_tables, "spread").action == "REINITIALIZE"
        connection.execute(CHANGES)
        for name in ("totals", "spread"):
            done = refreshed(connection, stream_tables, name)
            assert done.action == "DIFFERENTIAL", done
        with pytest.raises(RefusedError, match="spread"):
            stream_tables.drop("totals")
