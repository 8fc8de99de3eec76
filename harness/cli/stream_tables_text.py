"""Stream tables on a terminal and in JSON: texts, tables and documents of ``harness st``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from harness.cli.sql_layout import INDENT, laid_out
from harness.report.text import show_ms, visible
from harness.trickle.catalog import Refresh, StreamTable
from harness.trickle.oracle import Difference
from harness.trickle.schedules import is_after, is_span
from harness.trickle.status import Status

if TYPE_CHECKING:
    # Loaded with the first stream table: a SQL parser takes its time.
    from harness.trickle import Explanation


_STYLES = {"ACTIVE": "green", "ERROR": "bold red", "SUSPENDED": "yellow"}
# What a document says of a stream table; the rest of the row is the engine's own.
_PUBLIC = (
    "pgt_id",
    "relid",
    "qualified",
    "schema",
    "name",
    "query",
    "original_query",
    "schedule",
    "mode",
    "status",
    "placement",
    "distribution_column",
    "is_populated",
    "needs_reinit",
    "last_refresh_at",
    "consecutive_errors",
    "suspended_reason",
)
_SIMPLE = re.compile(r'"([a-z_][a-z0-9_]*)"\."([a-z_][a-z0-9_]*)"')
_SQL_THEME = "ansi_dark"


def shown(qualified: str) -> str:
    """A quoted name, without quotes where it reads the same, and safe to print."""
    simple = _SIMPLE.fullmatch(qualified)
    return f"{simple[1]}.{simple[2]}" if simple else visible(qualified)


def as_json(value: Any) -> Any:
    """The same as JSON has it: dataclasses are objects with their fields, times are ISO 8601."""
    if isinstance(value, StreamTable):
        return {name: as_json(getattr(value, name)) for name in _PUBLIC}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return found | ({"is_equal": value.is_equal} if isinstance(value, Difference) else {})
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(each) for each in value]
    return value.isoformat() if isinstance(value, datetime) else value


def line(verb: str, table: StreamTable) -> Text:
    """One line about one stream table."""
    found = Text(f"{verb} ")
    found.append(shown(table.qualified), style="bold")
    placement = table.placement
    if table.distribution_column:
        placement += f" by {table.distribution_column}"
    schedule = schedule_text(table.schedule)
    found.append(f": {table.mode}, {visible(placement)}, {visible(schedule)}, ")
    found.append(table.status, style=_STYLES.get(table.status, ""))
    return found


def schedule_text(schedule: str | None) -> str:
    """A schedule in a sentence."""
    if schedule is None:
        return "no schedule"
    if is_after(schedule):
        return "after its sources"
    return f"every {schedule}" if is_span(schedule) else f"cron {schedule}"


def dropped(name: str) -> Text:
    """One line about what is gone."""
    return Text(f"dropped {visible(name)}")


def refresh(done: Refresh) -> Text:
    """What one refresh did."""
    found = Text(f"{shown(done.stream_table)}: ")
    found.append(done.action, style="bold")
    if done.action != "NO_DATA":
        found.append(
            f", {done.change_count} changes, {done.rows_inserted} rows in and {done.rows_deleted} out, {done.strategy}"
        )
    found.append(f", {show_ms(done.elapsed_ms)}")
    if done.reason:
        found.append(f"\n  {visible(done.reason)}")
    return found


def table_of(tables: Sequence[StreamTable]) -> RenderableType:
    """All stream tables, a row each."""
    if not tables:
        return Text("there are no stream tables; `harness st create NAME QUERY` makes one")
    found = Table("stream table", "status", "mode", "placement", "schedule", "last refresh", "errors", box=None)
    for each in tables:
        last = each.last_refresh_at.isoformat(" ", "seconds") if each.last_refresh_at else "never"
        placement = f"{each.placement} by {each.distribution_column}" if each.distribution_column else each.placement
        state = f"{each.status}, to be rebuilt" if each.needs_reinit else each.status
        found.add_row(
            Text(shown(each.qualified), style="bold"),
            Text(state, style=_STYLES.get(each.status, "")),
            each.mode,
            Text(visible(placement)),
            Text(visible(each.schedule or "none")),
            last,
            str(each.consecutive_errors),
        )
    return found


def status_of(found: Sequence[Status]) -> list[RenderableType]:
    """What waits, by source, and who holds it back."""
    if not found:
        return [table_of([])]
    lines: list[RenderableType] = []
    for each in found:
        lines.append(line("", each.stream_table))
        if each.stream_table.suspended_reason:
            lines.append(Text(f"  because: {visible(each.stream_table.suspended_reason)}", style="yellow"))
        if each.at_work:
            lines.append(Text(f"  at work: {visible(each.at_work)}"))
        for source, count in each.pending.items():
            lines.append(Text(f"  {count} captured rows of {shown(source)} wait"))
        if not sum(each.pending.values()):
            lines.append(Text("  nothing waits", style="dim"))
        for holder in each.held_by:
            held = Text("  held back ", style="yellow")
            held.append(
                f"on {visible(str(holder.node))} by pid {holder.pid}, {holder.state}, open for {holder.age_s:.0f} s:"
                f" {visible(holder.query)}"
            )
            lines.append(held)
    return lines


def watched(found: Sequence[Status], complaint: str = "") -> RenderableType:
    """One frame of ``status --watch``: a row a stream table, the reasons below, what hinders the look itself."""
    table = Table("stream table", "status", "schedule", "lag", "rows wait", "at work", "held back by", box=None)
    notes: list[RenderableType] = []
    for each in found:
        known = each.stream_table
        held = each.held_by[0] if each.held_by else None
        table.add_row(
            Text(shown(known.qualified), style="bold"),
            Text(known.status, style=_STYLES.get(known.status, "")),
            Text(visible(schedule_text(known.schedule))),
            "never filled" if each.lag_s is None else f"{each.lag_s:.1f} s",
            str(sum(each.pending.values())),
            Text(visible(each.at_work or "")),
            Text(f"{visible(held.node)} pid {held.pid}, {held.age_s:.0f} s" if held else "", style="yellow"),
        )
        if known.suspended_reason:
            notes.append(Text(f"{shown(known.qualified)}: {visible(known.suspended_reason)}", style="red"))
    if complaint:
        notes.append(Text(visible(complaint), style="bold red"))
    return Group(table if found or complaint else table_of([]), *notes)


def explanation(found: Explanation) -> list[RenderableType]:
    """The mode, why, each statement, what is pushed down."""
    head = Text(shown(found.stream_table), style="bold")
    head.append(f": {found.mode}", style="bold green" if found.mode == "DIFFERENTIAL" else "bold yellow")
    lines: list[RenderableType] = [head, Text(f"why: {visible(found.reason)}")]
    if found.strategy:
        lines.append(Text(f"how: {visible(found.strategy)}"))
    for purpose, statement in found.statements:
        lines += ["", Text(f"-- {visible(purpose)}", style="cyan"), sql_text(statement)]
    if found.pushdown:
        lines += ["", Text("pushed down:", style="cyan"), *(Text(f"  {visible(each)}") for each in found.pushdown)]
    lines += [Text(f"note: {visible(each)}", style="yellow") for each in found.notes]
    return lines


def sql_text(statement: str) -> Text:
    """A statement in colours, in lines that can be read; `--json` has it as it is."""
    lines = visible(laid_out(statement), multiline=True).rstrip().replace("\n", f"\n{INDENT}")
    code = Syntax("", "sql", theme=_SQL_THEME, background_color="default").highlight(INDENT + lines)
    code.rstrip()
    return code


def difference(name: str, found: Difference) -> Text:
    """Whether a stream table equals its query, and how it does not."""
    if found.is_equal:
        return Text(f"{visible(name)} equals its query", style="green")
    lines = Text(f"{visible(name)} differs from its query: ", style="red")
    lines.append(f"{found.missing} rows missing, {found.extra} extra", style="")
    for example in found.examples:
        lines.append(f"\n  {visible(example)}", style="")
    return lines
