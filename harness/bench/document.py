"""A run as a JSON document (harness/report/schema/bench-1.json), and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import __version__
from harness.bench.answer import answer_plan
from harness.bench.model import (
    BenchResult,
    Better,
    Check,
    Goal,
    GroupResult,
    Interval,
    Measurement,
    Point,
    Profile,
    Ratio,
    Refusal,
    Series,
    Verdict,
)
from harness.bench.reading import Part, read_json
from harness.logs import redact
from harness.report.text import show_count, show_s, without_surrogates

KIND = "harness/bench"
VERSION = 1
SCHEMA = f"{KIND}/{VERSION}"
# More would be digits of the clock, not of what is measured.
_DIGITS = 6
_MET = {Verdict.MET: True, Verdict.NOT_MET: False, Verdict.NOT_MEASURED: None}


def describe_bench(result: BenchResult) -> str:
    """The verdict in one sentence that claims nothing that was not run."""
    ran = [group for group in result.groups if not group.skipped]
    checks = [check for group in ran for check in group.checks]
    wrong = sum(not check.passed for check in checks)
    surprises = sum(not refusal.was_expected for group in ran for refusal in group.refusals)
    verdicts = [goal.verdict for goal in result.goals]
    parts = [f"{show_count(len(ran), 'group')} ran ({result.profile.value})"]
    skipped = len(result.groups) - len(ran)
    parts += [f"{skipped} skipped"] if skipped else []
    parts += [f"{show_count(sum(len(group.ratios) for group in ran), 'ratio')}"]
    parts += [f"{len(checks) - wrong} of {show_count(len(checks), 'answer')} right"]
    parts += [f"{show_count(surprises, 'refusal')} that nobody expected"] if surprises else []
    parts += [f"{verdicts.count(Verdict.MET)} of {show_count(len(verdicts), 'goal')} met"]
    unmeasured = verdicts.count(Verdict.NOT_MEASURED)
    parts += [f"{unmeasured} not measured"] if unmeasured else []
    broken = "broken off; " if result.error else ""
    return f"{broken}{', '.join(parts)}; {show_s(result.elapsed_s)}"


def to_document(result: BenchResult, command: str) -> dict[str, Any]:
    """The result as a JSON document.

    Args:
        result: of one run.
        command: the command that repeats it.

    Returns:
        Only dicts, lists, texts that UTF-8 can hold, booleans, None and finite numbers; samples with six digits.
    """
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": result.passed,
        "verdict": describe_bench(result),
        "answer": _text(answer_plan(result)),
        "profile": result.profile.value,
        "started_at": result.started_at,
        "elapsed_s": _figure(result.elapsed_s),
        "error": _text(result.error),
        "command": _text(command),
        "facts": {_text(name): _text(value) for name, value in result.facts.items()},
        "goals": [_goal(goal, group.name) for group in result.groups for goal in group.goals],
        "groups": [_group(group) for group in result.groups],
    }


def _goal(goal: Goal, group: str) -> dict[str, Any]:
    return {
        "name": _text(goal.name),
        "group": group,
        "value": _figure(goal.interval.value) if goal.interval else None,
        "goal": _figure(goal.goal),
        "met": _MET[goal.verdict],
        "unit": goal.unit,
        "better": goal.better.value,
        "interval": _interval(goal.interval) if goal.interval else None,
        "why": _text(goal.why),
    }


def _group(group: GroupResult) -> dict[str, Any]:
    return {
        "name": group.name,
        "title": _text(group.title),
        "skipped": _text(group.skipped),
        "elapsed_s": _figure(group.elapsed_s),
        "measurements": [
            {
                "name": _text(each.name),
                "unit": each.unit,
                "better": each.better.value,
                "work": each.work,
                "samples": [_figure(sample) for sample in each.samples],
            }
            for each in group.measurements
        ],
        "ratios": [
            {
                "name": _text(each.name),
                "of": _text(each.of),
                "to": _text(each.to),
                "better": each.better.value,
                "interval": _interval(each.interval),
            }
            for each in group.ratios
        ],
        "refusals": [
            {"name": _text(each.name), "error": _text(each.error), "was_expected": each.was_expected}
            for each in group.refusals
        ],
        "checks": [
            {"name": _text(each.name), "passed": each.passed, "detail": _text(each.detail)} for each in group.checks
        ],
        "series": [_series(each) for each in group.series],
        "notes": [_text(note) for note in group.notes],
    }


def _series(series: Series) -> dict[str, Any]:
    return {
        "name": _text(series.name),
        "plot": _text(series.plot),
        "x_label": _text(series.x_label),
        "y_label": _text(series.y_label),
        "is_log_x": series.is_log_x,
        "is_log_y": series.is_log_y,
        "note": _text(series.note),
        "points": [
            {"x": _figure(point.x), "y": _interval(point.y), "is_predicted": point.is_predicted}
            for point in series.points
        ],
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": _figure(interval.value), "low": _figure(interval.low), "high": _figure(interval.high)}


def _figure(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _text(text: str) -> str:
    return without_surrogates(redact(text))


def load_result(path: Path) -> tuple[BenchResult, str]:
    """A result that was kept, and the command that made it.

    Raises:
        BadInputError: the file cannot be read, holds no result of ``harness bench run``, or one of a later version.
    """
    _, document = read_json(path, {KIND: VERSION})
    return result_of(document), document.text("command")


def result_of(document: Part) -> BenchResult:
    """The result that a document holds.

    Raises:
        BadInputError: something is missing in it, or is not of its kind.
    """
    goals: dict[str, list[Goal]] = {}
    for part in document.parts("goals"):
        goals.setdefault(part.text("group"), []).append(_read_goal(part))
    return BenchResult(
        profile=document.one_of("profile", Profile),
        groups=tuple(_read_groups(document, goals)),
        facts=document.facts("facts"),
        started_at=document.text("started_at"),
        elapsed_s=document.number("elapsed_s"),
        error=document.text("error"),
    )


def _read_goal(part: Part) -> Goal:
    return Goal(
        name=part.text("name"),
        goal=part.number("goal"),
        better=part.one_of("better", Better),
        unit=part.text("unit"),
        interval=None if part.is_null("interval") else _read_interval(part.part("interval")),
        why=part.text("why"),
    )


def _read_groups(document: Part, goals: dict[str, list[Goal]]) -> Iterator[GroupResult]:
    for part in document.parts("groups"):
        yield GroupResult(
            name=part.text("name"),
            title=part.text("title"),
            measurements=tuple(_read_measurement(each) for each in part.parts("measurements")),
            ratios=tuple(_read_ratio(each) for each in part.parts("ratios")),
            refusals=tuple(
                Refusal(each.text("name"), each.text("error"), each.flag("was_expected"))
                for each in part.parts("refusals")
            ),
            checks=tuple(
                Check(each.text("name"), each.flag("passed"), each.text("detail")) for each in part.parts("checks")
            ),
            series=tuple(_read_series(each) for each in part.parts("series")),
            goals=tuple(goals.get(part.text("name"), ())),
            notes=part.texts("notes"),
            skipped=part.text("skipped"),
            elapsed_s=part.number("elapsed_s"),
        )


def _read_measurement(part: Part) -> Measurement:
    return Measurement(
        part.text("name"),
        part.text("unit"),
        part.numbers("samples"),
        work=part.count("work"),
        better=part.one_of("better", Better),
    )


def _read_ratio(part: Part) -> Ratio:
    return Ratio(
        part.text("name"),
        part.text("of"),
        part.text("to"),
        _read_interval(part.part("interval")),
        part.one_of("better", Better),
    )


def _read_series(part: Part) -> Series:
    return Series(
        name=part.text("name"),
        plot=part.text("plot"),
        x_label=part.text("x_label"),
        y_label=part.text("y_label"),
        points=tuple(
            Point(each.number("x"), _read_interval(each.part("y")), each.flag("is_predicted"))
            for each in part.parts("points")
        ),
        is_log_x=part.flag("is_log_x"),
        is_log_y=part.flag("is_log_y"),
        note=part.text("note"),
    )


def _read_interval(part: Part) -> Interval:
    return Interval(part.number("value"), part.number("low"), part.number("high"))
