"""Chaos runs as a JSON document (harness/report/schema/chaos-1.json), as text for a terminal, as a job's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from harness import __version__
from harness.chaos.model import SCHEMA, Done, Plan, Recovery, RunResult, Trouble
from harness.logs import redact
from harness.report.markdown import Column, Problem, Summary, Table, render
from harness.report.text import finite, show_count, show_s, visible, without_surrogates

CODES = ("lost", "doubled", "phantom", "altered")
_SHOWN = 12


def describe_runs(results: Sequence[RunResult]) -> str:
    """The verdict in a sentence that claims nothing that was not run."""
    total, failed = len(results), [result.plan.seed for result in results if not result.passed]
    acknowledged, unknown = sum(each.acknowledged for each in results), sum(each.unknown for each in results)
    parts = [f"{total - len(failed)} of {show_count(total, 'run')} passed"]
    parts += [f"seeds that failed: {', '.join(map(str, failed[:20]))}"] if failed else []
    parts += [f"{acknowledged:,} transactions acknowledged, {unknown:,} left open by cuts"]
    parts += [", ".join(f"{sum(each.count(code) for each in results):,} {code}" for code in CODES)]
    where = "; one PostgreSQL server, no cluster" if any(each.missing for each in results) else ""
    return "; ".join(parts) + where


def command_of(result: RunResult) -> str:
    """The command that repeats one run."""
    plain = " --plain" if not result.plan.has_citus else ""
    return f"harness chaos --seconds {result.plan.seconds:g} --seed {result.plan.seed}{plain}"


def to_chaos_document(results: Sequence[RunResult], command: str) -> dict[str, Any]:
    """The runs as a JSON document: sums over all of them, and each by its seed.

    Args:
        results: one or more.
        command: the command that repeats them.
    """
    first = results[0]
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": all(result.passed for result in results),
        "verdict": describe_runs(results),
        "seed": first.plan.seed,
        "seconds": finite(first.plan.seconds),
        "run_count": len(results),
        "failed_seeds": [result.plan.seed for result in results if not result.passed],
        "command": _text(command),
        "missing": _text(first.missing),
        "kept": _text(first.kept),
        "facts": {name: _text(value) for name, value in first.facts.items()},
        **_counts(results),
        "faults": [fault for result in results for fault in _faults(result)],
        "stream_tables": [
            {
                "seed": result.plan.seed,
                "name": _text(each.name),
                "rows": each.row_count,
                "is_equal": each.is_equal,
                "detail": _text(each.detail),
            }
            for result in results
            for each in result.stream_tables
        ],
        "refreshes": _sum(result.refreshes for result in results),
        "refresh_failures": _sum(result.refresh_failures for result in results),
        "write_errors": _sum(result.write_errors for result in results),
        "examples": {name: _text(words) for result in results for name, words in result.examples.items()},
        "recovery_s": {
            kind: {"after_begin": finite(each.after_begin_s, 3), "after_end": finite(each.after_end_s, 3)}
            for kind, each in longest_recoveries(results).items()
        },
        "runs": [_run(result) for result in results],
    }


def _counts(results: Sequence[RunResult]) -> dict[str, int]:
    return {
        "acknowledged": sum(result.acknowledged for result in results),
        "unknown": sum(result.unknown for result in results),
        "unknown_committed": sum(result.unknown_committed for result in results),
        "retried": sum(result.retried for result in results),
        "rolled_back": sum(result.rolled_back for result in results),
        "rows": sum(result.row_count for result in results),
        **{code: sum(result.count(code) for result in results) for code in CODES},
    }


def _faults(result: RunResult) -> list[dict[str, Any]]:
    return [_fault(result.plan.seed, done) for done in result.done]


def _fault(seed: int, done: Done) -> dict[str, Any]:
    return {
        "seed": seed,
        "lane": done.step.lane.value,
        "kind": done.step.kind,
        "target": _text(done.target),
        "at": finite(done.at_s, 3),
        "until": finite(done.until_s, 3),
        "outcome": done.outcome,
        "detail": _text(done.detail),
    }


def _run(result: RunResult) -> dict[str, Any]:
    return {
        "seed": result.plan.seed,
        "passed": result.passed,
        "command": command_of(result),
        **_counts([result]),
        "troubles": [_trouble(trouble) for trouble in result.troubles],
        "notes": [_text(note) for note in result.notes],
        "elapsed_s": finite(result.elapsed_s, 3),
        "start_s": finite(result.start_s, 3),
        "settle_s": finite(result.settle_s, 3),
    }


def _trouble(trouble: Trouble) -> dict[str, str]:
    return {"code": trouble.code, "subject": _text(trouble.subject), "detail": _text(trouble.detail)}


def longest_recoveries(results: Iterable[RunResult]) -> dict[str, Recovery]:
    """The longest of all runs, by kind of fault."""
    found: dict[str, Recovery] = {}
    for result in results:
        for kind, each in result.recoveries.items():
            before = found.get(kind, each)
            found[kind] = Recovery(
                max(before.after_begin_s, each.after_begin_s), max(before.after_end_s, each.after_end_s)
            )
    return dict(sorted(found.items()))


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(each) for each in counts), Counter[str]()).items()))


def _text(text: str) -> str:
    return without_surrogates(redact(text))


def plan_document(plan: Plan) -> dict[str, Any]:
    """What a seed determines, as a JSON document."""
    return {
        "schema": f"{SCHEMA}/plan",
        "passed": True,
        "seed": plan.seed,
        "seconds": finite(plan.seconds),
        "has_citus": plan.has_citus,
        "has_links": plan.has_links,
        "steps": [
            {
                "lane": step.lane.value,
                "at": step.at_s,
                "kind": step.kind,
                "lasts": step.lasts_s,
                "chance": step.chance,
            }
            for step in plan.steps
        ],
    }


def print_plan(plan: Plan, console: Console) -> None:
    """The plan as a table."""
    links = ", workers behind proxies" if plan.has_links else ""
    title = f"seed {plan.seed}, {plan.seconds:g} s, {'a cluster' if plan.has_citus else 'one server'}{links}"
    grid = Grid("at", "lane", "what", "for", title=title, title_justify="left", box=None)
    for step in plan.steps:
        grid.add_row(f"{step.at_s:.2f}", step.lane.value, step.kind, f"{step.lasts_s:.2f}")
    console.print(grid)


def print_chaos(results: Sequence[RunResult], console: Console) -> None:
    """What was done, what failed and the command that repeats it, and the verdict."""
    for result in results:
        if len(results) == 1:
            _print_done(result, console)
        if not result.passed:
            for words in _problems_of(result):
                head = (f"seed {result.plan.seed}: ", "bold red")
                console.print(Text.assemble(head, visible(words, multiline=True)), soft_wrap=True)
            console.print(Text.assemble(("to repeat it: ", "bold"), command_of(result)), soft_wrap=True)
        if result.kept:
            console.print(Text.assemble(("kept: ", "bold"), visible(result.kept, multiline=True)), soft_wrap=True)
    if results[0].missing:
        console.print(Text.assemble(("no cluster: ", "yellow"), visible(results[0].missing)), soft_wrap=True)
    passed = all(result.passed for result in results)
    word, style = ("PASSED", "green") if passed else ("FAILED", "red")
    console.print(Panel(Text.assemble((word, f"bold {style}"), "\n", describe_runs(results)), border_style=style))


def _print_done(result: RunResult, console: Console) -> None:
    grid = Grid("from", "until", "lane", "what", "to whom", "outcome", box=None)
    for done in result.done:
        outcome = visible(f"{done.outcome} ({done.detail})" if done.detail else done.outcome)
        grid.add_row(
            f"{done.at_s:.1f}",
            f"{done.until_s:.1f}",
            done.step.lane.value,
            done.step.kind,
            Text(visible(done.target)),
            Text(outcome),
        )
    console.print(grid)


def _problems_of(result: RunResult) -> list[str]:
    found = [f"{trouble.code}: {trouble.subject}: {trouble.detail}" for trouble in result.troubles[:_SHOWN]]
    more = len(result.troubles) - _SHOWN
    found += [f"and {more} more"] if more > 0 else []
    found += [f"{each.name} is not its query: {each.detail}" for each in result.stream_tables if not each.is_equal]
    return found


def chaos_markdown(results: Sequence[RunResult], command: str) -> str:
    """The runs for a job's page.

    Args:
        results: one or more.
        command: the command that repeats them.
    """
    problems = [
        Problem(words, subject=f"seed {result.plan.seed}", hint=command_of(result))
        for result in results
        if not result.passed
        for words in _problems_of(result)
    ]
    columns = (
        Column("seed", is_number=True),
        Column("verdict"),
        Column("acknowledged", is_number=True),
        Column("open", is_number=True),
        *(Column(code, is_number=True) for code in CODES),
        Column("took", is_number=True),
    )
    rows = tuple(
        (
            str(result.plan.seed),
            "passed" if result.passed else "failed",
            f"{result.acknowledged:,}",
            f"{result.unknown:,}",
            *(f"{result.count(code):,}" for code in CODES),
            show_s(result.elapsed_s),
        )
        for result in results
    )
    return render(
        Summary(
            title="harness chaos",
            outcome="passed" if all(result.passed for result in results) else "failed",
            verdict=describe_runs(results),
            problems=tuple(problems),
            tables=(Table("Runs", columns, rows),),
            notes=tuple(f"{name}: {value}" for name, value in results[0].facts.items()),
            command=command,
        )
    )
