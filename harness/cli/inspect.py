"""``harness inspect``: read-only looks at a cluster, each inspector a command with its own inputs as options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.inspect_place import Cluster, Database, Dsn, Where
from harness.errors import BadInputError
from harness.inspectors import registry
from harness.inspectors.role import DEFAULT_ROLE

# The command that is no look.
SETUP_ROLE = "setup-role"
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; with --watch one a line.")]
AsTable = Annotated[bool, typer.Option("--table", help="Tables for people: what is printed without --json.")]
Watch = Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, max=3600, help="With --watch: seconds between two looks.")]


class InspectGroup(TyperGroup):
    """The inspectors, each loaded when it is called; and ``setup-role``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the registry."""
        return [*super().list_commands(ctx), *registry.names()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name; dashes may stand for underscores."""
        name = cmd_name.replace("-", "_")
        if name not in registry.names():
            return super().get_command(ctx, cmd_name)
        from harness.cli.inspect_command import make_command  # noqa: PLC0415 - loads the inspector

        return make_command(registry.get(name))


app = typer.Typer(
    cls=InspectGroup,
    help="Read-only looks at a Citus cluster: one inspector by its name, or --all.",
    invoke_without_command=True,
    no_args_is_help=True,
)


@app.callback()
def _all(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every inspector; writes a page and a document.")] = False,
    cluster: Cluster = None,
    database: Database = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
    as_table: AsTable = False,
    watch: Watch = False,
    every: Every = 2.0,
    report: Annotated[
        Path, typer.Option("--report", metavar="DIR", help="With --all: where inspect.html and inspect.json go.")
    ] = Path("reports"),
    deadline_s: Annotated[
        float, typer.Option("--deadline", min=1, max=3600, help="With --all: after so many seconds the rest is left.")
    ] = 60.0,
) -> None:
    """Look at a cluster, and change nothing.

    Exit codes: 0 fine, 1 findings of severity error, 2 bad input, 3 could not look.
    """
    where = Where(cluster, database, dsn)
    if context.invoked_subcommand is not None:
        if everything or where.is_given or as_json or as_table or watch:
            name = context.invoked_subcommand
            raise BadInputError(
                f"options of a look stand after its name, and --all has none ({name})",
                hint=f"harness inspect {name} ...",
            )
        return
    if not everything:
        raise BadInputError("no inspector is named", hint="harness inspect NAME, or --all; --help lists the names")
    from harness.cli.inspect_look import Output, look_at_all  # noqa: PLC0415 - loads every inspector

    output = Output(as_json=as_json, as_table=as_table, watch=watch, every_s=every)
    raise typer.Exit(look_at_all(where, output, report=report, deadline_s=deadline_s))


@app.command(SETUP_ROLE)
def _setup_role(
    *,
    role: Annotated[str, typer.Option("--role", help="What the role is called.")] = DEFAULT_ROLE,
    is_applied: Annotated[bool, typer.Option("--apply", help="Run it, and prove it on every node.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take a role that is there; it cannot write any more.")
    ] = False,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --apply: the role's password is this file's first line.")
    ] = None,
    cluster: Cluster = None,
    database: Database = None,
    dsn: Dsn = None,
) -> None:
    """Print the SQL of a role that can look at everything and write nothing; with --apply run it.

    Exit codes: 0 good, 2 refused or bad input, 3 the environment.
    """
    from harness.cli.inspect_role import apply_role, print_role  # noqa: PLC0415

    where = Where(cluster, database, dsn)
    if is_applied:
        apply_role(where, role, adopt=adopt, password_file=password_file)
    elif adopt or password_file is not None or where.is_given:
        raise BadInputError("options of --apply, and --apply is not given", hint="without it only the SQL is printed")
    else:
        print_role(role)
