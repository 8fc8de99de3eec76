"""A rehearsed update of an extension: what each step is blamed for, what decides, and what the reports say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from jsonschema import Draft202012Validator

from harness.errors import BadInputError, PreflightError
from harness.postgres import Installation, Server
from harness.rehearsal.extension import demonstration
from harness.rehearsal.extension.every import rehearse_ground
from harness.rehearsal.extension.model import (
    CATALOG_CHECK,
    EVERY,
    FUNCTION_CHECK,
    NEW_CHECK,
    REFRESH_CHECK,
    ROWS_CHECK,
    WRITERS_CHECK,
    FunctionState,
    UpdateOptions,
    UpdateResult,
)
from harness.rehearsal.extension.place import Ground, Place, install
from harness.rehearsal.extension.run import rehearse_place
from harness.rehearsal.extension.scripts import ScriptDirectory, fetch_path, parse_span
from harness.rehearsal.model import CheckResult, Verdict
from harness.report import load_schema
from harness.report.document import dump_document
from harness.report.extension_update import (
    to_update_document,
    to_update_junit,
    to_update_page,
    update_markdown,
)
from harness.report.extension_versions import version_rows
from harness.report.text import NOTHING
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.upgrade.stand_in import HELD, provide

COMMAND = "harness rehearse --extension-update 1.0..1.2"


class Rehearse(Protocol):
    """Rehearses an update of the stand-in."""

    def __call__(self, start: str, target: str, *, deadline_s: float = 600.0, is_held: bool = False) -> UpdateResult:
        """From one version to another; ``is_held`` while somebody holds what writes at 1.6 wait for."""


@pytest.fixture(scope="module")
def stand_in_server(installation: Installation) -> Iterator[tuple[Server, ScriptDirectory]]:
    """A server that finds the stand-in's scripts."""
    if installation.major < 18:
        skip_not_applicable("extension_control_path exists since PostgreSQL 18")
    server = Server.create(installation, name="stand-in")
    try:
        server.start()
        directory = provide(server.scratch_dir / "stand-in")
        server.set("extension_control_path", f"{directory.parent}:$system")
        yield server, ScriptDirectory(directory, {})
    finally:
        server.destroy()


@pytest.fixture
def rehearse(stand_in_server: tuple[Server, ScriptDirectory]) -> Iterator[Rehearse]:
    """Rehearse an update from one version of the stand-in to another, in a database of its own."""
    server, scripts = stand_in_server
    made: list[str] = []

    def go(start: str, target: str, *, deadline_s: float = 600.0, is_held: bool = False) -> UpdateResult:
        dbname = f"update_{len(made)}"
        server.create_database(dbname)
        made.append(dbname)
        with contextlib.closing(server.connect(dbname)) as conn:
            path = fetch_path(conn, start, target)
            install(conn, start)
            sources, refused = demonstration.build(conn)
        assert refused == ()
        place = Place(server, dbname, sources, path, scripts, "1.2", "demonstration")
        with contextlib.closing(server.connect(dbname)) as holder:
            if is_held:
                holder.execute("SELECT pg_advisory_lock(%s)", [HELD])
            return rehearse_place(UpdateOptions(start, target, seed=7, deadline_s=deadline_s), place)

    yield go
    server.close()
    for dbname in made:
        server.drop_database(dbname)


def named(result: UpdateResult, version: str) -> set[tuple[str, str]]:
    return {(c.name, c.subject) for c in result.checks if c.phase == version and c.verdict is Verdict.FAILED}


