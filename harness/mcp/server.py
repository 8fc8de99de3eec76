"""The MCP server over stdio, with the official package ``mcp`` (an optional extra)."""

from __future__ import annotations

import anyio
import anyio.to_thread
import mcp_types as types
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from harness import __version__
from harness.errors import BadInputError
from harness.mcp.tools import INSTRUCTIONS, Answer, call, list_tools

# Looks at once. Each opens one connection here and at most one on every node: an eager assistant must not be a load.
MOST_AT_ONCE = 2
_READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def make_server(dsn: str, *, may_reveal: bool = False) -> Server[dict[str, object]]:
    """A server with every inspector as a tool; it holds no connection while nobody asks.

    Args:
        dsn: the coordinator's; never told to a client.
        may_reveal: whether tenants may be shown by value.
    """
    limiter: list[anyio.CapacityLimiter] = []  # made by the first call: it belongs to a running event loop
    tools = [
        types.Tool(
            name=each.name,
            title=each.name.replace("_", " "),
            description=each.description,
            input_schema=each.input_schema,
            output_schema=each.output_schema,
            annotations=_READ_ONLY,
        )
        for each in list_tools(may_reveal=may_reveal)
    ]
    names = frozenset(each.name for each in tools)

    async def on_list_tools(
        _context: ServerRequestContext[dict[str, object]], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def on_call_tool(
        _context: ServerRequestContext[dict[str, object]], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name not in names:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r}")
        if not limiter:
            limiter.append(anyio.CapacityLimiter(MOST_AT_ONCE))

        def look() -> Answer:
            return call(dsn, params.name, params.arguments or {}, may_reveal=may_reveal)

        # A client that cancels is let go at once; the look ends by its own timeouts, and counts until then.
        answer = await anyio.to_thread.run_sync(look, limiter=limiter[0], abandon_on_cancel=True)
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=answer.text)],
            structured_content=answer.document,
            is_error=answer.is_error,
        )

    return Server(
        "harness-inspectors",
        version=__version__,
        title="Inspectors of a Citus cluster",
        instructions=INSTRUCTIONS,
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )


def serve(dsn: str, *, may_reveal: bool = False) -> None:
    """Serve one client on stdin and stdout until it closes them; logs go to stderr.

    Args:
        dsn: the coordinator's.
        may_reveal: whether tenants may be shown by value.

    Raises:
        BadInputError: stdin and stdout belong to nobody, such as a terminal that was closed.
    """
    server = make_server(dsn, may_reveal=may_reveal)

    async def run() -> None:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    try:
        anyio.run(run)
    except BrokenPipeError:
        raise BadInputError("the client went away in the middle of an answer") from None
