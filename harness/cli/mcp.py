"""``harness mcp``: the inspectors for an assistant, as an MCP server over stdio."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.inspect_place import Cluster, Database, Dsn, Where, choose_place
from harness.errors import EnvironmentMissingError

# The package of the extra, and what it brings that our server names.
_EXTRA = frozenset({"mcp", "mcp_types", "anyio"})


def mcp(
    *,
    cluster: Cluster = None,
    database: Database = None,
    dsn: Dsn = None,
    reveal_tenants: Annotated[
        bool, typer.Option("--reveal-tenants", help="Let the client ask for tenants by value.")
    ] = False,
) -> None:
    """Serve the inspectors as read-only MCP tools on stdin and stdout, until the client closes them.

    Exit codes: 0 the client closed, 2 bad input, 3 the package mcp is not here.
    """
    place = choose_place(Where(cluster, database, dsn))
    try:
        from harness.mcp.server import serve  # noqa: PLC0415 - of an optional extra
    except ImportError as error:
        # Another major version lacks names that ours has.
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise EnvironmentMissingError(
            f"harness mcp needs the package mcp, version 2, which this installation does not have: {error}",
            hint="pip install 'pgtrickle-citus-harness[mcp]'",
        ) from None
    serve(place.dsn, may_reveal=reveal_tenants)
