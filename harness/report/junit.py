"""The JUnit file of a rehearsal: each step and each check a test case."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree as ET  # written here, never parsed

from harness.rehearsal.model import CheckResult, RehearsalResult, StepResult, Verdict
from harness.report.junit_parts import add_outcome, counted, seconds, written, xml_text


def to_junit(result: RehearsalResult, command: str) -> bytes:
    """The result as a JUnit XML document in UTF-8.

    Args:
        result: of one rehearsal.
        command: the command that repeats it, without a password.

    Returns:
        One suite of the steps and one of the checks of each phase. A failure carries its detail, a skip its reason.
    """
    root = ET.Element("testsuites", name="harness rehearse", time=seconds(result.elapsed_s))
    suites = [_step_suite(result, command)]
    for phase in dict.fromkeys(check.phase for check in result.checks):
        suites.append(_check_suite(phase, (check for check in result.checks if check.phase == phase)))
    return written(root, suites)


def _step_suite(result: RehearsalResult, command: str) -> ET.Element:
    suite = ET.Element("testsuite", name="steps", time=seconds(result.elapsed_s), timestamp=xml_text(result.started_at))
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("seed", str(result.seed)),
        ("command", command),
        ("source", result.source_dsn),
        ("upgrade_s", seconds(result.upgrade_s)),
        ("longest_stall_ms", f"{result.longest_stall_ms:.3f}"),
    ):
        ET.SubElement(properties, "property", name=name, value=xml_text(value))
    for step in result.steps:
        _add_step(suite, step)
    if not result.passed and not any(step.verdict is Verdict.FAILED for step in result.steps):
        # A file without a failure would turn a pipeline green; the result as a whole is one more case.
        whole = ET.SubElement(suite, "testcase", classname="rehearsal", name="passed", time="0")
        ET.SubElement(whole, "failure", message="the rehearsal did not pass", type="rehearsal")
    return counted(suite)


def _add_step(suite: ET.Element, step: StepResult) -> None:
    case = ET.SubElement(
        suite, "testcase", classname="rehearsal.steps", name=xml_text(step.name), time=seconds(step.elapsed_s)
    )
    add_outcome(case, step.verdict, step.detail, kind="step")


def _check_suite(phase: str, checks: Iterable[CheckResult]) -> ET.Element:
    suite = ET.Element("testsuite", name=xml_text(f"checks after {phase}"), time="0")
    for check in checks:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=xml_text(f"rehearsal.{phase}.{check.name}"),
            name=xml_text(f"{check.name}[{check.subject}]"),
            time="0",
        )
        add_outcome(case, check.verdict, check.detail, kind=check.name)
        if check.was_wrong_before and check.verdict is Verdict.PASSED:
            ET.SubElement(case, "system-out").text = xml_text(f"was wrong before: {check.detail}", multiline=True)
    return counted(suite)
