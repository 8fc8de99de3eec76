"""A table by its name, its statements, and its change buffer."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.trickle.names import stable_name


@dataclass(frozen=True)
class Table:
    """A table by its schema and name, as the catalog holds them."""

    schema: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.schema, self.name)

    @property
    def qualified(self) -> str:
        """As SQL writes it, quoted where needed."""
        return self.identifier.as_string()

    @property
    def buffer(self) -> Table:
        """Its change buffer (D1)."""
        return Table("pgtrickle_changes", f"changes_{stable_name(self.schema, self.name)}")


def public(name: str) -> Table:
    """A table in ``public``."""
    return Table("public", name)
