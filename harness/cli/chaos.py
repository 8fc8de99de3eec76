"""``harness chaos``: everything at once for some seconds, and afterwards every row is accounted for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from harness.chaos.document import (
    chaos_markdown,
    plan_document,
    print_chaos,
    print_plan,
    to_chaos_document,
)
from harness.chaos.model import Options, RunResult
from harness.chaos.plan import make_plan
from harness.chaos.run import choose_maker, run_chaos
from harness.cli.summary import SummaryFile, errors_told_in, require_place, write_summary
from harness.errors import EXIT_CHECK_FAILED
from harness.report.document import dump_document


def chaos(
    *,
    seconds: Annotated[float, typer.Option("--seconds", help="How long everything goes on at once.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", help="What determines faults, changes and values.")] = 0,
    runs: Annotated[int, typer.Option("--runs", help="So many runs, with the seeds that follow.")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="One PostgreSQL server also where there is Citus.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|containers", help="What the cluster is made of; default HARNESS_CLUSTER, else local."
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan of the seed, and run nothing.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running for a look.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")] = False,
    summary: SummaryFile = None,
) -> None:
    """Writers, refreshes, a scheduler, DDL, moves and faults at once, on a cluster of its own; then the reckoning.

    Nothing that was acknowledged may be lost, nothing be there twice, and every stream table has to be its query.

    Exit codes: 0 passed, 1 something was lost, doubled, unequal or not expected, 2 bad input, 3 the environment.
    """
    options = Options(seconds, seed, runs, plain, cluster, keep)
    options.check()
    require_place("--summary", summary)
    errors = Console(stderr=True, highlight=False)
    if plan:
        planned = make_plan(seed, seconds, has_citus=choose_maker(options)[0] is not None)
        if as_json:
            _write(dump_document(plan_document(planned)))
        else:
            print_plan(planned, Console(highlight=False))
        return
    command = _command(options, as_json=as_json)
    results: list[RunResult] = []
    with errors_told_in(summary, "harness chaos"), errors.status("starting the servers") as status:
        for result in run_chaos(options, lambda words: status.update(Text(words))):
            results.append(result)
            verdict = "passed" if result.passed else "FAILED"
            errors.print(
                f"seed {result.plan.seed}: {verdict}, {result.acknowledged:,} acknowledged, {result.elapsed_s:.1f} s"
            )
    write_summary(summary, chaos_markdown(results, command))
    if as_json:
        _write(dump_document(to_chaos_document(results, command)))
    print_chaos(results, errors if as_json else Console(highlight=False))
    if not all(result.passed for result in results):
        raise typer.Exit(EXIT_CHECK_FAILED)


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _command(options: Options, *, as_json: bool) -> str:
    """The command line that repeats it; an address may hold a password, so it is not told."""
    words = f"harness chaos --seconds {options.seconds:g} --seed {options.seed}"
    words += f" --runs {options.runs}" if options.runs > 1 else ""
    words += " --plain" if options.is_plain else ""
    words += f" --cluster {options.cluster}" if options.cluster in ("local", "containers") else ""
    return words + (" --json" if as_json else "")
