"""The report of a rehearsal: a JSON document, a JUnit file, a page, and a summary for the terminal."""

from __future__ import annotations

from harness.report.document import SCHEMA, load_schema, to_document
from harness.report.junit import to_junit
from harness.report.page import to_page
from harness.report.write import ReportPaths, write_report

__all__ = ["SCHEMA", "ReportPaths", "load_schema", "to_document", "to_junit", "to_page", "write_report"]
