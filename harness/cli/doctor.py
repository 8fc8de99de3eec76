"""``harness doctor``: what is here, what will be skipped, and how to get it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.clusters.docker import DockerLook
from harness.clusters.examination import EXTENSIONS_OF_NOTE, Examination, citus_state, examine
from harness.errors import EXIT_ENVIRONMENT, EXIT_GOOD
from harness.postgres.installations import Installation
from harness.settings import load_settings

SCHEMA = "urn:pgtrickle-citus-harness:doctor:1"


def _notable(installation: Installation) -> dict[str, str]:
    return {name: installation.extensions[name] for name in EXTENSIONS_OF_NOTE if name in installation.extensions}


def _installation_document(found: Examination, installation: Installation) -> dict[str, Any]:
    return {
        "bindir": str(installation.bindir),
        "origin": installation.origin,
        "version": installation.version,
        "is_supported": installation.is_supported,
        "citus_version": installation.citus_version,
        "extensions": _notable(installation),
        "is_chosen": installation is found.chosen,
        "is_chosen_for_clusters": installation is found.chosen_citus,
    }


def to_document(found: Examination) -> dict[str, Any]:
    """The examination as one JSON document."""
    docker = found.docker
    return {
        "schema": SCHEMA,
        "passed": found.can_rehearse,
        "harness": found.harness_version,
        "python": found.python_version,
        "system": found.system,
        "installations": [_installation_document(found, each) for each in found.installations],
        "citus": {"version": found.citus_version, "problem": found.citus_problem or None},
        "docker": {
            "client": docker.client,
            "python_package": docker.has_package,
            "daemon_version": docker.daemon_version,
            "problem": docker.problem or None,
            "image": load_settings().citus_image,
            "has_image": docker.has_image,
            "citus_images": list(docker.citus_images),
        },
        "servers_run_as": found.user.name if found.user else None,
        "run_dir": str(found.run_dir) if found.run_dir else None,
        "cache_dir": str(found.cache_dir) if found.cache_dir else None,
        "free_bytes": found.free_bytes,
        "problems": [{"message": each.message, "hint": each.hint} for each in found.problems],
        "skipped": [{"what": each.what, "why": each.why, "how_to_get": each.how_to_get} for each in found.skipped],
    }


def _installations_table(found: Examination) -> Table:
    table = Table(title="PostgreSQL, in the order of the search", title_justify="left")
    for column in ("version", "Citus", "used for"):
        table.add_column(column, no_wrap=True)
    table.add_column("where, found as, other extensions of note", overflow="fold")
    for each in found.installations:
        uses = [use for use, chosen in (("servers", found.chosen), ("clusters", found.chosen_citus)) if each is chosen]
        use = f"[green]{', '.join(uses)}[/]" if uses else "" if each.is_supported else "[red]not supported[/]"
        others = ", ".join(name for name in _notable(each) if not name.startswith("citus")) or "none"
        table.add_row(each.version, citus_state(each), use, escape(f"{each.bindir}\n{each.origin}; {others}"))
    return table


def _docker_text(docker: DockerLook) -> str:
    if docker.problem:
        return f"client {docker.client or 'missing'}; {docker.problem}"
    images = ", ".join(docker.citus_images) or "no image of Citus"
    return f"daemon {docker.daemon_version}; {images}"


def _machine_table(found: Examination) -> Table:
    table = Table(show_header=False, box=None)
    user = found.user
    servers_run_as = "nobody to run servers as" if user is None else user.name
    if user is not None and user.is_dropped_to:
        servers_run_as += " (dropped to, since this is root)"
    rows = (
        ("harness", f"{found.harness_version}, Python {found.python_version}, {found.system}"),
        ("servers run as", servers_run_as),
        ("servers live in", f"{found.run_dir or 'nowhere'}, {found.free_bytes // 2**20} MiB free"),
        ("Citus", found.citus_version or found.citus_problem),
        ("Docker", _docker_text(found.docker)),
    )
    for label, text in rows:
        table.add_row(label, escape(text))
    return table


def _print_report(found: Examination, console: Console) -> None:
    console.print(_machine_table(found))
    if found.installations:
        console.print(_installations_table(found))
    for skip in found.skipped:
        console.print(f"[yellow]skipped[/]: {escape(skip.what)}: {escape(skip.why)}")
        console.print(f"         to get it: {escape(skip.how_to_get)}")
    for problem in found.problems:
        console.print(f"[bold red]missing[/]: {escape(problem.message)}")
        if problem.hint:
            console.print(f"         {escape(problem.hint)}")
    verdict = "[bold green]the rehearsal can run here[/]" if found.can_rehearse else "[bold red]it cannot run here[/]"
    console.print(verdict)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Say what is here: PostgreSQL, Citus, Docker; what will be skipped and how to get it.

    Exit codes: 0 the rehearsal can run, 3 it cannot.
    """
    found = examine()
    if as_json:
        typer.echo(json.dumps(to_document(found), indent=2))
    else:
        _print_report(found, Console(highlight=False))
    raise typer.Exit(EXIT_GOOD if found.can_rehearse else EXIT_ENVIRONMENT)
