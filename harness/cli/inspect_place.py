"""Which cluster ``harness inspect`` and ``harness mcp`` look at, and how the answer is printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from psycopg import conninfo

from harness.chain.connection import describe_dsn
from harness.cli.database import chosen_dsn
from harness.clusters.named import load_cluster
from harness.errors import BadInputError, ConnectionRefusedByInput, ServerGoneError
from harness.inspectors.run import Inspection

Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="NAME", help="A cluster of `harness cluster up`.", show_default=False),
]
Database = Annotated[
    str | None, typer.Option("--dbname", "-d", help="With --cluster: the database; postgres if not given.")
]
Dsn = Annotated[
    str | None,
    typer.Option(
        help="The coordinator, as a libpq string or URI; else HARNESS_DSN. Keep passwords in PGPASSWORD or a file.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Place:
    """The database that is looked at.

    Attributes:
        dsn: how to reach it; may hold a password.
        words: the options that name it in a command to repeat, without a password.
    """

    dsn: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Where:
    """What the options say of the database."""

    cluster: str | None = None
    database: str | None = None
    dsn: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether one of them was given."""
        return any((self.cluster, self.database, self.dsn))


def choose_place(where: Where) -> Place:
    """The database that the options, or HARNESS_DSN, name.

    Raises:
        BadInputError: none, or two of them, or no such cluster, or no DSN.
    """
    cluster, database, dsn = where.cluster, where.database, where.dsn
    if cluster is not None and dsn is not None:
        raise BadInputError("--cluster and --dsn name two places", hint="give one of them")
    if cluster is None and database is not None:
        raise BadInputError("--dbname is of --cluster", hint="in a DSN the database is dbname=...")
    if cluster is not None:
        found = load_cluster(cluster).coordinator.node().dsn(database or "postgres")
        return Place(found, ("--cluster", cluster, *(("--dbname", database) if database else ())))
    try:
        chosen = chosen_dsn(dsn)
    except BadInputError:
        raise BadInputError(
            "no cluster is named", hint="pass --cluster NAME (harness cluster up) or --dsn, or set HARNESS_DSN"
        ) from None
    describe_dsn(chosen)  # refuses what is no DSN, without its words
    without_password = {
        name: value
        for name, value in conninfo.conninfo_to_dict(chosen).items()
        if name in {"host", "hostaddr", "port", "dbname", "user", "service"}
    }
    return Place(chosen, ("--dsn", conninfo.make_conninfo("", **without_password)))


@contextmanager
def looking(place: Place) -> Iterator[Inspection]:
    """An inspection for a block.

    Raises:
        BadInputError: it is no DSN.
        ServerGoneError: nobody answers there: a look could not be made (exit code 3).
    """
    with unreachable_in_words(), Inspection(place.dsn) as inspection:
        yield inspection


@contextmanager
def unreachable_in_words() -> Iterator[None]:
    """Elsewhere a DSN that leads nowhere is bad input; here it is what somebody wants to know: exit code 3."""
    try:
        yield
    except ConnectionRefusedByInput as error:
        raise ServerGoneError(error.message, hint=error.hint, sqlstate=error.sqlstate) from None
