"""``harness rehearse`` without a server: what it prints where, its exit codes, its end by a signal."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.cli import rehearse as command
from harness.errors import CheckFailedError, PreflightError, ServerGoneError
from harness.errors import Finding as PreflightFinding
from harness.rehearsal.model import RehearsalResult
from harness.rehearsal.options import OnProgress, Progress, RehearsalOptions
from harness.settings import load_settings
from scenarios.fixtures.reports import make_result

FILES = {"report.html", "report.json", "junit.xml"}


class Rehearsal:
    """Stands where the rehearsal is called: remembers the options, answers or raises what it was told to."""

    def __init__(self) -> None:
        self.options: RehearsalOptions | None = None
        self.result: RehearsalResult = make_result(writes_per_s=50)
        self.action: Callable[[], None] = lambda: None

    def __call__(self, options: RehearsalOptions, *, on_progress: OnProgress) -> RehearsalResult:
        self.options = options
        on_progress(Progress("look", "reading the [catalog]"))
        on_progress(Progress("copy", "copying", 0.5))
        on_progress(Progress("copy", "copying", 0.7))
        self.action()
        return self.result

    def fail_with(self, error: Exception) -> None:
        def fail() -> None:
            raise error

        self.action = fail


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    made = Rehearsal()
    monkeypatch.setattr(command, "run_rehearsal", made)
    monkeypatch.delenv("HARNESS_REHEARSE_DSN", raising=False)
    load_settings.cache_clear()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)
    load_settings.cache_clear()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run ``harness rehearse`` as the console script does; its exit code."""
    monkeypatch.setattr("sys.argv", ["harness", "rehearse", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    code = leaving.value.code
    return code if isinstance(code, int) else 0


def test_rehearsal_that_passed_ends_with_0_and_leaves_its_report(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--report", str(tmp_path / "new" / "place")) == 0
    assert {path.name for path in (tmp_path / "new" / "place").iterdir()} == FILES
    out, err = capfd.readouterr()
    assert "PASSED" in out
    assert str(tmp_path / "new" / "place" / "report.html") in out
    assert "look: reading the [catalog]" in err
    assert err.count("copying") == 1
    assert rehearsal.options is not None
    assert rehearsal.options.dsn is None


def test_check_that_failed_ends_with_1_and_is_named(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rehearsal.result = make_result(passed=False, sources=('public."[bold]x"',), detail="2 rows lost [red]")
    assert run(monkeypatch, "--report", str(tmp_path)) == 1
    out = capfd.readouterr().out
    assert 'captured_rows_once of public."[bold]x" after check_up: 2 rows lost [red]' in out
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_json_is_the_only_thing_on_stdout_and_equals_the_file(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--json", "--report", str(tmp_path)) == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert document["passed"] is True
    assert out == (tmp_path / "report.json").read_text(encoding="utf-8")
    assert "PASSED" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sources", "0"),
        ("--rows", "-1"),
        ("--sources", "many"),
        ("--copy", "magic"),
        ("--lock-timeout-ms", "0"),
        ("--no-such-option",),
        ("--dsn", "  "),
        ("--dsn", "not a dsn"),
        ("--report", "/dev/null/reports"),
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_2_and_a_message_before_anything_runs(
    arguments: tuple[str, ...], rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, *arguments) == 2
    out, err = capfd.readouterr()
    assert rehearsal.options is None
    assert out == ""
    assert arguments[0] in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerGoneError("the server died", hint="see its log"), 3),
        (PreflightError("refused", [PreflightFinding("half_catalog", "pgtrickle", "two tables of four")]), 2),
        (CheckFailedError("lost rows"), 1),
    ],
    ids=["environment", "refused", "check"],
)
def test_error_of_the_rehearsal_decides_the_exit_code_and_no_report_is_written(
    error: Exception,
    code: int,
    rehearsal: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rehearsal.fail_with(error)
    assert run(monkeypatch, "--json", "--report", str(tmp_path)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_bug_keeps_its_traceback_and_is_not_taken_for_a_failed_check(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rehearsal.fail_with(ZeroDivisionError("with password=hunter2"))
    assert run(monkeypatch, "--report", str(tmp_path)) == 3
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_lets_the_rehearsal_clean_up_and_ends_with_3(
    number: signal.Signals,
    rehearsal: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    def be_interrupted() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            os.kill(os.getpid(), number)  # an impatient second one does not disturb
            cleaned.append("up")

    rehearsal.action = be_interrupted
    assert run(monkeypatch, "--report", str(tmp_path)) == 3
    assert cleaned == ["up"]
    assert signal.getsignal(number) is signal.SIG_IGN
    err = capfd.readouterr().err
    assert "interrupted by" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("text", ["postgresql://me:hunter2@host:port/db", "host=x password=hunter2 nonsense"])
def test_password_of_a_dsn_that_cannot_be_parsed_is_not_shown(
    text: str, rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if "port" in text:
        rehearsal.fail_with(ServerGoneError(f"cannot use {text}"))  # libpq looks at the port when it connects
    assert run(monkeypatch, "--dsn", text) in (2, 3)
    assert "hunter2" not in "".join(capfd.readouterr())


def test_password_of_a_dsn_is_in_no_file_and_no_output(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_REHEARSE_DSN", "postgresql://me:hunter2@db.example/shop")
    assert run(monkeypatch, "--report", str(tmp_path)) == 0
    assert rehearsal.options is not None
    assert rehearsal.options.dsn == "postgresql://me:hunter2@db.example/shop"
    everything = "".join(capfd.readouterr()) + "".join(path.read_text() for path in tmp_path.iterdir())
    assert "hunter2" not in everything
    assert "db.example" in everything


def test_command_to_repeat_has_the_seed_and_what_differs_from_the_defaults() -> None:
    options = RehearsalOptions(dsn="postgresql://me:pw@h/d%20b", crash=True, lock_timeout_ms=20, deadline_s=90.0)
    words = shlex.split(command.command_to_repeat(options, 5, Path("elsewhere/x y")))
    assert words[:4] == ["harness", "rehearse", "--seed", "5"]
    assert "pw" not in " ".join(words)
    assert words[words.index("--lock-timeout-ms") + 1] == "20"
    assert words[words.index("--deadline-s") + 1] == "90"
    assert words[words.index("--report") + 1] == "elsewhere/x y"
    assert "--crash" in words
    assert "--sources" not in words
    assert command.command_to_repeat(RehearsalOptions(), 9, Path("reports")) == "harness rehearse --seed 9"
