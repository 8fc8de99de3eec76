"""The update to one version from each version that can be installed: which of them end well."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from harness.engines.installed import EXTENSION
from harness.errors import CheckFailedError, Finding, PreflightError, ServerError
from harness.rehearsal.extension.model import EVERY, StepRun, UpdateOptions, UpdateResult, arrived
from harness.rehearsal.extension.place import DEMONSTRATION, Ground, made_ground
from harness.rehearsal.extension.run import rehearse_place
from harness.rehearsal.machine import describe_hardware
from harness.rehearsal.model import SourceStall, Verdict
from harness.rehearsal.options import OnProgress, Progress, say_nothing
from harness.rehearsal.steps import Clock
from harness.rehearsal.tables import Connection

_STARTS = "SELECT source FROM pg_catalog.pg_extension_update_paths(%s) WHERE target = %s AND path IS NOT NULL"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class _Run:
    """One first version: when its rehearsal began, in seconds, and what came of it; None: the words of its end."""

    start: str
    began_s: float
    result: UpdateResult | None
    told: str = ""


def rehearse_every(options: UpdateOptions, on_progress: OnProgress = say_nothing) -> UpdateResult:
    """Rehearse ``ALTER EXTENSION pg_trickle UPDATE TO`` one version, from each that can be installed here.

    Each first version is installed in a database of its own, with the demonstration, and updated by one statement, as
    its users would: what is between is not looked at. All run with the library of this machine's installation.

    Args:
        options: the last version; of the first ones `EVERY`.
        on_progress: told where it is, in this thread.

    Returns:
        A step for each first version, and two lines of the table of versions: before it and after it.

    Raises:
        ExtensionMissingError: no PostgreSQL here has the extension.
        PreflightError: no version that can be installed has a way to the last one.
        ServerError: the server did not start.
    """

    def say(message: str, fraction: float | None) -> None:
        on_progress(Progress("copy", message, fraction))

    with made_ground(options, say) as ground:
        return rehearse_ground(options, ground, on_progress)


def rehearse_ground(options: UpdateOptions, ground: Ground, on_progress: OnProgress = say_nothing) -> UpdateResult:
    """The same on a server that is there already; a database at each first version comes and goes."""
    clock = Clock()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with contextlib.closing(ground.server.connect("postgres")) as conn:
        starts = fetch_starts(conn, ground.scripts.installable, options.target)
    runs = []
    for number, start in enumerate(starts):
        on_progress(Progress("update", f"{start} to {options.target}", number / len(starts)))
        runs.append(_rehearse_one(options, ground, start, f"from_{number}", clock))
    facts = describe_hardware() | {
        "postgresql": ground.server.show("server_version"),
        "library": f"{EXTENSION} {ground.library_version} in {ground.server.installation.libdir}",
        "writers": str(options.threads),
    }
    return replace(
        _merge(options, runs),
        library_version=ground.library_version,
        started_at=started_at,
        elapsed_s=clock.now_s(),
        facts=facts,
    )


def fetch_starts(conn: Connection, installable: frozenset[str], target: str) -> tuple[str, ...]:
    """The versions with an install script of their own that have a way to the last one, oldest first.

    Raises:
        PreflightError: there is none.
    """
    found = {str(source) for (source,) in conn.execute(_STARTS, [EXTENSION, target])} & installable - {target}
    if not found:
        finding = Finding(
            "no_update_path",
            f"{EVERY}..{target}",
            f"no version with an install script here has a way to {target}",
            "name more scripts with --extension-scripts DIR, or another version",
        )
        raise PreflightError(f"{EXTENSION} cannot be updated to {target}", (finding,))
    return tuple(sorted(found, key=lambda version: ([int(part) for part in _NUMBER.findall(version)], version)))


def _rehearse_one(options: UpdateOptions, ground: Ground, start: str, dbname: str, clock: Clock) -> _Run:
    """One first version, in a database that comes and goes; its own end is not the others'."""
    began_s = clock.now_s()
    is_kept = options.keep
    try:
        place = ground.demonstrate(dbname, start, options.target)
        # One statement, as its users give it.
        place = replace(place, path=(start, options.target))
        result = rehearse_place(replace(options, start=start), place)
        is_kept = is_kept and not result.passed
        return _Run(start, began_s, result)
    except (CheckFailedError, ServerError) as error:
        return _Run(start, began_s, None, error.message)
    except psycopg.Error as error:  # its library took the session or the server with it, or lacks what was asked
        return _Run(start, began_s, None, " ".join(str(error).split()))
    finally:
        if not ground.server.is_running:
            ground.server.start()
        ground.server.wait_ready()
        # The extension's own workers may be connected to it.
        with contextlib.closing(ground.server.connect("postgres")) as conn:
            if not is_kept:
                conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname)))


def _merge(options: UpdateOptions, runs: Sequence[_Run]) -> UpdateResult:
    """The results of all first versions as one: before the updates, then after them, in the order of the versions."""
    steps, before, after, checks = [], [], [], []
    stalls: dict[str, SourceStall] = {}
    without = []
    for run in runs:
        result, end = run.result, arrived(run.start, options.target)
        if result is None:
            steps.append(StepRun(run.start, options.target, Verdict.FAILED, run.began_s, detail=run.told))
            continue
        steps += [replace(step, started_s=step.started_s + run.began_s) for step in result.steps]
        first, *others = result.versions
        before.append(first)
        after += [replace(one, version=end if one.version == options.target else one.version) for one in others]
        checks += [replace(one, phase=end if one.phase == options.target else one.phase) for one in result.checks]
        for stall in result.stalls:
            if stall.source not in stalls or stall.stall_ms > stalls[stall.source].stall_ms:
                stalls[stall.source] = replace(stall, at_s=stall.at_s + run.began_s)
        without += [run.start] if not first.stream_tables else []
    finished = [run.result for run in runs if run.result is not None]
    return UpdateResult(
        source_dsn=DEMONSTRATION,
        seed=options.seed,
        start=EVERY,
        target=options.target,
        library_version="",
        started_at="",
        elapsed_s=0.0,
        steps=tuple(steps),
        versions=(*before, *after),
        checks=tuple(checks),
        stalls=tuple(sorted(stalls.values(), key=lambda one: -one.stall_ms)),
        writes=sum(result.writes for result in finished),
        rows=sum(result.rows for result in finished),
        warnings=_tell_unmade(without, len(runs)),
    )


def _tell_unmade(starts: Sequence[str], in_all: int) -> tuple[str, ...]:
    if not starts:
        return ()
    span = starts[0] if len(starts) == 1 else f"{starts[0]} to {starts[-1]}"
    told = f"at {len(starts)} of {in_all} first versions, {span}, this library makes no stream table"
    return (f"{told}: what their update does to stream tables is not seen here",)
