"""Runs the migration chain on a database, one revision at a time, and says what happens meanwhile."""

from __future__ import annotations

import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import pool

from harness.chain import preflight
from harness.chain.connection import Connection, connect, describe_dsn, translate, translated
from harness.chain.revisions import REVISIONS as REVISIONS  # noqa: PLC0414 - a part of this module's interface
from harness.errors import BadInputError, HarnessError, PreflightError, RefusedError, UnsupportedVersionError
from harness.logs import get_logger, redact

log = get_logger("chain")

BASE = "base"
# A function of each step that is in the database only while its revision is under way; 0006 borrows from 0002's.
_STEP_FUNCTIONS = {
    "0006": "pgtrickle._todo_capture_up",
    "0004": "pgtrickle._todo_xid_up",
    "0002": "pgtrickle._todo_stable_up",
}
# The prefix of the notices that the loop in migrations/sql/each_source.sql raises; their detail is one JSON object.
_NOTICE = "pgtrickle chain: "
_NOTICE_KINDS = {"source moved": "source_moved", "waiting": "waiting"}


@dataclass(frozen=True)
class ChainOptions:
    """How patient a chain is.

    Attributes:
        lock_timeout_ms: the longest that anybody waits behind a step, in milliseconds.
        deadline_s: how long one revision goes on waiting for locks before it gives up, in seconds.
    """

    lock_timeout_ms: int = 50
    deadline_s: float = 600.0


@dataclass(frozen=True)
class ChainEvent:
    """Something that happened in a chain.

    Attributes:
        kind: ``revision_begin``, ``revision_end``, ``source_moved``, ``waiting`` or ``reinit``.
        revision: the revision at work.
        direction: ``up`` or ``down``.
        source: ``schema.table``, where it is about one.
        elapsed_ms: of the source's own transaction, of the wait, or of the revision, in milliseconds.
        detail: what else is known, such as ``holder`` and ``attempts``.
    """

    kind: str
    revision: str
    direction: str
    source: str | None = None
    elapsed_ms: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)


Listener = Callable[[ChainEvent], None]


