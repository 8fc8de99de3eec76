"""``harness cluster``: a cluster to play with, that stays until it is taken down."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.clusters.named import ClusterState, NodeState, fetch_status, load_cluster, start_named, stop_named
from harness.errors import EXIT_CHECK_FAILED, EXIT_GOOD, BinariesNotFoundError
from harness.postgres.lifetime import install_signal_handlers
from harness.postgres.server import Server
from harness.settings import load_citus_settings

SCHEMA = "urn:pgtrickle-citus-harness:cluster:1"
DEFAULT_NAME = "default"

app = typer.Typer(help="A Citus cluster to play with: up, status, psql, down.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", "-n", help="How the cluster is called.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def _print_json(passed: bool, **content: Any) -> None:
    typer.echo(json.dumps({"schema": SCHEMA, "passed": passed, **content}, indent=2))


def _node_document(node: NodeState) -> dict[str, Any]:
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "dsn": node.safe_dsn,
        "directory": node.root,
        "password_file": str(node.password_file),
    }


def _describe(state: ClusterState) -> dict[str, Any]:
    return {
        "name": state.name,
        "created_at": state.created_at,
        "citus_version": state.citus_version,
        "postgres_version": state.postgres_version,
        "dsn": state.coordinator.safe_dsn,
        "password_file": str(state.coordinator.password_file),
    }


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _print_up(state: ClusterState, elapsed_s: float, console: Console) -> None:
    for node in state.nodes:
        console.print(f"{node.name:12} port {node.port}, log {escape(str(Path(node.root) / 'server.log'))}")
    phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in state.start_time.items())
    versions = f"Citus {state.citus_version} on PostgreSQL {state.postgres_version}"
    shape = f"1+{len(state.nodes) - 1}"
    console.print(f"cluster {escape(state.name)}: {versions}, {shape}, ready in {elapsed_s:.2f} s ({phases})")
    console.print(f"connect:   harness cluster psql --name {state.name}")
    console.print(
        f"or:        PGPASSFILE={escape(str(state.coordinator.password_file))} psql {state.coordinator.safe_dsn}"
    )
    console.print(f"take down: harness cluster down --name {state.name}")


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="How many workers; default CITUS_WORKERS, which is 2.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a cluster of local processes that stays until `harness cluster down`."""
    install_signal_handlers()
    load_citus_settings()
    started = time.monotonic()
    state = start_named(name, workers=workers)
    elapsed_s = time.monotonic() - started
    if as_json:
        _print_json(
            True,
            **_describe(state),
            nodes=[_node_document(node) for node in state.nodes],
            elapsed_s=round(elapsed_s, 4),
            start_time_s={phase: round(seconds, 4) for phase, seconds in state.start_time.items()},
        )
    else:
        _print_up(state, elapsed_s, _console())


@app.command()
def down(name: Name = DEFAULT_NAME, as_json: AsJson = False) -> None:
    """Stop a cluster and remove all that it left; exit code 2 if there is no such name."""
    install_signal_handlers()
    state = stop_named(name)
    if as_json:
        _print_json(True, name=state.name, nodes=[node.name for node in state.nodes])
    else:
        _console().print(
            f"cluster {escape(state.name)} is down: {len(state.nodes)} nodes and their directories removed"
        )


@app.command()
def status(name: Name = DEFAULT_NAME, as_json: AsJson = False) -> None:
    """Say how a cluster is.

    Exit codes: 0 running, 1 not healthy, 2 no such name, 3 the environment.
    """
    found = fetch_status(name)
    if as_json:
        nodes = [
            {
                **_node_document(node.state),
                "is_running": node.pid is not None,
                "pid": node.pid,
                "version": node.version,
                "problem": node.problem or None,
            }
            for node in found.nodes
        ]
        _print_json(found.is_healthy, **_describe(found.state), nodes=nodes, problem=found.problem or None)
    else:
        console = _console()
        title = f"cluster {escape(found.state.name)}, Citus {found.state.citus_version}, since {found.state.created_at}"
        table = Table("node", "port", "running", "version", "problem", title=title, title_justify="left")
        for node in found.nodes:
            running = f"yes, pid {node.pid}" if node.pid is not None else "[red]no[/]"
            table.add_row(node.state.name, str(node.state.port), running, node.version or "", escape(node.problem))
        console.print(table)
        console.print("[green]healthy[/]" if found.is_healthy else f"[red]not healthy[/]: {escape(found.problem)}")
    raise typer.Exit(EXIT_GOOD if found.is_healthy else EXIT_CHECK_FAILED)


@app.command()
def psql(
    name: Name = DEFAULT_NAME,
    node: Annotated[str, typer.Option("--node", help="Which node: coordinator, worker-1, ...")] = "coordinator",
    command: Annotated[
        list[str] | None, typer.Option("--command", "-c", help="Run this and leave; may be given again.")
    ] = None,
    dbname: Annotated[str, typer.Option("--dbname", "-d", help="The database.")] = "postgres",
) -> None:
    """Open psql on a node of a cluster; its exit code is this command's."""
    state = load_cluster(name).node(node)
    program = Path(state.bindir) / "psql"
    if not program.is_file():
        raise BinariesNotFoundError(f"{state.bindir} has no psql", hint=f"use any psql with {state.safe_dsn}")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {
        "PGHOST": state.host,
        "PGPORT": str(state.port),
        "PGUSER": Server.superuser,
        "PGDATABASE": dbname,
        "PGSSLMODE": "disable",
        # The password stays in its file: neither arguments nor environment show it.
        "PGPASSFILE": str(state.password_file),
    }
    arguments = [str(program)]
    for each in command or []:
        arguments += ["-c", each]
    os.execve(program, arguments, environment)  # noqa: S606 - no shell is wanted
