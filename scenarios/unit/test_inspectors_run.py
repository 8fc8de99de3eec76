"""How a look is run, without a cluster: what is too large, what is judged, what nobody foresaw, which Citus."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from harness.errors import BadInputError
from harness.inspectors import Inspection, opening, registry
from harness.inspectors.advisor import findings_of
from harness.inspectors.contract import (
    Cost,
    Envelope,
    FailedNode,
    Finding,
    Found,
    Inspector,
    Reason,
    Severity,
    Status,
    Unavailable,
)
from harness.inspectors.inputs import Listing
from harness.inspectors.limits import Limits
from harness.inspectors.redaction import Redactor
from harness.inspectors.report import Look, Report
from harness.inspectors.report.shapes import to_json
from harness.inspectors.session import Session


class NoServer:
    """As much of a connection as a look needs that asks nothing."""

    closed = False

    def add_notice_handler(self, handler: object) -> None:
        """Nobody warns."""

    def remove_notice_handler(self, handler: object) -> None:
        """Nobody warned."""


@dataclass(frozen=True)
class Row:
    id: int
    text: str = ""
    parts: tuple[int, ...] = ()


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    return [
        Finding("is_bad", Severity.ERROR, "row", str(row.id), "bad", row.text)
        for row in envelope.rows
        if row.text.startswith("bad")
    ]


Run = Callable[..., Envelope[Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a look of this test's own, or of the registry, on a session without a server."""

    def run_look(
        look: Callable[[Session, Listing], Found[Row]] | str,
        values: Mapping[str, Any] | None = None,
        *,
        known: Mapping[str, Envelope[Any]] | None = None,
        most_bytes: int = 256 * 1024,
        citus_version: str = "14.0.1",
    ) -> Envelope[Any]:
        connection: Any = NoServer()
        limits = Limits(most_bytes=most_bytes)
        session = Session(connection, (), 0, "here", citus_version, Redactor(), limits, Cost.CATALOG)
        monkeypatch.setattr(opening, "transaction", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(opening, "open_session", lambda *_: session)
        name = look if isinstance(look, str) else "looks"
        if not isinstance(look, str):
            inspector = Inspector(
                name, "", Cost.CATALOG, "", Listing, Row, ("id",), frozenset(), (), look, severity=_severity
            )
            monkeypatch.setattr(registry, "get", lambda _: inspector)
        return Inspection(connection, limits=limits, redactor=Redactor()).inspect(name, values, known=known)

    return run_look


def found(*rows: Row) -> Callable[[Session, Listing], Found[Row]]:
    """A look that finds these."""
    return lambda _session, _inputs: Found(rows)


# ---------------------------------------------------------------------------------------------------- what is large


def test_row_that_does_not_fit_makes_the_answer_partial_and_the_walk_goes_on_behind_it(run: Run) -> None:
    look = found(*(Row(n, "x" * 199 if n in {1, 4} else "x") for n in range(6)))
    walked: list[int] = []
    told: list[str] = []
    cursor, answers = None, 0
    while True:
        page = run(look, {"cursor": cursor, "limit": 2}, most_bytes=200)
        walked += [row.id for row in page.rows]
        told += page.warnings
        assert (page.status, page.reason) == (
            (Status.PARTIAL, Reason.TOO_LARGE) if page.warnings else (Status.OK, None)
        )
        cursor, answers = page.next_cursor, answers + 1
        assert page.truncated is (cursor is not None)
        if cursor is None:
            break
    assert (walked, answers) == ([0, 2, 3, 5], 3)
    assert told == ["row 2 has more than 200 bytes: it is left out", "row 1 has more than 200 bytes: it is left out"]


def test_answer_of_which_no_row_fits_is_not_ok_and_leads_on(run: Run) -> None:
    page = run(found(Row(1, "x" * 199), Row(2)), {"limit": 1}, most_bytes=200)
    assert (page.status, page.reason, page.rows, page.truncated) == (Status.PARTIAL, Reason.TOO_LARGE, (), True)
    after = run(found(Row(1, "x" * 199), Row(2)), {"limit": 1, "cursor": page.next_cursor}, most_bytes=200)
    assert (after.status, after.rows, after.next_cursor) == (Status.OK, (Row(2),), None)


def test_reason_of_the_look_itself_stays_before_that_of_the_size(run: Run) -> None:
    def look(_session: Session, _inputs: Listing) -> Found[Row]:
        return Found([Row(1, parts=tuple(range(500)))], reason=Reason.GUC_OFF, message="it is off")

    page = run(look, most_bytes=200)
    assert (page.status, page.reason, page.message) == (Status.PARTIAL, Reason.GUC_OFF, "it is off")
    assert page.warnings == (f"row 1 has more than 200 bytes: {500 - len(page.rows[0].parts)} parts are left off",)


# -------------------------------------------------------------------------------------------------- what is judged


@pytest.mark.parametrize("bad", [0, 100, 149])
def test_findings_are_those_of_all_rows_on_every_page(run: Run, bad: int) -> None:
    look = found(*(Row(n, "bad" if n == bad else "good") for n in range(150)))
    first = run(look)
    second = run(look, {"cursor": first.next_cursor})
    assert (len(first.rows), len(second.rows)) == (100, 50)
    for page in (first, second):
        assert [each.target for each in findings_of(page)] == [str(bad)]
        assert Report((Look(page, 1.0, findings_of(page)),)).exit_code == 1
        assert "findings" not in page.document()
        assert "findings" not in to_json(page)


def test_evidence_is_cut_as_cells_are(run: Run) -> None:
    (finding,) = findings_of(run(found(Row(1, "bad" * 100))))
    assert len(finding.evidence) == 200


def test_rows_that_a_stranger_made_are_judged_as_they_are() -> None:
    envelope: Envelope[Any] = Envelope("list_nodes", Status.OK)
    assert envelope.findings is None
    assert findings_of(envelope) == ()


def _known(**changed: Envelope[Any]) -> dict[str, Envelope[Any]]:
    return {name: Envelope(name, Status.OK, findings=()) for name in registry.names()} | changed


def test_health_report_of_a_broken_cluster_is_1(run: Run) -> None:
    bad = Finding("node_unreachable", Severity.ERROR, "node", "host:1", "the node does not answer")
    hint = Finding("node_skew", Severity.WARNING, "node", "host:1", "uneven")
    nodes: Envelope[Any] = Envelope("list_nodes", Status.PARTIAL, Reason.NODE_UNREACHABLE, "host:1", findings=(bad,))
    skew: Envelope[Any] = Envelope("shard_skew_report", Status.OK, findings=(hint,))
    health = run("citus_health_report", known=_known(list_nodes=nodes, shard_skew_report=skew))
    assert findings_of(health) == (bad, hint)
    assert health.facts["overall"] == "error"
    assert Report((Look(health, 1.0, findings_of(health)),)).exit_code == 1
    warned = run("citus_health_report", known=_known(shard_skew_report=skew))
    assert Report((Look(warned, 1.0, findings_of(warned)),)).exit_code == 0


def test_health_report_of_which_a_look_met_an_error_is_3(run: Run) -> None:
    broken: Envelope[Any] = Envelope("list_shards", Status.ERROR, Reason.INTERNAL, "an error that nobody foresaw")
    health = run("citus_health_report", known=_known(list_shards=broken))
    assert (health.status, health.reason, health.facts["overall"]) == (Status.ERROR, Reason.INTERNAL, "error")
    assert Report((Look(health, 1.0, findings_of(health)),)).exit_code == 3


def test_answer_that_was_only_cut_has_been_judged(run: Run) -> None:
    large: Envelope[Any] = Envelope("table_inspector", Status.PARTIAL, Reason.TOO_LARGE, truncated=True, findings=())
    health = run("citus_health_report", known=_known(table_inspector=large))
    assert (health.status, health.facts["overall"]) == (Status.OK, "ok")
    advice = run("citus_advisor", known=_known(table_inspector=large))
    assert advice.facts["rules"]["index_drift (table_inspector)"] == "ok"
    missing: Envelope[Any] = Envelope("table_inspector", Status.PARTIAL, Reason.NODE_FAILED, findings=())
    advice = run("citus_advisor", known=_known(table_inspector=missing))
    assert advice.facts["rules"]["index_drift (table_inspector)"] == "skipped: node_failed"


# ------------------------------------------------------------------------------------------- why there is no answer


def test_error_that_nobody_foresaw_is_an_envelope_with_its_type_and_none_of_its_words(run: Run) -> None:
    def look(_session: Session, _inputs: Listing) -> Found[Row]:
        b"planted\xff".decode()
        return Found(())

    envelope = run(look)
    assert (envelope.status, envelope.reason) == (Status.ERROR, Reason.INTERNAL)
    assert envelope.message == "an error that nobody foresaw: UnicodeDecodeError"


def test_bad_input_that_the_look_finds_is_bad_input_still(run: Run) -> None:
    def look(_session: Session, _inputs: Listing) -> Found[Row]:
        raise BadInputError("x=1 cannot be used")

    with pytest.raises(BadInputError, match="x=1"):
        run(look)
    with pytest.raises(BadInputError, match="cursor="):
        run(found(Row(1)), {"cursor": "x"})


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("13.2.0", Reason.UNSUPPORTED_VERSION),
        ("9.5", Reason.UNSUPPORTED_VERSION),
        ("", Reason.CITUS_MISSING),
        ("14.0.1", None),
        ("15.0", None),
    ],
)
def test_inspectors_that_need_citus_need_14(run: Run, version: str, reason: Reason | None) -> None:
    envelope = run(found(Row(1)), citus_version=version)
    assert (envelope.status, envelope.reason) == ((Status.UNAVAILABLE, reason) if reason else (Status.OK, None))
    if reason is Reason.UNSUPPORTED_VERSION:
        assert version in envelope.message
        assert "Citus 14 and newer" in envelope.message
        assert run("list_nodes", citus_version=version).reason is reason


def test_look_to_which_no_node_answered_has_the_reason_that_they_gave(run: Run) -> None:
    def look(session: Session, _inputs: Listing) -> Found[Row]:
        session.failed = {1: FailedNode(1, "host:1", "insufficient_privilege: permission denied for function f")}
        raise Unavailable(Reason.NODE_UNREACHABLE, "no node answered")

    envelope = run(look)
    assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.INSUFFICIENT_PRIVILEGE)
    assert envelope.message == "host:1 did not let this role look"
