"""``harness bench``: what capture and refresh cost on this machine, as ratios; results compared, kept and drawn."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.bench.answer import answer_plan
from harness.bench.compare import DEFAULT_MARGIN, compare, compare_markdown, to_compare_document
from harness.bench.document import load_result, to_document
from harness.bench.keep import STORE, find_place, keep_ratios, load_ratios, named_place
from harness.bench.model import BenchResult, Profile
from harness.bench.registry import GROUPS, choose_groups
from harness.bench.run import Clock, run_bench
from harness.bench.terminal import print_bench, print_comparison, show_bench_progress
from harness.cli.options import Json
from harness.cli.summary import SummaryFile, errors_told_in, require_place, write_summary
from harness.errors import EXIT_CHECK_FAILED, BadInputError, EnvironmentMissingError
from harness.report.document import dump_document
from harness.report.write import write_file

app = typer.Typer(help="What capture and refresh cost here, as ratios measured in one run.", no_args_is_help=True)

_HTML_HELP = "Write a page."


@app.command(name="run")
def run(
    groups: Annotated[
        list[str] | None, typer.Argument(metavar="[GROUP]...", help="Only these; see harness bench list.")
    ] = None,
    *,
    profile: Annotated[
        Profile, typer.Option(help="How long it may take: below 50 s, below ten minutes, or all there is.")
    ] = Profile.STANDARD,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|containers", help="What the cluster is made of; default HARNESS_CLUSTER, else local."
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="One PostgreSQL server also where there is Citus.")] = False,
    as_json: Json = False,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="NAME", help=f"Keep the result in {STORE}/NAME.json, for compare.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON document.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help=_HTML_HELP)] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit file.")] = None,
    summary: SummaryFile = None,
) -> None:
    """Measure groups of benchmarks on servers of their own; each answer that is timed is also checked.

    Goals that are not met fail nothing: they are shown. What broke a run off is kept with what was found before it.

    Exit codes: 0 passed, 1 an answer was wrong, 2 bad input, 3 the environment, or a group broke off.
    """
    chosen = choose_groups(groups or [], profile)
    kept = named_place(keep) if keep is not None else None
    for option, path in (("--out", out), ("--html", html), ("--junit", junit), ("--summary", summary)):
        require_writable(option, path)
    _make_store(kept)
    errors = Console(stderr=True, highlight=False)
    with errors_told_in(summary, "harness bench"):
        require_extra("numpy", *(["matplotlib"] if html is not None else []))
        clock = Clock(chosen, profile)
        with show_bench_progress(errors, clock) as on_moment:
            done = run_bench(chosen, profile, cluster=cluster, is_plain=plain, on_moment=on_moment, clock=clock)
    command = command_to_repeat(groups or [], profile, cluster, is_plain=plain)
    document = dump_document(to_document(done.result, command)).encode()
    places = [(path, option) for path, option in ((out, "--out"), (kept, "--keep")) if path is not None]
    for path, option in places:
        write_file(path, document, option=option)
    if html is not None:
        _write_page(html, done.result, command)
    if junit is not None or summary is not None:
        _write_reports(junit, summary, done.result, command)
    if as_json:
        _print(document)
    written = [path for path in (out, kept, html, junit) if path is not None]
    print_bench(done.result, answer_plan(done.result), written, errors if as_json else Console(highlight=False))
    if done.exit_code:
        raise typer.Exit(done.exit_code)


@app.command(name="compare")
def compare_results(
    before: Annotated[str, typer.Argument(metavar="A", help="A file, a name given to --keep, or kept ratios.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same, measured later.")],
    *,
    margin: Annotated[
        float, typer.Option("--margin", metavar="PERCENT", help="Worse by no more than that does not fail.")
    ] = DEFAULT_MARGIN,
    as_json: Json = False,
    summary: SummaryFile = None,
) -> None:
    """Say of each ratio that both have whether it is better, worse, or within the noise; times are not compared.

    Noise is what the intervals overlap in. Other machines, versions or profiles are named.

    Exit codes: 0 nothing is worse beyond the margin, 1 something is or B did not pass, 2 bad input.
    """
    require_place("--summary", summary)
    with errors_told_in(summary, "harness bench compare"):
        found = compare(load_ratios(find_place(before)), load_ratios(find_place(after)), margin_percent=margin)
    write_summary(summary, compare_markdown(found, shlex.join(["harness", "bench", "compare", before, after])))
    if as_json:
        _print(dump_document(to_compare_document(found)).encode())
    print_comparison(found, Console(stderr=as_json, highlight=False))
    if not found.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


@app.command(name="report")
def report(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A result, by its file or the name given to --keep.")],
    *,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help=_HTML_HELP)] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write all of it as Markdown, for a repository.")
    ] = None,
) -> None:
    """Write the page of a result: one HTML file with its drawings inside, which loads nothing; or Markdown."""
    if html is None and markdown is None:
        raise BadInputError("nothing to write was named", hint="--html FILE or --markdown FILE")
    require_writable("--html", html)
    require_writable("--markdown", markdown)
    result, command = load_result(find_place(file))
    if html is not None:
        require_extra("matplotlib")
        _write_page(html, result, command)
        typer.echo(str(html))
    if markdown is not None:
        from harness.bench.results import to_results  # noqa: PLC0415 - as below

        write_file(markdown, to_results(result, command).encode(), option="--markdown")
        typer.echo(str(markdown))


@app.command(name="keep")
def keep_results(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Results of one profile and one machine.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to, such as benchmarks/kept/smoke.json.")],
) -> None:
    """Make kept ratios from several runs: the median of each, and how far the runs were apart, which is the noise."""
    require_writable("--out", out)
    command = shlex.join(["harness", "bench", "keep", *files, "--out", str(out)])
    document = keep_ratios([find_place(file) for file in files], command)
    write_file(out, dump_document(document).encode(), option="--out")
    typer.echo(f"{out}: {len(document['ratios'])} ratios of {document['runs']} runs")


@app.command(name="list")
def list_groups(*, as_json: Json = False) -> None:
    """The groups, what they measure, and about how long they take on two cores, by profile."""
    if as_json:
        listed = [
            {
                "name": group.name,
                "title": group.title,
                "needs_citus": group.needs_citus,
                "seconds": {profile.value: seconds for profile, seconds in group.seconds.items()},
            }
            for group in GROUPS
        ]
        typer.echo(json.dumps({"schema": "harness/bench-list/1", "groups": listed}))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("group", "what it measures"):
        table.add_column(name, header_style="dim")
    for profile in Profile:
        table.add_column(f"{profile.value}, s", justify="right", header_style="dim")
    for group in GROUPS:
        seconds = [f"{group.seconds[profile]:g}" if profile in group.seconds else "\u2013" for profile in Profile]
        table.add_row(group.name, group.title + (" (needs Citus)" if group.needs_citus else ""), *seconds)
    sums = [f"{sum(group.seconds.get(profile, 0) for group in GROUPS):g}" for profile in Profile]
    table.add_row("all", "", *sums, style="bold")
    Console(highlight=False).print(table)


def require_extra(*modules: str) -> None:
    """Before anything long begins: what the extra ``bench`` brings is there.

    Raises:
        EnvironmentMissingError: it is not; names what is missing.
    """
    missing = [name for name in modules if not _is_there(name)]
    if missing:
        raise EnvironmentMissingError(
            f"harness bench needs {' and '.join(missing)}, which this installation does not have",
            hint="pip install 'pgtrickle-citus-harness[bench]'",
        )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # what stands in its place in sys.modules is no module
        return False


def require_writable(option: str, path: Path | None) -> None:
    """Before anything long begins: a file can be written there.

    Raises:
        BadInputError: it cannot; names the option and the path.
    """
    require_place(option, path)
    if path is None:
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadInputError(
            f"{option} {path} cannot be written: {error.strerror}", hint="name a file where you may write"
        ) from None


def command_to_repeat(groups: list[str], profile: Profile, cluster: str | None, *, is_plain: bool) -> str:
    """The command line that repeats a run; an address may hold a password, so it is not told."""
    words = ["harness", "bench", "run", *groups, "--profile", profile.value]
    words += ["--cluster", cluster] if cluster in ("local", "containers") else []
    return shlex.join([*words, *(["--plain"] if is_plain else [])])


def _make_store(kept: Path | None) -> None:
    if kept is None:
        return
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"--keep: {kept.parent} cannot be made: {error.strerror}", hint="use --out, or another directory"
        ) from None
    require_writable("--keep", kept)


def _write_page(path: Path, result: BenchResult, command: str) -> None:
    from harness.bench.page import to_bench_page  # noqa: PLC0415 - only who wants a page waits for its libraries

    write_file(path, to_bench_page(result, command).encode(), option="--html")


def _write_reports(junit: Path | None, summary: Path | None, result: BenchResult, command: str) -> None:
    from harness.bench.junit import bench_markdown, to_bench_junit  # noqa: PLC0415

    if junit is not None:
        write_file(junit, to_bench_junit(result, command), option="--junit")
    if summary is not None:
        write_summary(summary, bench_markdown(result, command))


def _print(document: bytes) -> None:
    sys.stdout.buffer.write(document)
    sys.stdout.buffer.flush()
