"""`StreamTables`, and what the interface of both engines asks beside it."""

from __future__ import annotations

from psycopg import sql

from harness.engines.model import Footprint, Standing, fetch_footprint
from harness.trickle import StreamTables
from harness.trickle.catalog import find
from harness.trickle.names import stable_name
from harness.trickle.oracle import Difference, compare


class OurTables(StreamTables):
    """`StreamTables`, and what the interface asks beside it."""

    def standing(self, name: str) -> Standing:
        """See `Tables.standing`."""
        found = find(self._connection, name)
        return Standing(found.qualified, found.mode, found.status, found.is_populated, found.consecutive_errors)

    def footprint(self, schema: str, table: str) -> Footprint:
        """See `Tables.footprint`."""
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable_name(schema, table)}")
        return fetch_footprint(self._connection, sql.Identifier(schema, table), buffer)

    def placement(self, schema: str, table: str) -> str:
        """See `Tables.placement`."""
        return find(self._connection, sql.Identifier(schema, table).as_string()).placement

    def difference(self, name: str, *, as_text: bool = False) -> Difference:
        """See `Tables.difference`; the query is the catalog's, which is the one that it was made with."""
        return compare(self._connection, name, as_text=as_text)
