"""Runs the SQL files beside the revisions: online on the driver's connection, offline as text, the same bytes."""

from __future__ import annotations

from pathlib import Path

from alembic import op

SQL = Path(__file__).parent / "sql"


def run(text: str) -> None:
    """Run SQL text as it stands (no parameters, any number of statements), in the current transaction.

    Args:
        text: the statements. Offline they go into the script unchanged.

    Raises:
        psycopg.Error: the server refused a statement.
    """
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text.strip() + "\n")
        return
    connection = context.connection
    if connection is None or connection.connection.driver_connection is None:
        raise RuntimeError("a migration runs on a connection or offline, and here is neither")
    # Straight to the driver: SQLAlchemy would read ':x' and '%' in these texts as its own.
    connection.connection.driver_connection.execute(text.encode())


def run_file(*names: str) -> None:
    """Run ``sql/<name>.sql`` for each name, in one transaction."""
    for name in names:
        run((SQL / f"{name}.sql").read_text(encoding="utf-8"))


def run_steps(step: str) -> None:
    """Run one short transaction a source, outside Alembic's own (``sql/each_source.sql``).

    Args:
        step: which step; ``pgtrickle._todo_<step>()`` lists the sources and ``pgtrickle._do_<step>(oid)`` moves one.
    """
    with op.get_context().autocommit_block():
        # The literal is one of this package's own words, never a caller's text.
        run(f"CALL pgtrickle._each_source('{step}');")
