"""Reports of all inspectors, of a coordinator that goes away in the middle: what was seen is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness.errors import ConnectionRefusedByInput, HarnessError, LockedError
from harness.inspectors import Inspection, registry
from harness.inspectors.contract import Envelope, Reason, Status
from harness.inspectors.report.making import report_all

DSN = "host=nowhere dbname=x"


class Failing(Inspection):
    """Answers everything but the looks of these numbers, from 0."""

    def __init__(self, error: HarnessError, *numbers: int) -> None:
        self.error = error
        self.numbers = numbers
        self.asked = 0

    def inspect(
        self,
        name: str,
        values: Mapping[str, Any] | None = None,
        *,
        known: Mapping[str, Envelope[Any]] | None = None,
    ) -> Envelope[Any]:
        """Nobody is asked."""
        self.asked += 1
        if self.asked - 1 in self.numbers:
            raise self.error
        return Envelope(name, Status.OK, findings=())


def test_coordinator_that_cannot_be_reached_again_ends_the_report_and_not_what_was_seen() -> None:
    inspection = Failing(ConnectionRefusedByInput("no connection to there, password=hidden7"), 3)
    report = report_all(inspection, DSN)
    reasons = [look.envelope.reason for look in report.looks]
    assert reasons == [None] * 3 + [Reason.SERVER_GONE] * (len(reasons) - 3)
    assert len(reasons) == len(registry.names()) - len(report.skipped)
    assert inspection.asked == 4  # each further one would wait for a connection
    assert {look.envelope.status for look in report.looks[3:]} == {Status.UNAVAILABLE}
    words = {look.envelope.message for look in report.looks[3:]}
    assert len(words) == 1
    assert "no connection to there" in words.pop()
    assert "hidden7" not in str(report)


def test_look_that_finds_no_place_is_told_and_the_next_one_is_asked() -> None:
    report = report_all(Failing(LockedError("4 looks are under way"), 2, 4), DSN)
    missing = [number for number, look in enumerate(report.looks) if look.envelope.status is Status.UNAVAILABLE]
    assert missing == [2, 4]
    assert report.looks[2].envelope.message == "4 looks are under way"


@pytest.mark.parametrize("error", [ConnectionRefusedByInput("no connection"), LockedError("4 looks")])
def test_report_of_which_the_first_look_cannot_be_made_is_none(error: HarnessError) -> None:
    with pytest.raises(type(error)):
        report_all(Failing(error, 0), DSN)
