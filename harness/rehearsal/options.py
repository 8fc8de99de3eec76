"""What a rehearsal is asked to do, and what it says while it does it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from harness.errors import BadInputError

CopyKind: TypeAlias = Literal["logical", "physical"]

#: The order in which a rehearsal goes; a `StepResult` and a `Progress` carry one of these names.
STEPS = ("look", "copy", "check", "up", "check_up", "down", "check_down", "up_again", "compare")

# Identifiers, row counts and locks of more sources than this do not fit a temporary server with its defaults.
_MOST_SOURCES = 10_000
_MOST_ROWS = 1_000_000_000


@dataclass(frozen=True)
class RehearsalOptions:
    """What to rehearse, and how.

    Attributes:
        dsn: the database whose upgrade is rehearsed on a copy; None: the demonstration.
        dump: an archive of pg_dump, restored into a temporary server that is then the source; instead of a DSN.
        sources: how many sources the demonstration has. Ignored with a DSN or a dump.
        rows: how many rows the demonstration has in all. Ignored with a DSN or a dump.
        seed: of everything random; None draws one. The result carries it.
        copy: ``logical`` (pg_dump and pg_restore) or ``physical`` (pg_basebackup). Ignored without a DSN.
        crash: kill the server once during each revision, at a moment drawn from the seed.
        keep: keep the temporary server's directory and say where it is.
        jobs: parallel connections of pg_dump and pg_restore.
        threads: live writers.
        lock_timeout_ms: longest time the chain waits for a lock on a source in one go, in milliseconds.
        deadline_s: give up on one revision after this many seconds.
        immediate: what becomes of IMMEDIATE stream tables, whose triggers call the extension's library:
            ``differential`` makes them so in the copy, ``refuse`` ends the rehearsal with their names.
    """

    dsn: str | None = None
    dump: Path | None = None
    sources: int = 24
    rows: int = 1_000_000
    seed: int | None = None
    copy: CopyKind = "logical"
    crash: bool = False
    keep: bool = False
    jobs: int = 2
    threads: int = 2
    lock_timeout_ms: int = 50
    deadline_s: float = 600.0
    immediate: Literal["refuse", "differential"] = "differential"

    def checked(self) -> RehearsalOptions:
        """The same options with a seed in place.

        Raises:
            BadInputError: a value cannot be used; the message names it.
        """
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("sources", self.sources, 1, _MOST_SOURCES),
            ("rows", self.rows, 24, _MOST_ROWS),
            ("jobs", self.jobs, 1, 64),
            ("threads", self.threads, 1, 64),
            ("lock-timeout-ms", self.lock_timeout_ms, 1, 60_000),
            ("deadline-s", self.deadline_s, 1, 86_400),
            ("seed", self.seed or 0, 0, 2**32 - 1),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise BadInputError(f"--{name} {value} is out of range", hint=f"use {least:g} to {most:g}")
        if self.copy not in ("logical", "physical"):
            raise BadInputError(f"--copy {self.copy!r} is not a way to copy", hint="use logical or physical")
        if self.dsn is not None and not self.dsn.strip():
            raise BadInputError(
                "--dsn is empty", hint="give a connection string, or leave --dsn out for the demonstration"
            )
        if self.dump is not None and self.dsn is not None:
            raise BadInputError("--dump and --dsn name two sources", hint="give one of them")
        if self.dump is not None and self.copy == "physical":
            raise BadInputError("--copy physical cannot copy a dump", hint="leave --copy out")
        return replace(self, seed=secrets.randbits(31)) if self.seed is None else self


@dataclass(frozen=True)
class Progress:
    """Where a rehearsal is.

    Attributes:
        step: one of `STEPS`.
        message: what happens now, one line, without passwords.
        fraction: how much of the step is done, 0 to 1; None where nobody can say.
    """

    step: str
    message: str
    fraction: float | None = None


OnProgress: TypeAlias = Callable[[Progress], None]


def say_nothing(_progress: Progress) -> None:
    """A listener for those who do not want to know."""
