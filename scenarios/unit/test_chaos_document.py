"""What a run leaves for machines, for people and for a job's page; exit codes of the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import jsonschema
import pytest

from harness.chaos.board import Board, is_expected, recoveries
from harness.chaos.document import chaos_markdown, describe_runs, to_chaos_document
from harness.chaos.model import Done, Judged, Lane, Options, Recovery, RunResult, Step, Trouble
from harness.chaos.plan import make_plan
from harness.cli import chaos as command
from harness.cli import main
from harness.errors import HashCollisionError, ServerGoneError
from harness.report import load_schema

STEP = Step(Lane.FAULT, 1.0, "worker_killed", 0.5, 7)


def result(seed: int, *troubles: Trouble, is_equal: bool = True) -> RunResult:
    return RunResult(
        plan=make_plan(seed, 10.0, has_citus=True),
        done=(Done(STEP, 1.0, 1.5, "worker-1 killed", "done"),),
        acknowledged=100,
        unknown=3,
        unknown_committed=1,
        rolled_back=5,
        row_count=700,
        troubles=troubles,
        stream_tables=(Judged("public.totals", 5, is_equal, "" if is_equal else "1 rows missing, 0 extra"),),
        refreshes={"FULL": 2},
        refresh_failures={"LockedError": 1},
        recoveries={"worker_killed": Recovery(1.2, 0.7)},
        write_errors={"ConnectionFailure 08006": 2},
        facts={"Citus": "14.0-1"},
    )


@pytest.mark.parametrize("results", [[result(1)], [result(1), result(2, Trouble("lost", "orders", "row 1"))]])
def test_the_document_follows_its_schema_and_sums_up(results: list[RunResult]) -> None:
    document = to_chaos_document(results, "harness chaos")
    jsonschema.validate(document, load_schema("chaos-1"))
    assert document["acknowledged"] == 100 * len(results)
    assert document["lost"] == len(results) - 1
    assert document["passed"] is (len(results) == 1)
    assert document["failed_seeds"] == [2][: len(results) - 1]
    assert document["recovery_s"] == {"worker_killed": {"after_begin": 1.2, "after_end": 0.7}}
    assert [fault["kind"] for fault in document["faults"]] == ["worker_killed"] * len(results)


def test_any_trouble_and_any_unequal_stream_table_fails_a_run() -> None:
    assert result(1).passed
    assert not result(1, is_equal=False).passed
    for code in ("lost", "doubled", "phantom", "altered", "unexpected_error", "bug", "leftover", "not_undone"):
        assert not result(1, Trouble(code, "x", "y")).passed


def test_the_page_and_the_verdict_name_the_seed_and_the_command() -> None:
    page = unescape(chaos_markdown([result(1), result(44, is_equal=False)], "harness chaos --runs 2"))
    assert "harness chaos --seconds 10 --seed 44" in page
    assert "1 rows missing" in page
    assert "seeds that failed: 44" in describe_runs([result(1), result(44, is_equal=False)])


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[RunResult]:
    """What the runs come to, without the runs."""
    results: list[RunResult] = []

    def run(options: Options, _tell: object) -> Iterator[RunResult]:
        options.check()
        yield from results

    monkeypatch.setattr(command, "run_chaos", run)
    return results


def harness(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["harness", "chaos", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    return int(leaving.value.code or 0)


def test_a_run_that_failed_leaves_with_1_and_says_how_to_repeat_it(
    finished: list[RunResult],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    finished += [result(8), result(9, Trouble("lost", "orders", "row 1 of w0-1 is not there"))]
    page = tmp_path / "page.md"
    assert harness(monkeypatch, "--seed", "8", "--runs", "2", "--json", "--summary", str(page)) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed_seeds"] == [9]
    assert "harness chaos --seconds 10 --seed 9" in err
    assert "row 1 of w0-1 is not there" in unescape(page.read_text())


def test_runs_that_passed_leave_with_0(
    finished: list[RunResult], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.append(result(8))
    assert harness(monkeypatch, "--seed", "8") == 0
    assert "1 of 1 run passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seconds", "0"],
        ["--seconds", "-3"],
        ["--seconds", "nan"],
        ["--seconds", "ten"],
        ["--seed", "-1"],
        ["--seed", str(2**63)],
        ["--seed", "1.5"],
        ["--runs", "0"],
        ["--runs", "2", "--keep"],
        ["--plain", "--cluster", "local"],
        ["--cluster", "a cloud"],
        ["--cluster", "host=nowhere.invalid dbname=x"],
        ["--summary", "/nowhere/at/all.md"],
        ["--seconds", "0", "--plan"],
    ],
)
def test_bad_input_leaves_with_2_before_anything_is_started(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_the_next_good_refresh_after_a_fault_is_the_one_that_began_after_it() -> None:
    board = Board()
    board.add_done(Done(STEP, 1.0, 2.0, "", "done"))
    board.refreshed("FULL", 0.9, 1.1)  # was under way already
    board.refreshed("FULL", 1.2, 2.5)
    board.refreshed("FULL", 3.0, 3.1)
    assert recoveries(board) == {"worker_killed": Recovery(1.5, 0.5)}


def test_what_no_fault_explains_is_a_trouble() -> None:
    board = Board()
    board.failed("a refresher", "totals", ServerGoneError("gone"), 0.0)
    assert board.troubles == []
    board.failed("a refresher", "totals", HashCollisionError("two rows"), 0.0)
    board.failed("a refresher", "totals", KeyError("x"), 0.0)
    assert [trouble.code for trouble in board.troubles] == ["unexpected_error", "bug"]
    assert "KeyError" in board.troubles[1].detail
    assert is_expected(ServerGoneError("gone"), ())
