"""Parts of JUnit files: outcomes, counts, and text that XML can hold."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET  # written here, never parsed

from harness.rehearsal.model import Verdict
from harness.report.text import finite, visible

# What XML 1.0 can't hold, not even escaped (its production [2] Char).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add_outcome(case: ET.Element, verdict: Verdict, detail: str, *, kind: str) -> None:
    """Say of a case that it failed or was skipped, and why; nothing of one that passed.

    Args:
        case: the test case.
        verdict: how it ended.
        detail: why.
        kind: the failure's type.
    """
    if verdict is Verdict.PASSED:
        return
    tag = "failure" if verdict is Verdict.FAILED else "skipped"
    first_line = detail.split("\n", 1)[0] or ("no detail was given" if tag == "failure" else "no reason was given")
    outcome = ET.SubElement(case, tag, message=xml_text(first_line))
    if tag == "failure":
        outcome.set("type", xml_text(kind))
    outcome.text = xml_text(detail, multiline=True)


def counted(suite: ET.Element) -> ET.Element:
    """The suite with the counts of its cases."""
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return suite


def written(root: ET.Element, suites: list[ET.Element]) -> bytes:
    """The document of some suites, in UTF-8, with their counts in its root."""
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def xml_text(text: str, *, multiline: bool = False) -> str:
    """The text with its unseen characters made visible, and without what XML has no form for."""
    return _NOT_XML.sub("\ufffd", visible(text, multiline=multiline))


def seconds(value: float) -> str:
    """Seconds as JUnit has them."""
    return f"{finite(value, 3) or 0.0:.3f}"
