"""``harness demo``: in 20 seconds, what a stream table is and what it costs beside recomputing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.cli.database import refused_in_words
from harness.cli.demo_story import NAME, QUERY, Changes, Cost, Round, Story, TableFacts
from harness.cli.stream_tables_text import as_json, explanation, line, sql_text
from harness.cli.stream_tables_text import refresh as refresh_text
from harness.clusters import Provider, choose_provider
from harness.errors import EXIT_CHECK_FAILED, EXIT_GOOD, CheckFailedError, EnvironmentMissingError
from harness.errors import UnsupportedVersionError as UnsupportedError
from harness.postgres import temporary_server
from harness.report.text import show_ms, visible
from harness.settings import load_settings
from harness.trickle.oracle import Difference

SCHEMA = "harness/demo/1"
# Half a million orders load in a second or two; recomputing them is then slow enough for its cost to be seen.
DEFAULT_ROWS = 500_000
WORKERS = 2


class Where(StrEnum):
    """What the demonstration runs on."""

    AUTO = "auto"
    CITUS = "citus"
    PLAIN = "plain"


@dataclass(frozen=True)
class Stage:
    """The server or cluster that the story plays on.

    Attributes:
        dsn: of its coordinator, or of the server.
        versions: for people.
        nodes: by name.
        why_plain: why it is no cluster; empty if it is one.
    """

    dsn: str
    versions: str
    nodes: tuple[str, ...]
    why_plain: str = ""


def _citus(where: Where) -> tuple[Provider | None, str]:
    """Who makes a cluster, or why there is none."""
    if where is Where.PLAIN:
        return None, "asked for with --on plain"
    try:
        return choose_provider(), ""
    except (EnvironmentMissingError, UnsupportedError, CheckFailedError) as error:
        if where is Where.CITUS or load_settings().cluster:
            raise
        return None, error.message


@contextmanager
def _stage(where: Where) -> Iterator[Stage]:
    provider, why = _citus(where)
    if provider is None:
        with temporary_server(name="demo") as server:
            yield Stage(server.dsn(), f"PostgreSQL {server.installation.version}", ("server",), why)
        return
    with provider.connect(workers=WORKERS) as cluster:
        versions = f"Citus {provider.citus_version} on PostgreSQL {provider.postgres_version}, {provider.label}"
        with cluster.temporary_database("harness_demo") as view:
            yield Stage(view.coordinator.dsn(), versions, tuple(node.name for node in view.nodes))


class _Stage:
    """Prints for people as the story goes; silent for machines."""

    def __init__(self, *, is_silent: bool) -> None:
        self._console = Console(highlight=False, soft_wrap=True, quiet=is_silent)
        self._number = 0

    def chapter(self, title: str) -> None:
        """A heading."""
        self._number += 1
        self._console.print()
        self._console.print(Rule(f"{self._number}. {title}", align="left", style="dim"))

    def say(self, *things: RenderableType) -> None:
        """Text, tables, statements."""
        for each in things:
            self._console.print(each)


def _tables(found: Sequence[TableFacts]) -> Table:
    table = Table("table", "rows", "where", "shards on its nodes", box=None)
    for each in found:
        shards = " + ".join(str(count) for count in each.shards_by_node.values()) or "none"
        table.add_row(each.name, f"{each.rows:,}", Text(each.placement, no_wrap=True), shards)
    return table


def _top(rows: Sequence[tuple[Any, ...]]) -> RenderableType:
    table = Table("customer", "orders", "spent", box=None)
    for customer, orders, spent in rows:
        table.add_row(str(customer), f"{orders:,}", f"{spent:,}")
    return Padding(table, (0, 0, 0, 2))


def _changes(changes: Changes, pending: int) -> Text:
    lines = [f"  {count:>6,} rows  {statement}" for statement, count in changes.statements]
    return Text("\n".join([*lines, f"  {pending:,} captured rows wait; nobody had to wait for them"]))


def _cost(cost: Cost) -> Text:
    found = Text(f"  a refresh     {show_ms(cost.refresh_ms):>10}\n  recomputing   {show_ms(cost.recompute_ms):>10}")
    found.append(f"\n  ratio         {cost.ratio:>9.1f}x", style="bold green" if cost.ratio > 1 else "bold red")
    found.append(
        f"\n  medians of {len(cost.rounds)} rounds, each with its own changes; recomputing is the bare query into a"
        " temporary table",
        style="dim",
    )
    return found


@dataclass(frozen=True)
class _Told:
    """All that came out, for JSON."""

    stage: Stage
    tables: tuple[TableFacts, ...]
    first: Round
    changes: Changes
    cost: Cost
    difference: Difference


def _tell(story: Story, stage: Stage, out: _Stage) -> tuple[_Told, dict[str, Any]]:
    out.chapter("Tables")
    tables = story.make_tables()
    out.say(_tables(tables))

    out.chapter("A stream table: a query whose result is kept")
    made, create_ms = story.create()
    kept = story.facts_of("totals")
    out.say(
        sql_text(QUERY), line("created", made), Text(f"  in {show_ms(create_ms)}"), _tables([kept]), _top(story.top())
    )

    out.chapter("Changes")
    changes = story.change()
    pending = story.pending()
    out.say(_changes(changes, sum(pending.values())))

    out.chapter("A refresh")
    found = story.explain()
    first = story.refresh()
    out.say(refresh_text(first.refresh), _top(story.top()))

    out.chapter("The SQL of its delta")
    out.say(*explanation(found))

    out.chapter("What it costs beside recomputing")
    cost = story.measure(first)
    out.say(_cost(cost))
    difference = story.check()
    verdict = Text("  the stream table equals its query, row for row", style="green")
    if not difference.is_equal:
        verdict = Text(f"  the stream table differs from its query: {visible(str(difference), multiline=True)}", "red")
    out.say(verdict)
    more = {
        "create_ms": round(create_ms, 2),
        "stream_table": as_json(made),
        "stream_table_placement": as_json(kept),
        "pending": as_json(pending),
        "explanation": as_json(found),
    }
    return _Told(stage, tables, first, changes, cost, difference), more


def _document(told: _Told, more: dict[str, Any], elapsed_s: float, start_s: float) -> dict[str, Any]:
    rounds = [
        {
            "refresh": as_json(each.refresh),
            "refresh_ms": round(each.refresh_ms, 2),
            "recompute_ms": round(each.recompute_ms, 2),
        }
        for each in (told.first, *told.cost.rounds)
    ]
    return {
        "schema": SCHEMA,
        "passed": told.difference.is_equal,
        "versions": told.stage.versions,
        "nodes": list(told.stage.nodes),
        "why_plain": told.stage.why_plain or None,
        "name": NAME,
        "query": QUERY,
        "tables": as_json(told.tables),
        **more,
        "changes": [{"statement": statement, "rows": rows} for statement, rows in told.changes.statements],
        "rounds": rounds,
        "refresh_ms": round(told.cost.refresh_ms, 2),
        "recompute_ms": round(told.cost.recompute_ms, 2),
        "ratio": round(told.cost.ratio, 2),
        "difference": as_json(told.difference),
        "start_s": round(start_s, 3),
        "elapsed_s": round(elapsed_s, 3),
    }


def demo(
    where: Annotated[
        Where, typer.Option("--on", help="auto: Citus where it is, else plain PostgreSQL.", case_sensitive=False)
    ] = Where.AUTO,
    rows: Annotated[int, typer.Option("--rows", min=1_000, max=20_000_000, help="Orders at the start.")] = DEFAULT_ROWS,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show a stream table at work, on servers that are started for it and thrown away.

    Exit codes: 0 good, 1 the stream table is not what its query returns, 3 the environment.
    """
    started = time.monotonic()
    out = _Stage(is_silent=as_json_)
    with _stage(where) as stage, refused_in_words("the demonstration"):
        start_s = time.monotonic() - started
        nodes = "1 server" if stage.why_plain else f"1 coordinator and {len(stage.nodes) - 1} workers"
        out.say(Text(f"{stage.versions}: {nodes}, ready in {start_s:.1f} s", style="bold"))
        if stage.why_plain:
            out.say(Text(f"no Citus here: {visible(stage.why_plain)}", style="yellow"))
        story = Story(stage.dsn, rows=rows)
        try:
            told, more = _tell(story, stage, out)
        finally:
            story.close()
    elapsed_s = time.monotonic() - started
    if as_json_:
        typer.echo(json.dumps(_document(told, more, elapsed_s, start_s)))
    else:
        out.say(Text(f"\n{elapsed_s:.1f} s in all; nothing is left behind", style="dim"))
    raise typer.Exit(EXIT_GOOD if told.difference.is_equal else EXIT_CHECK_FAILED)
