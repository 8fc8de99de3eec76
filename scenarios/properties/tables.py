"""Random tables."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from psycopg import sql

from scenarios.properties.kinds import INTEGER, KINDS, Kind

PLACEMENTS = ("local", "reference", "distributed")
# Two of them are written as no program would write them.
NAMES = ("a", "b", "select", 'Od"d name')


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    kind: Kind
    nullable: bool


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: without a schema; the search path finds it.
        columns: the first is ``id``.
        has_key: whether ``id`` is its primary key; else equal rows may be in it.
        placement: local, reference or distributed; without Citus all are local.
        by: the distribution column.
    """

    name: str
    columns: tuple[Column, ...]
    has_key: bool
    placement: str = "local"
    by: str = "id"

    @property
    def identifier(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.name)

    def definition(self) -> sql.Composed:
        """``CREATE TABLE``."""
        columns = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(column.name),
                sql.SQL(column.kind.written),
                sql.SQL("" if column.nullable else " NOT NULL"),
            )
            for column in self.columns
        ]
        if self.has_key:
            columns.append(sql.SQL("PRIMARY KEY (id)").format())
        return sql.SQL("CREATE TABLE {} ({})").format(self.identifier, sql.SQL(", ").join(columns))

    def placing(self) -> sql.Composed | None:
        """The statement that makes it a reference or a distributed table; None where it stays local."""
        if self.placement == "reference":
            return sql.SQL("SELECT create_reference_table({})").format(sql.Literal(self.identifier.as_string()))
        if self.placement == "distributed":
            return sql.SQL("SELECT create_distributed_table({}, {}, shard_count => 4)").format(
                sql.Literal(self.identifier.as_string()), sql.Literal(self.by)
            )
        return None


@st.composite
def tables(draw: st.DrawFn, *, name: str, on_citus: bool) -> Table:
    """A table of two to five columns."""
    has_key = draw(st.booleans())
    placement = draw(st.sampled_from(PLACEMENTS)) if on_citus else "local"
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    others = [Column(each, draw(st.sampled_from(KINDS)), draw(st.integers(0, 3)) > 0) for each in names]
    # Citus refuses NULL in a distribution column.
    first = Column("id", INTEGER, not has_key and placement != "distributed")
    return Table(name, (first, *others), has_key, placement)
