"""``harness inspect setup-role``: the role that can look at everything and write nothing."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from harness.chain.connection import connect
from harness.cli.database import refused_in_words
from harness.cli.inspect_place import Where, choose_place, unreachable_in_words
from harness.errors import BadInputError, CheckFailedError
from harness.inspectors import role as roles
from harness.report.text import visible


def print_role(role: str) -> None:
    """The SQL, for somebody who runs it.

    Raises:
        BadInputError: no role can have this name.
    """
    typer.echo(roles.script(role), nl=False)


def apply_role(where: Where, role: str, *, adopt: bool, password_file: Path | None) -> None:
    """Run it on the coordinator, as whom the DSN names, and say what each node makes of the role.

    Args:
        where: the cluster; a superuser's DSN.
        role: its name.
        adopt: take a role that is there and is none of ours.
        password_file: whose first line is the role's password; None: the password stays as it is.

    Raises:
        CheckFailedError: some node does not keep the role from writing, or does not let it in.
    """
    password = None if password_file is None else _read_password(password_file)
    place = choose_place(where)
    with unreachable_in_words(), connect(place.dsn) as connection, refused_in_words(f"role {role!r}"):
        applied = roles.apply_role(connection, role, password=password, adopt=adopt)
    console = Console(highlight=False, soft_wrap=True)
    for node in applied.nodes:
        words = (
            "can look and not write" if node.is_readonly else f"NOT proven: {visible(node.problem) or 'it may write'}"
        )
        console.print(Text(f"{visible(node.node)}: {words}", style="green" if node.is_readonly else "bold red"))
    if not applied.is_proven:
        raise CheckFailedError(
            f"role {role!r} is made, and not every node keeps it from writing",
            hint="let it in on the nodes that are named (pg_hba.conf), and run the same command again",
        )
    console.print(Text(f"role {role}: {'brought up to date' if applied.was_there else 'made'}, on every node"))


def _read_password(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInputError(f"--password-file {file} cannot be read: {error}") from None
    if not lines or not lines[0]:
        raise BadInputError(f"--password-file {file} has no password in its first line")
    return lines[0]
