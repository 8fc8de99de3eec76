"""``harness rehearse --extension-update`` before anything runs: what goes with it, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.cli.rehearse_extension import command_to_repeat, update_options
from harness.errors import BadInputError
from harness.postgres.installations import wheel_bindir
from harness.rehearsal.extension.model import UpdateOptions
from harness.rehearsal.extension.scripts import script_directories
from harness.settings import load_settings

SPAN = ("--extension-update", "0.66.0..0.67.0")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PostgreSQL that never had the extension, and no variable of the caller's."""
    wheel = wheel_bindir()
    assert wheel is not None
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(wheel))
    for name in ("HARNESS_REHEARSE_DSN", "HARNESS_EXTENSION_SCRIPTS"):
        monkeypatch.delenv(name, raising=False)
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["harness", "rehearse", *arguments, "--report", str(tmp_path / "reports")])
    with pytest.raises(SystemExit) as leaving:
        main()
    code = leaving.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--extension-update", "0.67.0"), "names no two versions"),
        (("--extension-update", "every..0.67.0", "--dsn", "dbname=shop"), "a database is at one version"),
        ((*SPAN, "--crash"), "does not go with --crash"),
        ((*SPAN, "--dump", "shop.dump"), "does not go with --dump"),
        ((*SPAN, "--sources", "3"), "does not go with --sources"),
        ((*SPAN, "--rows", "10"), "does not go with --rows"),
        ((*SPAN, "--copy", "logical"), "does not go with --copy"),
        ((*SPAN, "--immediate", "refuse"), "does not go with --immediate"),
        ((*SPAN, "--jobs", "2"), "does not go with --jobs"),
        ((*SPAN, "--lock-timeout-ms", "50"), "does not go with --lock-timeout-ms"),
        ((*SPAN, "--threads", "0"), "--threads 0 is out of range"),
        (("--extension-scripts", "."), "belongs to --extension-update"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_ends_with_2_and_leaves_no_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert run(monkeypatch, tmp_path, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert "hint:" in printed.err
    assert not (tmp_path / "reports" / "report.json").exists()


def test_machine_without_the_extension_ends_with_3_and_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    assert run(monkeypatch, tmp_path, *SPAN, "--json", "--summary", str(page)) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no PostgreSQL with pg_trickle was found" in printed.err
    assert "HARNESS_PG_BINDIR" in printed.err
    assert "no PostgreSQL with pg" in page.read_text(encoding="utf-8")


def test_command_to_repeat_has_no_password_and_gives_the_same_options() -> None:
    options = UpdateOptions(
        "0.2.0",
        "0.67.0",
        dsn="host=db user=app password=hunter2",
        scripts=(Path("/one"), Path("/two")),
        seed=5,
        deadline_s=90.0,
    )
    words = shlex.split(command_to_repeat(options, Path("elsewhere")))
    assert "hunter2" not in " ".join(words)
    assert words[:4] == ["harness", "rehearse", "--extension-update", "0.2.0..0.67.0"]
    assert [words[place + 1] for place, word in enumerate(words) if word == "--extension-scripts"] == ["/one", "/two"]
    assert words[words.index("--seed") + 1] == "5"
    assert words[words.index("--deadline-s") + 1] == "90"
    assert words[words.index("--dsn") + 1] == "user=app host=db"
    assert words[-2:] == ["--report", "elsewhere"]
    assert "hunter2" not in repr(options)


def test_options_draw_a_seed_and_make_paths_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    made = update_options("1..2", dsn=None, scripts=[Path("here")], seed=None, keep=False, threads=2, deadline_s=60)
    assert made.scripts == (Path("here").absolute(),)
    assert 0 <= made.seed < 2**31
    with pytest.raises(BadInputError, match="--deadline-s 0 is out of range"):
        update_options("1..2", dsn=None, scripts=[], seed=1, keep=False, threads=2, deadline_s=0)
    monkeypatch.setenv("HARNESS_EXTENSION_SCRIPTS", "/a:/b")
    load_settings.cache_clear()
    assert script_directories() == (Path("/a"), Path("/b"))


def test_schema_describes_every_field() -> None:
    path = Path(__file__).parents[2] / "harness/report/schema/extension-update-1.json"
    schema = json.loads(path.read_text(encoding="utf-8"))

    def walk(part: object) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object" and "properties" in part:
                assert set(part["required"]) == set(part["properties"])
            for value in part.values():
                walk(value)

    walk(schema)
