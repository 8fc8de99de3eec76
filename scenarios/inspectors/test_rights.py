"""Roles with few rights: the rows that a superuser sees, or a word of what is missing; never fewer in silence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from harness.inspectors import Envelope, Reason, Status, inspect
from scenarios.inspectors import everything
from scenarios.inspectors.fixture_standard import ROLES, Standard

pytestmark = pytest.mark.citus(">= 14")
# Rows about the asking session itself differ with who asks.
_OWN_SESSIONS = frozenset({"citus_activity", "citus_pool_inspector", "citus_top_statements", "citus_stats_dashboard"})
_REASONS_OF_RIGHTS = {Reason.INSUFFICIENT_PRIVILEGE, Reason.INPUT_INCOMPLETE}


def _rows(envelope: Envelope[Any], missing: Collection[str] = ()) -> list[Any]:
    """Its rows without what is said of the role itself: that it may write, and of a report what it says it misses."""
    rows = [
        row
        for row in everything.still(envelope)["rows"]
        if row.get("scope") != "role" and row.get("name") not in missing
    ]
    return [{key: value for key, value in row.items() if key != "infos"} for row in rows]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", everything.names())
def test_role_sees_all_or_is_told_what_it_cannot(standard: Standard, name: str, role: str) -> None:
    values = everything.values(name)
    whole = inspect(standard.dsn(), name, values)
    seen = inspect(standard.dsn(role), name, values)
    assert seen.status is not Status.ERROR, seen
    if seen.status is whole.status and seen.reason is whole.reason:
        if name not in _OWN_SESSIONS:
            missing = {row["name"] for row in _rows(seen) if row.get("reason") in _REASONS_OF_RIGHTS}
            assert _rows(seen, missing) == _rows(whole, missing)
    else:
        assert seen.reason in _REASONS_OF_RIGHTS, seen
        assert seen.message


@pytest.mark.parametrize("name", everything.names())
def test_inspectors_role_is_enough(standard: Standard, name: str) -> None:
    """What `harness inspect setup-role` makes sees all that a superuser does, but for what says so."""
    seen = inspect(standard.dsn("inspector"), name, everything.values(name))
    whole = inspect(standard.dsn(), name, everything.values(name))
    if name == "citus_rebalance_plan":  # Citus' own function needs USAGE on every schema, and an inspector has none
        assert (seen.status, seen.reason) == (Status.UNAVAILABLE, Reason.INSUFFICIENT_PRIVILEGE)
    else:
        assert (seen.status, seen.reason) == (whole.status, whole.reason), seen
