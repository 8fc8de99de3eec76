"""Read-only looks at a cluster: what it is made of, what it is doing, and why something does not work."""

from __future__ import annotations

from harness.inspectors.contract import Envelope, Inspector, Reason, Status
from harness.inspectors.run import Inspection, Limits, inspect

__all__ = ["Envelope", "Inspection", "Inspector", "Limits", "Reason", "Status", "inspect"]
