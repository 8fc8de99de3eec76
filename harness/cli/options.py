"""Options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Dsn = Annotated[
    str | None,
    typer.Option(
        help="The database, as a libpq string or URI; else HARNESS_DSN."
        " Keep passwords in PGPASSWORD or a password file.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