def test_good_update_passes_though_a_version_between_was_bad(rehearse: Rehearse) -> None:
    result = rehearse("1.0", "1.2")
    assert [(step.start, step.target, step.verdict) for step in result.steps] == [
        ("1.0", "1.1", Verdict.PASSED),
        ("1.1", "1.2", Verdict.PASSED),
    ]
    assert result.passed
    assert named(result, "1.0") == named(result, "1.2") == set()
    assert named(result, "1.1") == {(CATALOG_CHECK, "catalog")}
    first, between, last = result.versions
    assert between.differences == ("column pgtrickle.pgt_stream_tables.tier is missing",)
    assert first.differences == last.differences == ()
    assert (last.refreshed, last.stream_tables, last.new_stream_table) == (5, 5, "")
    assert result.writes >= 3 * 20
    assert result.rows == 6500
    by_name = {check.name for check in result.checks if check.phase == "1.2"}
    assert by_name == {CATALOG_CHECK, FUNCTION_CHECK, NEW_CHECK, REFRESH_CHECK, ROWS_CHECK, WRITERS_CHECK}
    assert all(step.longest_stall_ms is None or step.longest_stall_ms > 0 for step in result.steps)


def test_functions_are_told_apart_by_what_became_of_them(rehearse: Rehearse) -> None:
    result = rehearse("1.0", "1.1")
    states = {one.identity.partition("(")[0]: one.state for one in result.versions[-1].functions}
    assert states == {
        "pgtrickle.always_fails": FunctionState.FAILS,
        "pgtrickle.always_refuses": FunctionState.REFUSES,
        "pgtrickle.create_stream_table": FunctionState.REFUSES,  # the name that it is called with is taken
        "pgtrickle.drop_stream_table": FunctionState.RUNS,
        "pgtrickle.pgt_status": FunctionState.RUNS,
        "pgtrickle.refresh_stream_table": FunctionState.RUNS,
        "pgtrickle.waits_long": FunctionState.RUNS,  # it is asked not to
        "pgtrickle.wants_something": FunctionState.NOT_CALLED,
    }
    failing = next(c for c in result.checks if c.subject == "pgtrickle.always_fails()" and c.phase == "1.1")
    assert failing.verdict is Verdict.PASSED, "it fails in a fresh one as well: the update is not to blame"
    assert failing.was_wrong_before
    assert failing.detail.startswith("42P01 ")


def test_bad_last_version_fails_with_each_thing_by_name(rehearse: Rehearse) -> None:
    result = rehearse("1.2", "1.3")
    assert [step.verdict for step in result.steps] == [Verdict.PASSED]
    assert not result.passed
    found = named(result, "1.3")
    assert {(CATALOG_CHECK, "catalog"), (FUNCTION_CHECK, "pgtrickle.pgt_status()")} <= found
    assert (REFRESH_CHECK, "shop.totals") in found
    assert (NEW_CHECK, "a stream table made for this") in found
    assert {check.name for check in result.deciding} == {CATALOG_CHECK, FUNCTION_CHECK, REFRESH_CHECK, NEW_CHECK}
    differences = result.versions[-1].differences
    assert differences is not None
    assert differences[0] == "column pgtrickle.pgt_stream_tables.fuse is missing"
    assert differences[1].startswith("function pgtrickle.refresh_stream_table(text): fresh ")
    assert len(differences) == 2


def test_step_that_fails_ends_the_steps_and_leaves_what_was(rehearse: Rehearse) -> None:
    result = rehearse("1.2", "1.5")
    assert [(step.target, step.verdict) for step in result.steps] == [
        ("1.3", Verdict.PASSED),
        ("1.4", Verdict.FAILED),
        ("1.5", Verdict.SKIPPED),
    ]
    assert result.steps[1].detail == '42P01 relation "pgtrickle.never_there" does not exist'
    assert not result.passed
    at_first, before, after = result.versions
    assert (at_first.version, before.version, after.version) == ("1.2", "1.3", "1.3, after 1.4 failed")
    assert before.differences == after.differences, "a step is one transaction"
    assert version_rows(result)[-1][:2] == ("1.5", "skipped")


def test_update_after_which_every_write_waits_for_ever_fails(rehearse: Rehearse) -> None:
    result = rehearse("1.2", "1.6", deadline_s=8.0, is_held=True)
    assert [step.verdict for step in result.steps] == [Verdict.PASSED]
    assert not result.passed
    assert {check.name for check in result.deciding} == {WRITERS_CHECK}
    (check,) = result.deciding
    assert "2 write(s) still waited when the writers were to end" in check.detail
    assert "no write that began at it committed" in check.detail
    assert check.phase == "1.6"


