"""What inspectors found, for people and machines: a JSON document with a published schema, a page, a table."""

from __future__ import annotations

from harness.inspectors.report.document import SCHEMA, to_document
from harness.inspectors.report.model import Look, Report, Skipped

__all__ = ["SCHEMA", "Look", "Report", "Skipped", "to_document"]
