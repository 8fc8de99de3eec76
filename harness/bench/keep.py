"""Kept ratios: what several runs said, and how far they were apart; and where results are kept by name."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.bench.document import KIND, VERSION, result_of
from harness.bench.model import BenchResult, Better, Interval, Profile
from harness.bench.reading import Part, read_json
from harness.errors import BadInputError
from harness.logs import redact
from harness.report.text import without_surrogates

KEPT_KIND = "harness/bench-kept"
KEPT_VERSION = 1
KEPT_SCHEMA = f"{KEPT_KIND}/{KEPT_VERSION}"
# pytest-benchmark keeps its own files in the folders beside it.
STORE = Path(".benchmarks") / "harness"
# Letters, digits and a few signs, and no dot at the start: a name of a file anywhere.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
# From two runs a spread says nothing yet.
_FEWEST_RUNS = 3

Key = tuple[str, str]


@dataclass(frozen=True)
class KeptRatio:
    """A ratio as a comparison needs it.

    Attributes:
        interval: of one run: its bootstrap; of several: their median, and how far they were apart.
        better: which way it gets better.
    """

    interval: Interval
    better: Better


@dataclass(frozen=True)
class Ratios:
    """What of a file is compared.

    Attributes:
        place: the file.
        profile: of the run or runs.
        runs: how many; 1 for a result.
        passed: whether every answer was right.
        facts: the machine, the servers.
        by_name: each ratio by its group and name.
    """

    place: Path
    profile: Profile
    runs: int
    passed: bool
    facts: Mapping[str, str]
    by_name: Mapping[Key, KeptRatio]


def named_place(name: str) -> Path:
    """Where ``--keep NAME`` keeps a result, below the present directory.

    Raises:
        BadInputError: the name is no name for a file.
    """
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} is no name to keep a result under",
            hint="use letters, digits, and . _ - after the first, such as before-0011",
        )
    return STORE / f"{name}.json"


def find_place(word: str) -> Path:
    """The file that a word of the command line means: a path, or the name under which a result was kept.

    Raises:
        BadInputError: there is neither.
    """
    path = Path(word)
    if path.exists():
        return path
    if _NAME.fullmatch(word) and named_place(word).is_file():
        return named_place(word)
    kept = ", ".join(path.stem for path in sorted(STORE.glob("*.json"))) if STORE.is_dir() else ""
    raise BadInputError(
        f"{word!r} is no file, and nothing is kept under that name",
        hint=f"kept are {kept}" if kept else "harness bench run --keep NAME keeps a result, --out FILE writes one",
    )


def load_ratios(path: Path) -> Ratios:
    """The ratios of a result, or of a file of kept ratios.

    Raises:
        BadInputError: it is neither, or of a later version.
    """
    kind, document = read_json(path, {KIND: VERSION, KEPT_KIND: KEPT_VERSION})
    if kind == KEPT_KIND:
        return _read_kept(document, path)
    return ratios_of(result_of(document), path)


def ratios_of(result: BenchResult, place: Path) -> Ratios:
    """What of a result is compared."""
    found = {
        (group.name, ratio.name): KeptRatio(ratio.interval, ratio.better)
        for group in result.groups
        for ratio in group.ratios
    }
    return Ratios(place, result.profile, 1, result.passed, result.facts, found)


def _read_kept(document: Part, path: Path) -> Ratios:
    found = {}
    for part in document.parts("ratios"):
        interval = part.part("interval")
        found[part.text("group"), part.text("name")] = KeptRatio(
            Interval(interval.number("value"), interval.number("low"), interval.number("high")),
            part.one_of("better", Better),
        )
    profile = document.one_of("profile", Profile)
    return Ratios(path, profile, document.count("runs"), passed=True, facts=document.facts("facts"), by_name=found)


def keep_ratios(paths: Sequence[Path], command: str) -> dict[str, Any]:
    """The kept ratios of several runs as a JSON document (harness/report/schema/bench-kept-1.json).

    Args:
        paths: results of ``harness bench run``, of one profile and one machine.
        command: the command that repeats it.

    Returns:
        Each ratio that all runs have: the median of the runs, and from the least to the most of them: the noise.

    Raises:
        BadInputError: fewer than three runs, one that is no result or did not pass, two profiles or two versions.
    """
    if len(set(paths)) < _FEWEST_RUNS:
        raise BadInputError(
            f"{len(set(paths))} runs do not say how far runs are apart", hint="give at least three, ten are better"
        )
    runs = []
    for path in dict.fromkeys(paths):
        _, document = read_json(path, {KIND: VERSION})
        runs.append(ratios_of(result_of(document), path))
    _require_alike(runs)
    common = [key for key in runs[0].by_name if all(key in run.by_name for run in runs)]
    return {
        "schema": KEPT_SCHEMA,
        "harness_version": __version__,
        "profile": runs[0].profile.value,
        "runs": len(runs),
        "command": without_surrogates(redact(command)),
        "facts": dict(runs[0].facts),
        "ratios": [_kept(key, [run.by_name[key] for run in runs]) for key in common],
    }


def _require_alike(runs: Sequence[Ratios]) -> None:
    first = runs[0]
    for run in runs:
        if not run.passed:
            raise BadInputError(
                f"{run.place} did not pass: its figures are not kept", hint="leave it out, or run again"
            )
        if run.profile is not first.profile:
            raise BadInputError(
                f"{run.place} is of the profile {run.profile.value}, {first.place} of {first.profile.value}",
                hint="keep runs of one profile",
            )
        for fact in ("PostgreSQL", "Citus", "cluster", "processor", "cpus"):
            if run.facts.get(fact) != first.facts.get(fact):
                raise BadInputError(
                    f"{fact} is {run.facts.get(fact)!r} in {run.place} and {first.facts.get(fact)!r} in {first.place}",
                    hint="keep runs of one machine and one version",
                )


def _kept(key: Key, found: Sequence[KeptRatio]) -> dict[str, Any]:
    values = [each.interval.value for each in found]
    return {
        "group": key[0],
        "name": key[1],
        "better": found[0].better.value,
        "interval": {"value": statistics.median(values), "low": min(values), "high": max(values)},
    }