def test_same_update_passes_where_nothing_has_to_be_waited_for(rehearse: Rehearse) -> None:
    result = rehearse("1.2", "1.6")
    assert result.passed, result.deciding


def test_reports_say_what_was_found(rehearse: Rehearse, tmp_path: Path) -> None:
    result = rehearse("1.2", "1.4")
    document: dict[str, Any] = json.loads(dump_document(to_update_document(result, COMMAND)))
    schema = load_schema("extension-update-1")
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)
    assert document.keys() == schema["properties"].keys() == set(schema["required"])
    assert document["passed"] is False
    assert document["check_counts"]["deciding"] == len(result.deciding)
    assert "the step to 1.4 failed" in document["verdict"]
    page = to_update_page(result, COMMAND)
    assert "pgtrickle.never_there" in page
    assert "<script" not in page
    junit = to_update_junit(result, COMMAND).decode()
    assert 'name="1.3..1.4"' in junit
    assert "between two versions, does not decide" in junit
    markdown = update_markdown(result, COMMAND)
    assert "harness rehearse" in markdown
    assert "1&#46;4" in markdown or "1.4" in markdown


def test_versions_without_a_way_between_them_are_refused(stand_in_server: tuple[Server, ScriptDirectory]) -> None:
    server, _ = stand_in_server
    with contextlib.closing(server.connect("postgres")) as conn:
        for start, target in (("1.2", "1.0"), ("1.0", "9.9")):
            with pytest.raises(PreflightError) as caught:
                fetch_path(conn, start, target)
            (finding,) = caught.value.findings
            assert (finding.code, finding.subject) == ("no_update_path", f"{start}..{target}")
            assert "1.0, 1.1" in finding.message


def test_scripts_say_what_the_server_will_say_of_a_way(stand_in_server: tuple[Server, ScriptDirectory]) -> None:
    """So that no base backup is made for a way that is not there."""
    server, scripts = stand_in_server
    with contextlib.closing(server.connect("postgres")) as conn:
        pairs = conn.execute(
            "SELECT source, target, path IS NOT NULL FROM pg_extension_update_paths('pg_trickle')"
        ).fetchall()
    assert {has_way for _, _, has_way in pairs} == {True, False}
    for start, target, has_way in pairs:
        with contextlib.nullcontext() if has_way else pytest.raises(PreflightError, match=f"from {start} to {target}"):
            scripts.require_way(start, target)


def test_version_that_is_not_fresh_is_compared_with_nothing(
    rehearse: Rehearse, stand_in_server: tuple[Server, ScriptDirectory]
) -> None:
    _, scripts = stand_in_server
    kept = scripts.directory / "pg_trickle--1.1.sql"
    aside = kept.rename(kept.with_suffix(".aside"))
    try:
        result = rehearse("1.0", "1.1")
    finally:
        aside.rename(kept)
    assert result.versions[-1].differences is None
    assert [c.verdict for c in result.checks if c.name == CATALOG_CHECK and c.phase == "1.1"] == [Verdict.SKIPPED]
    assert result.passed