def migrations_path() -> Path:
    """Where the packaged ``migrations`` are.

    Raises:
        HarnessError: this installation is without them.
    """
    spec = importlib.util.find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise HarnessError(
            "the package `migrations` is missing from this installation", hint="install the project again"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def make_config(connection: sqlalchemy.Connection | None = None, *, output: TextIO | None = None) -> Config:
    """Alembic's configuration for the packaged chain; with a connection, for that one."""
    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


@contextmanager
def _engine_connection(
    dsn: str, on_notice: Callable[[psycopg.errors.Diagnostic], None], options: ChainOptions
) -> Iterator[sqlalchemy.Connection]:
    def open_connection() -> Connection:
        opened = connect(dsn)
        opened.add_notice_handler(on_notice)
        opened.execute(
            "SELECT set_config('pgtrickle.chain_lock_timeout_ms', %s, false),"
            " set_config('pgtrickle.chain_deadline_s', %s, false)",
            (str(options.lock_timeout_ms), str(options.deadline_s)),
        )
        opened.autocommit = False
        return opened

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=open_connection, poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def current_revision(dsn: str) -> str | None:
    """The revision that a database is at, None where the chain never ran. Reads only.

    Raises:
        ConnectionRefusedByInput: the DSN leads nowhere.
    """
    with connect(dsn, read_only=True) as connection, translated("asking for the revision"):
        return preflight.fetch_revision(connection)


def _plan(now: str | None, target: str, direction: str) -> tuple[str, ...]:
    """The revisions to run, in order."""
    done = REVISIONS.index(now) + 1 if now is not None else 0
    if direction == "up":
        goal = len(REVISIONS) if target == "head" else REVISIONS.index(target) + 1
        return REVISIONS[done:goal]
    goal = 0 if target == BASE else REVISIONS.index(target) + 1
    return tuple(reversed(REVISIONS[goal:done]))


def _check_target(target: str, extra: str) -> None:
    if target not in (*REVISIONS, extra):
        raise BadInputError(f"{target!r} is no revision", hint=f"use one of {', '.join(REVISIONS)} or {extra}")


def _forward_notice(diagnostic: psycopg.errors.Diagnostic, revision: str, direction: str, listener: Listener) -> None:
    message = diagnostic.message_primary or ""
    kind = _NOTICE_KINDS.get(message.removeprefix(_NOTICE)) if message.startswith(_NOTICE) else None
    if kind is None:
        return
    detail = json.loads(diagnostic.message_detail or "{}")
    source = detail.pop("source", None)
    elapsed_ms = detail.pop("elapsed_ms", None)
    listener(ChainEvent(kind, revision, direction, source, elapsed_ms, detail))
    for stream_table in detail.get("needs_reinit", ()):
        listener(ChainEvent("reinit", revision, direction, source, None, {"stream_table": stream_table}))


def _run_revision(dsn: str, revision: str, direction: str, listener: Listener, options: ChainOptions) -> None:
    target = revision if direction == "up" else (BASE, *REVISIONS)[REVISIONS.index(revision)]
    begun = time.monotonic()
    listener(ChainEvent("revision_begin", revision, direction))

    def on_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        _forward_notice(diagnostic, revision, direction, listener)

    while True:
        try:
            with _engine_connection(dsn, on_notice, options) as connection:
                (command.upgrade if direction == "up" else command.downgrade)(make_config(connection), target)
        except CommandError as error:
            raise RefusedError(redact(str(error))) from None
        except sqlalchemy.exc.DBAPIError as error:
            original = error.orig
            if isinstance(original, psycopg.Error):
                raise translate(original, doing=f"revision {revision} {direction}") from error
            raise
        except psycopg.errors.LockNotAvailable as error:
            # The catalog itself was locked (a step's own wait has a deadline and a hint of its own): nothing of the
            # revision is lost.
            if error.diag.message_hint or time.monotonic() - begun > options.deadline_s:
                raise translate(error, doing=f"revision {revision} {direction}") from error
            log.info("catalog locked, trying again", revision=revision, direction=direction)
        except psycopg.Error as error:
            raise translate(error, doing=f"revision {revision} {direction}") from error
        else:
            break
    listener(ChainEvent("revision_end", revision, direction, None, (time.monotonic() - begun) * 1000))


def find_interrupted(dsn: str) -> tuple[str, str] | None:
    """The revision that began to move sources and did not end, and its direction; None without one.

    Its step's functions are there from its first commit to its last one, whichever way it goes. Where the version table
    has it already, it was on its way down.
    """
    with connect(dsn, read_only=True) as connection, translated("looking for an interrupted revision"):
        now = preflight.fetch_revision(connection)
        if now not in REVISIONS:
            return None
        for revision, function in _STEP_FUNCTIONS.items():
            row = connection.execute("SELECT to_regproc(%s) IS NOT NULL", (function,)).fetchone()
            if row is not None and row[0]:
                return revision, "down" if REVISIONS.index(revision) <= REVISIONS.index(now) else "up"
    return None


def _run(dsn: str, target: str, direction: str, on_event: Listener | None, options: ChainOptions) -> None:
    listener = on_event or (lambda _event: None)
    interrupted = find_interrupted(dsn)
    if interrupted is not None:
        # Half of its sources have moved, and only its own way knows which: that is finished before anything else.
        log.info("finishing what was interrupted", revision=interrupted[0], direction=interrupted[1])
        _run_revision(dsn, *interrupted, listener, options)
    with connect(dsn, read_only=True) as connection, translated("preflight"):
        now = preflight.fetch_revision(connection)
        if now is not None and now not in REVISIONS:
            raise UnsupportedVersionError(
                f"the catalog on {describe_dsn(dsn)} is at revision {now!r},"
                f" and this harness knows {REVISIONS[0]} to {REVISIONS[-1]}",
                hint="use the harness that made it",
            )
        plan = _plan(now, target, direction)
        if interrupted is not None and not plan and target in REVISIONS:
            # What was finished lies beyond the target: back to it.
            direction = "up" if direction == "down" else "down"
            plan = _plan(now, target, direction)
        findings = preflight.check(connection, plan, direction)
    if findings:
        raise PreflightError(f"{len(findings)} finding(s) stand in the way, and nothing was changed", findings)
    for revision in plan:
        _run_revision(dsn, revision, direction, listener, options)


def upgrade(
    dsn: str, revision: str = "head", *, on_event: Listener | None = None, options: ChainOptions = ChainOptions()
) -> None:
    """Take a database up to a revision; runs on its server (on Citus: on the coordinator).

    A killed run goes on where it stopped when it is called again.

    Args:
        dsn: the database; the role owns the catalog and the sources, and is a superuser where 0006 is among the steps.
        revision: the last one to run, or ``head``.
        on_event: told what happens, in this thread.
        options: how patient.

    Raises:
        BadInputError: there is no such revision.
        PreflightError: something stands in the way; nothing was changed.
        RefusedError, MissingPrivilegeError, ServerGoneError, DiskFullError: as they say.
    """
    _check_target(revision, "head")
    _run(dsn, revision, "up", on_event, options)


def downgrade(
    dsn: str, revision: str, *, on_event: Listener | None = None, options: ChainOptions = ChainOptions()
) -> None:
    """Take a database down to a revision (``base``: below the baseline, refused while stream tables are left).

    Raises and arguments as :func:`upgrade`.
    """
    _check_target(revision, BASE)
    _run(dsn, revision, "down", on_event, options)


def offline_sql(direction: str, start: str, end: str) -> str:
    """The script that psql runs to the same end as :func:`upgrade` or :func:`downgrade`.

    Args:
        direction: ``up`` or ``down``.
        start: the revision that the database is at, or ``base``.
        end: the revision to reach, or ``head`` or ``base``.

    Raises:
        BadInputError: there is no such revision, or they lie the other way.
    """
    for revision in (start, end):
        if revision not in (*REVISIONS, BASE, "head"):
            raise BadInputError(f"{revision!r} is no revision", hint=f"use one of base, {', '.join(REVISIONS)}, head")
    output = io.StringIO()
    config = make_config(output=output)
    try:
        with redirect_stdout(output):
            (command.upgrade if direction == "up" else command.downgrade)(config, f"{start}:{end}", sql=True)
    except CommandError as error:
        raise BadInputError(
            f"no script leads {direction} from {start} to {end}: {error}", hint="see `harness migrate status`"
        ) from None
    return output.getvalue()


def known_heads() -> tuple[str, ...]:
    """The newest revisions of the packaged chain; a test holds :data:`REVISIONS` to it."""
    return tuple(ScriptDirectory.from_config(make_config()).get_heads())
