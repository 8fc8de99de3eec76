"""`harness mcp` over stdio, with the official package's own client, the server being a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO, cast

import anyio
import jsonschema
import pytest
from mcp import MCPError, StdioServerParameters, stdio_client
from mcp.client import Client
from mcp_types import CallToolResult, TextContent, Tool
from psycopg import sql

from harness.inspectors import inspect, registry
from harness.inspectors.report.shapes import to_json
from harness.mcp.tools import LIMITS
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import HOSTILE_SCHEMA, HOSTILE_TABLE, TABLES, Standard
from scenarios.inspectors_surface.commands import TIMEOUT_S, environment, spawn, worker_name

pytestmark = pytest.mark.citus(">= 14")


def served(dsn: str, act: Callable[[Client], Awaitable[None]], *options: str, mode: str = "auto", key: str = "") -> str:
    """Start a server, talk to it, and close it; what it wrote on stderr.

    Args:
        dsn: what the server looks at.
        act: what the client does.
        options: of ``harness mcp``.
        mode: of the protocol: ``auto``, or ``legacy`` for the handshake of before 2026.
        key: what tenants are hashed with.
    """
    variables = environment(dsn, {"HARNESS_INSPECT_KEY": key} if key else {})
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "harness", "mcp", *options], env=variables, cwd=Path.cwd()
    )

    async def talk(errors: TextIO) -> None:
        with anyio.fail_after(TIMEOUT_S):
            async with Client(stdio_client(server, errlog=errors), mode=mode) as client:
                await act(client)

    with tempfile.TemporaryFile("w+") as errors:
        anyio.run(talk, cast("TextIO", errors))
        errors.seek(0)
        return errors.read()


def answered(result: CallToolResult) -> dict[str, Any]:
    """The envelope of a call that went well; its text is the same."""
    assert not result.is_error, result.content
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert json.loads(content.text) == result.structured_content
    found: dict[str, Any] = result.structured_content
    return found


def refused(result: CallToolResult) -> str:
    """The words of a call that did not."""
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_are_the_inspectors_and_every_one_is_read_only(standard: Standard, mode: str) -> None:
    tools: list[Tool] = []

    async def act(client: Client) -> None:
        tools.extend((await client.list_tools()).tools)
        assert client.instructions
        assert "citus_health_report" in client.instructions

    assert served(standard.dsn("inspector"), act, mode=mode) == ""
    assert [tool.name for tool in tools] == list(registry.names())
    for tool in tools:
        assert tool.annotations is not None
        hints = tool.annotations
        assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint) == (
            *(True, False, True),
            False,
        )
        assert tool.output_schema is not None
        for schema in (tool.input_schema, tool.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
        assert tool.input_schema["additionalProperties"] is False
        assert tool.input_schema["properties"]["limit"]["maximum"] == 1000
        assert "reveal_tenants" not in tool.input_schema["properties"]
        assert registry.get(tool.name).summary in (tool.description or "")


def test_each_tool_answers_what_the_library_answers_in_the_shape_that_it_declares(standard: Standard) -> None:
    async def act(client: Client) -> None:
        for tool in (await client.list_tools()).tools:
            arguments = _arguments(tool)
            envelope = answered(await client.call_tool(tool.name, arguments))
            assert tool.output_schema is not None
            jsonschema.validate(envelope, tool.output_schema, cls=jsonschema.Draft202012Validator)
            same = to_json(inspect(standard.dsn("inspector"), tool.name, arguments, limits=LIMITS))
            assert envelope["name"] == tool.name
            assert _still(envelope) == _still(same), tool.name

    assert served(standard.dsn("inspector"), act) == ""


def _arguments(tool: Tool) -> dict[str, Any]:
    known = {"schema": "app", "table": "orders"}
    return {name: known[name] for name in tool.input_schema.get("required", ())}


def _still(envelope: dict[str, Any]) -> dict[str, Any]:
    """What does not change between two looks."""
    volatile = set(envelope["volatile"])
    kept = {name: value for name, value in envelope.items() if name not in {"rows", "facts", "next_cursor"}}
    rows = [{name: value for name, value in row.items() if name not in volatile} for row in envelope["rows"]]
    facts = {name: value for name, value in envelope["facts"].items() if name not in volatile}
    # Sessions come and go; an order by what changes does too.
    unordered = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return kept | {"rows": [] if envelope["name"] == "citus_activity" else unordered, "facts": facts}


def test_hostile_names_are_values_and_bad_arguments_are_told_to_the_client(standard: Standard) -> None:
    async def act(client: Client) -> None:
        named = {"schema": HOSTILE_SCHEMA, "table": HOSTILE_TABLE}
        envelope = answered(await client.call_tool("list_shards", named))
        assert len(envelope["rows"]) == TABLES[HOSTILE_SCHEMA, HOSTILE_TABLE][1]
        assert {row["table"] for row in envelope["rows"]} == {HOSTILE_TABLE}
        for arguments, words in (
            ({"limit": 100_000}, "a whole number from 1 to 1000"),
            ({"limit": "1 or 1=1"}, "cannot be used"),
            ({"sql": "drop table app.orders"}, "there is no input 'sql'"),
            ({"schema": "x" * 300}, "at most 256 characters"),
            ({"schema": ["app"]}, "cannot be used"),
            ({"cursor": "eyJhIjoxfQ"}, "cannot be used"),
        ):
            assert words in refused(await client.call_tool("list_shards", arguments))
        # The server is still there, and the table too.
        assert answered(await client.call_tool("list_nodes"))["status"] == "ok"

    served(standard.dsn("inspector"), act)
    assert standard.cluster.value("SELECT count(*) FROM app.orders") == 60_000


def test_tool_that_is_not_there_is_an_error_of_the_protocol(standard: Standard) -> None:
    async def act(client: Client) -> None:
        with pytest.raises(MCPError, match="there is no tool 'run_sql'"):
            await client.call_tool("run_sql", {"sql": "SELECT 1"})

    served(standard.dsn("inspector"), act)


def test_walk_by_cursor_gives_every_row_once(standard: Standard) -> None:
    walked: list[tuple[int, int]] = []

    async def act(client: Client) -> None:
        arguments: dict[str, Any] = {"limit": 7}
        while True:
            envelope = answered(await client.call_tool("list_shards", arguments))
            walked.extend((row["shardid"], row["placementid"]) for row in envelope["rows"])
            if envelope["next_cursor"] is None:
                return
            arguments["cursor"] = envelope["next_cursor"]

    served(standard.dsn("inspector"), act)
    assert len(walked) == len(set(walked))
    assert set(walked) == set(standard.cluster.rows("SELECT shardid, placementid FROM pg_dist_placement"))


def test_many_calls_at_once_are_all_answered_by_few_connections(standard: Standard) -> None:
    seen: list[int] = []
    # Within its transaction: a session that came before may be ending still.
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'harness inspect' AND xact_start IS NOT NULL"
    )

    async def act(client: Client) -> None:
        statuses: list[str] = []

        async def ask() -> None:
            statuses.append(answered(await client.call_tool("citus_cluster_summary"))["status"])

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(ask)
            while len(statuses) < 12:
                seen.append(await anyio.to_thread.run_sync(standard.cluster.value, count))
                await anyio.sleep(0.005)
        assert statuses == ["ok"] * 12

    served(standard.dsn("inspector"), act)
    assert 1 <= max(seen) <= 2


def test_tenants_are_hashed_and_shown_only_where_the_operator_allows_it(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(settings={"citus.stat_tenants_track": "all", "citus.stat_tenants_period": "3600"})
    cluster.sql("CREATE TABLE orders (tenant text, id bigint)")
    cluster.sql("SELECT create_distributed_table('orders', 'tenant', shard_count := 4)")
    for _ in range(5):
        cluster.rows("SELECT * FROM orders WHERE tenant = 'ACME Secret Ltd'")
    dsn = cluster.coordinator.dsn()

    async def ask(client: Client) -> None:
        found = answered(await client.call_tool("citus_tenant_hotspots"))
        assert found["status"] == "ok"
        assert len(found["rows"]) == 1
        assert "ACME Secret Ltd" not in json.dumps(found)
        words = refused(await client.call_tool("citus_tenant_hotspots", {"reveal_tenants": True}))
        assert "not offered by this server" in words

    async def reveal(client: Client) -> None:
        found = answered(await client.call_tool("citus_tenant_hotspots", {"reveal_tenants": True}))
        assert [row["tenant"] for row in found["rows"]] == ["ACME Secret Ltd"]

    assert "ACME" not in served(dsn, ask, key="a key")
    served(dsn, reveal, "--reveal-tenants", key="a key")


def test_server_survives_a_coordinator_that_goes_and_comes_back(make_cluster: MakeCluster) -> None:
    coordinator = make_cluster().coordinator
    password = coordinator.password

    async def act(client: Client) -> None:
        assert answered(await client.call_tool("list_nodes"))["status"] == "ok"
        await anyio.to_thread.run_sync(coordinator.stop)
        words = refused(await client.call_tool("list_nodes"))
        assert "no connection to" in words
        assert password not in words
        await anyio.to_thread.run_sync(coordinator.start)
        assert answered(await client.call_tool("list_nodes"))["status"] == "ok"

    assert password not in served(coordinator.dsn(), act)


def test_frozen_worker_gives_a_partial_answer_with_its_name_in_time(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    frozen, name = cluster.workers[0], worker_name(cluster, 1)

    async def act(client: Client) -> None:
        with anyio.fail_after(20):
            envelope = answered(await client.call_tool("list_nodes"))
        assert (envelope["status"], envelope["reason"]) == ("partial", "node_unreachable")
        assert [each["node"] for each in envelope["nodes"]["failed"]] == [name]

    frozen.freeze()
    try:
        served(cluster.coordinator.dsn(), act)
    finally:
        frozen.thaw()


def test_call_that_is_given_up_does_not_hold_up_the_next(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    frozen = cluster.workers[0]

    async def act(client: Client) -> None:
        with anyio.move_on_after(0.2) as given_up:
            await client.call_tool("citus_health_report")
        assert given_up.cancelled_caught
        with anyio.fail_after(20):
            words = refused(await client.call_tool("list_shards", {"limit": 0}))
        assert "limit=0 cannot be used" in words
        # What was given up ends by itself, and the server stays.
        assert answered(await client.call_tool("list_nodes"))["status"] == "partial"

    frozen.freeze()
    try:
        assert served(cluster.coordinator.dsn(), act) == ""
    finally:
        frozen.thaw()


def test_answer_of_many_shards_is_bounded_and_says_that_there_is_more(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    # What takes most in an answer: a quotation mark is two bytes in JSON, and four in JSON within JSON.
    name = '"' * 63
    cluster.sql(sql.SQL("CREATE TABLE {} (id bigint)").format(sql.Identifier(name)))
    cluster.sql(
        sql.SQL("SELECT create_distributed_table({}, 'id', shard_count := 1200)").format(
            sql.Literal(sql.Identifier(name).as_string())
        ),
        deadline_s=120,
    )
    walked: list[int] = []
    sizes: list[int] = []

    async def act(client: Client) -> None:
        arguments: dict[str, Any] = {"limit": 1000}
        while True:
            result = await client.call_tool("list_shards", arguments)
            envelope = answered(result)
            sizes.append(len(result.model_dump_json(by_alias=True, exclude_none=True).encode()))
            walked.extend(row["shardid"] for row in envelope["rows"])
            assert envelope["truncated"] == (envelope["next_cursor"] is not None)
            if not envelope["truncated"]:
                return
            arguments["cursor"] = envelope["next_cursor"]

    served(cluster.coordinator.dsn(), act)
    assert len(sizes) > 1
    # The whole result, text and structure; what the protocol puts around it is less than a hundred bytes.
    assert 150 * 1024 < max(sizes) < 256 * 1024 - 100
    assert walked == sorted(shard for (shard,) in cluster.rows("SELECT shardid FROM pg_dist_shard"))


def test_client_that_goes_away_ends_the_server(standard: Standard) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "mcp"],
        env=environment(standard.dsn("inspector")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            out, errors = process.communicate(b"", timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert (process.returncode, out, errors) == (0, b"", b"")


def test_tools_are_listed_without_a_database() -> None:
    nowhere = "host=127.0.0.1 port=1 user=x dbname=x password=hidden"

    async def act(client: Client) -> None:
        assert len((await client.list_tools()).tools) == len(registry.names())
        words = refused(await client.call_tool("list_nodes"))
        assert "no connection to" in words
        assert "hidden" not in words

    assert "hidden" not in served(nowhere, act)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no cluster is named"),
        (["--cluster", "nobody-s"], "no cluster named"),
        (["--dsn", "x y"], "cannot be read"),
    ],
)
def test_bad_place_is_told_before_anything_is_served(arguments: list[str], words: str) -> None:
    done = spawn("mcp", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path) -> None:
    # An environment in which the package is not: what is imported first, fails.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('mcp', 'mcp_types'):\n    sys.modules[name] = None\n"
    )
    place = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    done = spawn("mcp", "--dsn", "host=x dbname=x", extra=place)
    assert (done.code, done.out) == (3, "")
    assert "harness mcp needs the package mcp" in done.err
    assert "pip install 'pgtrickle-citus-harness[mcp]'" in done.err
    # Nothing else needs it.
    assert spawn("inspect", "list_nodes", "--help", extra=place).code == 0


def test_secrets_that_were_planted_come_out_of_no_tool(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(
        settings={
            "shared_preload_libraries": "citus, pg_stat_statements",
            "citus.stat_statements_track": "all",
            "citus.stat_tenants_track": "all",
            "max_prepared_transactions": "10",
        }
    )
    planted = {name: f"Planted{name}Zq7" for name in ("authinfo", "password", "tenant", "literal", "comment")}
    cluster.sql("CREATE EXTENSION pg_stat_statements")
    cluster.sql("CREATE TABLE t (tenant text, id bigint, note text)")
    cluster.sql("SELECT create_distributed_table('t', 'tenant', shard_count := 4)")
    cluster.sql(sql.SQL("INSERT INTO t VALUES ({}, 1, {})").format(planted["tenant"], planted["literal"]))
    cluster.sql(sql.SQL("CREATE ROLE somebody PASSWORD {}").format(planted["password"]))
    for node in cluster.nodes:
        node.sql(
            sql.SQL("INSERT INTO pg_catalog.pg_dist_authinfo VALUES (0, 'somebody', {})").format(
                sql.Literal(f"password={planted['authinfo']}")
            )
        )
    cluster.rows(sql.SQL("SELECT * FROM t WHERE tenant = {}").format(planted["tenant"]))
    outputs: list[str] = []

    async def act(client: Client) -> None:
        for tool in (await client.list_tools()).tools:
            needed = {"schema": "public", "table": "t"}
            arguments = {name: needed[name] for name in tool.input_schema.get("required", ())}
            properties = tool.input_schema["properties"]
            # Everything that can be switched on, is.
            arguments |= {name: True for name, each in properties.items() if each.get("type") == "boolean"}
            arguments |= {name: "truncated" for name, each in properties.items() if "truncated" in each.get("enum", ())}
            result = await client.call_tool(tool.name, arguments)
            outputs.append(f"{tool.name} {result.content} {result.structured_content}")

    with cluster.coordinator.connect(autocommit=False) as busy:
        busy.execute(
            sql.SQL("SELECT {}, * FROM t WHERE tenant = {} /* {} */").format(
                planted["literal"],
                planted["tenant"],
                sql.SQL("comment " + planted["comment"]),
            )
        )
        outputs.append(served(cluster.coordinator.dsn(), act, key="a key"))
    assert len(outputs) == len(registry.names()) + 1
    assert any("SELECT" in each for each in outputs)
    leaks = [(name, each[:60]) for name, secret in planted.items() for each in outputs if secret in each]
    assert leaks == []