def test_each_first_version_is_judged_where_it_arrives(
    stand_in_server: tuple[Server, ScriptDirectory],
) -> None:
    """From 1.0 and 1.1 a column comes with the way; from 1.2 one that a function reads never comes (`bad last`)."""
    server, scripts = stand_in_server
    good = rehearse_ground(UpdateOptions(EVERY, "1.2", seed=7), Ground(server, scripts, "1.2"))
    assert [(step.start, step.target, step.verdict) for step in good.steps] == [
        ("1.0", "1.2", Verdict.PASSED),
        ("1.1", "1.2", Verdict.FAILED),
    ], "1.1 has the column already when it is fresh"
    assert not good.passed
    assert [found.version for found in good.versions] == ["1.0", "1.1", "1.2, from 1.0", "1.1, after 1.2 failed"]
    assert good.versions[2].differences == ()
    assert good.deciding == ()
    bad = rehearse_ground(UpdateOptions(EVERY, "1.3", seed=7), Ground(server, scripts, "1.2"))
    assert {check.phase for check in bad.deciding} == {"1.3, from 1.0", "1.3, from 1.2"}
    with contextlib.closing(server.connect("postgres")) as conn:
        left = conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^(from_|harness_fresh)'").fetchall()
        assert left == []
    document = to_update_document(bad, COMMAND)
    Draft202012Validator(load_schema("extension-update-1")).validate(json.loads(dump_document(document)))
    assert document["from_version"] == EVERY
    assert "1.3, from 1.0" in to_update_page(bad, COMMAND)
    assert document["verdict"].startswith(
        "pg_trickle 1.3 from each of 3 versions: 3 versions of them do not end well; "
    )
    assert "1 update failed, first from 1.1: 42701" in document["verdict"]
    also = tuple(
        CheckResult(WRITERS_CHECK, phase, "t", Verdict.FAILED, "1 write failed")
        for phase in ("1.0", "1.1, after 1.3 failed")
    )
    told = to_update_document(replace(bad, checks=(*bad.checks, *also)), COMMAND)["verdict"]
    assert "3 versions of them" in told, "each is counted once"
    assert [row[:2] for row in version_rows(bad)] == [
        ("1.0 to 1.2", NOTHING),
        ("1.3, from 1.0", "passed"),
        ("1.1, after 1.3 failed", "failed"),
        ("1.3, from 1.2", "passed"),
    ], "a step stands where it left the extension"


def test_version_that_nothing_here_leads_to_is_refused(stand_in_server: tuple[Server, ScriptDirectory]) -> None:
    server, scripts = stand_in_server
    with pytest.raises(PreflightError) as caught:
        rehearse_ground(UpdateOptions(EVERY, "9.9"), Ground(server, scripts, "1.2"))
    assert [finding.subject for finding in caught.value.findings] == ["every..9.9"]


def test_neighbours_with_equal_answers_share_a_line(rehearse: Rehearse) -> None:
    result = rehearse("1.0", "1.2")
    first, _, last = result.versions
    step = result.steps[1]
    versions = (first, *(replace(last, version=name) for name in ("1.2", "1.3", "1.4")))
    steps = [replace(step, target=name, elapsed_s=took) for name, took in (("1.2", 0.25), ("1.3", 0.5), ("1.4", 4.0))]
    rows = version_rows(replace(result, target="1.4", steps=tuple(steps), versions=versions))
    assert [row[:3] for row in rows] == [("1.0", NOTHING, NOTHING), ("1.2 to 1.4", "passed", "0.25 s to 4.00 s")]


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (("1.3, from 1.0", "1.3, from 1.1"), "1.3, from 1.0 to 1.1"),
        (("1.0, after 1.3 failed", "1.1, after 1.3 failed"), "1.0 to 1.1, after 1.3 failed"),
        (("1.0, after 1.1 failed", "1.3, from 1.2"), "1.0, after 1.1 failed to 1.3, from 1.2"),
    ],
)
def test_line_of_several_versions_says_what_they_share_once(
    rehearse: Rehearse, names: tuple[str, str], together: str
) -> None:
    result = rehearse("1.0", "1.1")
    versions = tuple(replace(result.versions[0], version=name) for name in names)
    assert [row[0] for row in version_rows(replace(result, steps=(), versions=versions))] == [together]


def test_same_version_twice_is_no_update() -> None:
    assert parse_span("0.66.0..0.67.0") == ("0.66.0", "0.67.0")
    for text in ("0.67.0", "0.67.0..", "0.67.0..0.67.0", "a b..c", "..0.1"):
        with pytest.raises(BadInputError, match="names no two versions"):
            parse_span(text)
