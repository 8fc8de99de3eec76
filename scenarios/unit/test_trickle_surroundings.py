"""What of an error is the cluster's doing, and how it is told: metadata that are out of sync."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from harness.errors import LockedError
from harness.trickle.session import understood
from harness.trickle.surroundings import is_of_the_surroundings

CONNECTION = cast("psycopg.Connection[Any]", SimpleNamespace(closed=False, broken=False))


def _prerequisite(source_file: str) -> psycopg.Error:
    """55000 as a server says it from one of its files."""

    class Said(psycopg.errors.ObjectNotInPrerequisiteState):
        diag = cast("psycopg.errors.Diagnostic", SimpleNamespace(source_file=source_file, message_primary="not now"))

    return Said("not now")


def test_metadata_out_of_sync_are_no_fault_of_a_query() -> None:
    assert is_of_the_surroundings(_prerequisite("worker_transaction.c"), CONNECTION)
    assert not is_of_the_surroundings(_prerequisite("sequence.c"), CONNECTION), "a query's own, such as currval()"


def test_metadata_that_stay_out_of_sync_are_told_as_locked() -> None:
    with pytest.raises(LockedError, match="totals: not now") as caught, understood("totals", CONNECTION):
        raise _prerequisite("worker_transaction.c")
    assert "metadatasynced" in caught.value.hint
    assert caught.value.sqlstate == "55000"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState), understood("totals", CONNECTION):
        raise _prerequisite("sequence.c")
