"""A run as a JUnit file and as Markdown for a job's page."""

from __future__ import annotations

from xml.etree import ElementTree as ET  # written here, never parsed

from harness.bench.answer import answer_plan
from harness.bench.document import describe_bench
from harness.bench.model import BenchResult, GroupResult
from harness.bench.terminal import show_bound, show_goal_value
from harness.rehearsal.model import Verdict
from harness.report.junit_parts import add_outcome, counted, seconds, written, xml_text
from harness.report.markdown import Column, Problem, Summary, Table, render
from harness.report.text import NOTHING, show_s


def to_bench_junit(result: BenchResult, command: str) -> bytes:
    """The result as a JUnit XML document in UTF-8: a suite a group, a case an answer, a refusal, a goal.

    A goal that is not met does not fail: what was measured and wanted is in its ``system-out``.

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    root = ET.Element("testsuites", name="harness bench", time=seconds(result.elapsed_s))
    run = ET.Element("testsuite", name="run", time=seconds(result.elapsed_s), timestamp=xml_text(result.started_at))
    properties = ET.SubElement(run, "properties")
    for name, value in (("command", command), ("profile", result.profile.value), *result.facts.items()):
        ET.SubElement(properties, "property", name=xml_text(name), value=xml_text(value))
    whole = ET.SubElement(run, "testcase", classname="bench", name="run", time=seconds(result.elapsed_s))
    add_outcome(whole, Verdict.FAILED if result.error else Verdict.PASSED, result.error, kind="bench")
    return written(root, [counted(run), *(_suite(group) for group in result.groups)])


def _suite(group: GroupResult) -> ET.Element:
    suite = ET.Element("testsuite", name=xml_text(group.name), time=seconds(group.elapsed_s))
    classname = xml_text(f"bench.{group.name}")

    def case(name: str, verdict: Verdict, detail: str = "") -> ET.Element:
        element = ET.SubElement(suite, "testcase", classname=classname, name=xml_text(name), time="0")
        add_outcome(element, verdict, detail, kind="bench")
        return element

    case("ran", Verdict.SKIPPED if group.skipped else Verdict.PASSED, group.skipped)
    for check in group.checks:
        case(f"answer of {check.name}", Verdict.PASSED if check.passed else Verdict.FAILED, check.detail)
    for refusal in group.refusals:
        verdict = Verdict.PASSED if refusal.was_expected else Verdict.FAILED
        case(f"refusal of {refusal.name}", verdict, refusal.error)
    for goal in group.goals:
        text = f"{goal.verdict.value}: {show_goal_value(goal)}, wanted {show_bound(goal)}"
        element = case(f"goal {goal.name}", Verdict.PASSED)
        ET.SubElement(element, "system-out").text = xml_text(f"{text}\n{goal.why}".strip(), multiline=True)
    return counted(suite)


def bench_markdown(result: BenchResult, command: str) -> str:
    """The result for a job's page.

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    problems = [Problem(result.error, "broken off")] if result.error else []
    for group in result.groups:
        problems += [Problem(check.detail, f"{group.name}: {check.name}") for check in group.checks if not check.passed]
        problems += [
            Problem(refusal.error, f"{group.name}: {refusal.name} is refused")
            for refusal in group.refusals
            if not refusal.was_expected
        ]
    goals = tuple(
        (goal.name, show_goal_value(goal), show_bound(goal), goal.verdict.value, goal.why or NOTHING)
        for goal in result.goals
    )
    columns = (Column("goal", is_name=True), Column("is", is_number=True), Column("wanted", is_number=True))
    groups = tuple(
        (group.name, f"{len(group.ratios):,}", "skipped" if group.skipped else show_s(group.elapsed_s))
        for group in result.groups
    )
    tables = [Table("Goals", (*columns, Column("verdict"), Column("why")), goals)] if goals else []
    tables.append(
        Table("Groups", (Column("group"), Column("ratios", is_number=True), Column("took", is_number=True)), groups)
    )
    notes = [answer_plan(result)]
    notes += [f"{group.name}: {note}" for group in result.groups for note in group.notes]
    notes += [f"{name}: {value}" for name, value in result.facts.items()]
    return render(
        Summary(
            title="harness bench",
            outcome="passed" if result.passed else "failed",
            verdict=describe_bench(result),
            problems=tuple(problems),
            tables=tuple(tables),
            notes=tuple(notes),
            command=command,
        )
    )
