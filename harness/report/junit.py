"""The JUnit file of a rehearsal: each step and each check a test case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET  # written here, never parsed

from harness.rehearsal.model import CheckResult, RehearsalResult, StepResult, Verdict
from harness.report.text import finite, visible

# What XML 1.0 can't hold, not even escaped (its production [2] Char).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(result: RehearsalResult, command: str) -> bytes:
    """The result as a JUnit XML document in UTF-8.

    Args:
        result: of one rehearsal.
        command: the command that repeats it, without a password.

    Returns:
        One suite of the steps and one of the checks of each phase. A failure carries its detail, a skip its reason.
    """
    root = ET.Element("testsuites", name="harness rehearse", time=_seconds(result.elapsed_s))
    suites = [_step_suite(result, command)]
    for phase in dict.fromkeys(check.phase for check in result.checks):
        suites.append(_check_suite(phase, (check for check in result.checks if check.phase == phase)))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _step_suite(result: RehearsalResult, command: str) -> ET.Element:
    suite = ET.Element("testsuite", name="steps", time=_seconds(result.elapsed_s), timestamp=_text(result.started_at))
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("seed", str(result.seed)),
        ("command", command),
        ("source", result.source_dsn),
        ("upgrade_s", _seconds(result.upgrade_s)),
        ("longest_stall_ms", f"{result.longest_stall_ms:.3f}"),
    ):
        ET.SubElement(properties, "property", name=name, value=_text(value))
    for step in result.steps:
        _add_step(suite, step)
    if not result.passed and not any(step.verdict is Verdict.FAILED for step in result.steps):
        # A file without a failure would turn a pipeline green; the result as a whole is one more case.
        whole = ET.SubElement(suite, "testcase", classname="rehearsal", name="passed", time="0")
        ET.SubElement(whole, "failure", message="the rehearsal did not pass", type="rehearsal")
    return _counted(suite)


def _add_step(suite: ET.Element, step: StepResult) -> None:
    case = ET.SubElement(
        suite, "testcase", classname="rehearsal.steps", name=_text(step.name), time=_seconds(step.elapsed_s)
    )
    _add_outcome(case, step.verdict, step.detail, kind="step")


def _check_suite(phase: str, checks: Iterable[CheckResult]) -> ET.Element:
    suite = ET.Element("testsuite", name=_text(f"checks after {phase}"), time="0")
    for check in checks:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_text(f"rehearsal.{phase}.{check.name}"),
            name=_text(f"{check.name}[{check.subject}]"),
            time="0",
        )
        _add_outcome(case, check.verdict, check.detail, kind=check.name)
        if check.was_wrong_before and check.verdict is Verdict.PASSED:
            ET.SubElement(case, "system-out").text = _text(f"was wrong before: {check.detail}", multiline=True)
    return _counted(suite)


def _add_outcome(case: ET.Element, verdict: Verdict, detail: str, *, kind: str) -> None:
    if verdict is Verdict.PASSED:
        return
    tag = "failure" if verdict is Verdict.FAILED else "skipped"
    first_line = detail.split("\n", 1)[0] or ("no detail was given" if tag == "failure" else "no reason was given")
    outcome = ET.SubElement(case, tag, message=_text(first_line))
    if tag == "failure":
        outcome.set("type", _text(kind))
    outcome.text = _text(detail, multiline=True)


def _counted(suite: ET.Element) -> ET.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return suite


def _text(text: str, *, multiline: bool = False) -> str:
    return _NOT_XML.sub("\ufffd", visible(text, multiline=multiline))


def _seconds(value: float) -> str:
    return f"{finite(value, 3) or 0.0:.3f}"
