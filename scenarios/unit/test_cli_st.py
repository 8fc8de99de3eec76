"""``harness st`` without a server: where queries come from, what the engine is asked, what is printed, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psycopg
import pytest

from harness.cli import main
from harness.cli import stream_tables as command
from harness.errors import QueryRefusedError, StreamTableNotFoundError
from harness.settings import load_settings
from harness.trickle import Explanation, Holder, Refresh, Status, StreamTable
from harness.trickle.oracle import Difference

MADE = StreamTable(
    pgt_id=7,
    relid=16_500,
    schema="public",
    name="totals",
    query="SELECT 1",
    original_query="select 1",
    schedule="1m",
    mode="AUTO",
    status="ACTIVE",
    placement="distributed",
    distribution_column="region",
    is_populated=True,
    needs_reinit=False,
    last_refresh_at=datetime(2026, 11, 21, 7, 0, tzinfo=UTC),
    consecutive_errors=0,
    frontier={"sources": {}},
    storage_format=1,
    last_full_ms=12.5,
    us_per_change=3.0,
    version="745",
    dependencies=(),
)


class Engine:
    """Stands where StreamTables is: remembers what it is asked, answers or raises what it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self.is_closed = False

    def __call__(self, connection: object) -> Self:
        assert connection is not None
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def __getattr__(self, verb: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> Any:
            self.calls.append((verb, arguments, options))
            answer = self.answers.get(verb, MADE)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()

    @contextmanager
    def connected(dsn: str | None, *, name: str) -> Iterator[object]:
        assert name == "harness st"
        yield SimpleNamespace(dsn=dsn)

    monkeypatch.setattr("harness.trickle.StreamTables", made)
    monkeypatch.setattr(command, "connected", connected)
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``harness st`` as the console script does; its exit code."""

    def harness(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["harness", "st", *arguments])
        with pytest.raises(SystemExit) as leaving:
            main()
        code = leaving.value.code
        return code if isinstance(code, int) else 0

    return harness


def document(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, _ = capfd.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert found["schema"] == "harness/st/1"
    return found


def test_create_takes_the_query_from_its_argument(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("create", "totals", " SELECT 1; ", "--mode", "full", "--placement", "reference", "-s", "30s") == 0
    assert engine.calls == [
        ("create", ("totals", "SELECT 1;"), {"schedule": "30s", "mode": "FULL", "placement": "reference"})
    ]
    assert engine.is_closed
    assert "created public.totals: AUTO, distributed by region, every 1m, ACTIVE" in capfd.readouterr().out


def test_create_has_the_engines_defaults(engine: Engine, run: Any) -> None:
    assert run("create", "totals", "SELECT 1") == 0
    assert engine.calls[0][2] == {"schedule": "1m", "mode": "AUTO", "placement": "auto"}
    assert run("create", "totals", "SELECT 1", "--no-schedule") == 0
    assert engine.calls[1][2]["schedule"] is None


def test_create_takes_the_query_from_a_file(engine: Engine, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    file.write_text("SELECT 'ä'\n", encoding="utf-8-sig")
    assert run("create", "totals", "--file", str(file)) == 0
    assert engine.calls[0][1] == ("totals", "SELECT 'ä'")


@pytest.mark.parametrize("where", [["-"], ["--file", "-"]], ids=["argument", "option"])
def test_create_takes_the_query_from_stdin(
    engine: Engine, run: Any, monkeypatch: pytest.MonkeyPatch, where: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("SELECT 'ö'".encode())))
    assert run("create", "totals", *where) == 0
    assert engine.calls[0][1] == ("totals", "SELECT 'ö'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "totals"], "no query is given"),
        (["create", "totals", "   "], "the query is empty"),
        (["create", "totals", "SELECT 1", "--file", "x.sql"], "given twice"),
        (["create", "totals", "--file", "/nowhere/x.sql"], "/nowhere/x.sql can't be read: No such file"),
        (["create", "totals", "--file", "/"], "can't be read: Is a directory"),
        (["create", "totals", "SELECT 1", "--mode", "FAST"], "FAST"),
        (["create", "totals", "SELECT 1", "--placement", "moon"], "moon"),
        (["alter", "totals"], "nothing is to be changed"),
        (["refresh", "totals", "--mode", "AUTO"], "AUTO"),
        (["refresh"], "Missing argument"),
        (["status", "tot\udcffals"], "not text that a database can hold"),
        (["alter", "totals", "--schedule", "1\udcffm"], "not text that a database can hold"),
        (["drop", "tot\udcffals"], "not text that a database can hold"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_before_the_engine_is_asked(
    engine: Engine, run: Any, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert engine.calls == []


def test_query_that_is_no_utf8_is_refused(engine: Engine, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(b"SELECT '\xff'")
    assert run("create", "totals", "--file", str(file)) == 2
    file.write_bytes(b"SELECT '\0'")
    assert run("create", "totals", "--file", str(file)) == 2
    assert engine.calls == []


def test_alter_names_only_what_changes(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("alter", "totals", "--schedule", "5m", "--json") == 0
    assert engine.calls == [("alter", ("totals",), {"query": None, "schedule": "5m", "mode": None})]
    found = document(capfd)
    assert (found["passed"], found["command"]) == (True, "alter")
    table = found["stream_table"]
    assert (table["qualified"], table["last_refresh_at"]) == ('"public"."totals"', "2026-11-21T07:00:00+00:00")
    assert "frontier" not in table


def test_refresh_says_what_it_did(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    done = Refresh(MADE.qualified, "DIFFERENTIAL", "few changes", 120, 40, 38, 23.4, "colocated merge")
    engine.answers["refresh"] = done
    assert run("refresh", "totals", "--mode", "differential") == 0
    assert engine.calls == [("refresh", ("totals",), {"mode": "DIFFERENTIAL", "wait_s": 0.0})]
    out = capfd.readouterr().out
    assert "DIFFERENTIAL, 120 changes, 40 rows in and 38 out, colocated merge, 23.4 ms" in out
    assert run("refresh", "totals", "--json") == 0
    assert document(capfd)["refresh"]["change_count"] == 120


def test_suspend_resume_and_drop_ask_the_engine(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    engine.answers["drop"] = None
    assert [run("suspend", "totals"), run("resume", "totals"), run("drop", "totals", "--cascade")] == [0, 0, 0]
    assert [call[0] for call in engine.calls] == ["suspend", "resume", "drop"]
    assert engine.calls[2][2] == {"cascade": True}
    capfd.readouterr()
    assert run("drop", "totals", "--json") == 0
    assert document(capfd)["dropped"] == "totals"


def test_list_shows_hostile_names_as_they_are(
    engine: Engine, run: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    hostile = StreamTable(
        **{field: getattr(MADE, field) for field in MADE.__dataclass_fields__}
        | {"name": "o'[red]brien\x1b[31m", "status": "ERROR", "needs_reinit": True, "distribution_column": None}
    )
    engine.answers["list"] = [MADE, hostile]
    assert run("list") == 0
    out = capfd.readouterr().out
    assert "public.totals" in out
    assert "o'[red]brien\\x1b[31m" in out
    assert "ERROR, to be rebuilt" in out
    assert "\x1b[31m" not in out
    assert run("list", "--json") == 0
    assert [table["status"] for table in document(capfd)["stream_tables"]] == ["ACTIVE", "ERROR"]


def test_list_of_nothing_says_how_to_make_one(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    engine.answers["list"] = []
    assert run("list") == 0
    assert "harness st create" in capfd.readouterr().out
    assert run("list", "--json") == 0
    assert document(capfd)["stream_tables"] == []


def test_status_names_who_holds_rows_back(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    holder = Holder(node="worker-1", pid=4711, age_s=62.0, state="idle in transaction", query="UPDATE orders SET x = 1")
    engine.answers["status"] = [Status(MADE, {"public.orders": 3}, (holder,))]
    assert run("status", "totals") == 0
    assert engine.calls == [("status", ("totals",), {})]
    out = capfd.readouterr().out
    assert "3 captured rows of public.orders wait" in out
    assert "held back on worker-1 by pid 4711, idle in transaction, open for 62 s: UPDATE orders" in out
    assert run("status", "--json") == 0
    (found,) = document(capfd)["stream_tables"]
    assert (found["pending"], found["held_by"][0]["pid"]) == ({"public.orders": 3}, 4711)


def test_status_of_an_error_is_a_failed_check(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    broken = StreamTable(**{field: getattr(MADE, field) for field in MADE.__dataclass_fields__} | {"status": "ERROR"})
    engine.answers["status"] = [Status(MADE, {}, ()), Status(broken, {}, ())]
    assert run("status", "--json") == 1
    assert document(capfd)["passed"] is False


def test_explain_shows_the_statements(engine: Engine, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    engine.answers["explain"] = Explanation(
        MADE.qualified, "FULL", "WITH RECURSIVE", "rewrite", (("the [delta]", "SELECT '[red]'"),), ("Task 1",), ("n",)
    )
    assert run("explain", "totals") == 0
    out = capfd.readouterr().out
    for expected in ("public.totals: FULL", "why: WITH RECURSIVE", "-- the [delta]", "SELECT '[red]'", "Task 1", "n"):
        assert expected in out
    assert run("explain", "totals", "--json") == 0
    assert document(capfd)["explanation"]["statements"] == [["the [delta]", "SELECT '[red]'"]]


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (Difference(0, 0), 0, "equals its query"),
        (Difference(2, 1, ("missing (1,[x])",)), 1, "2 rows missing, 1 extra\n  missing (1,[x])"),
    ],
    ids=["equal", "different"],
)
def test_check_ends_with_1_on_a_difference(
    engine: Engine,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    found: Difference,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(command, "compare", lambda connection, name: found)
    assert run("check", "totals") == code
    assert said in capfd.readouterr().out
    assert run("check", "totals", "--json") == code
    told = document(capfd)
    assert (told["passed"], told["difference"]["missing"]) == (code == 0, found.missing)
    assert engine.calls == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (QueryRefusedError("random() is volatile", hint="use FULL"), 2, "use FULL"),
        (StreamTableNotFoundError("there is no stream table totals"), 2, "no stream table totals"),
        (psycopg.errors.UndefinedTable("gone"), 2, "refreshing totals: gone"),
        (psycopg.errors.InsufficientPrivilege("may not"), 2, "may not"),
        (psycopg.errors.DeadlockDetected("deadlock"), 2, "run the same command again"),
        (psycopg.errors.LockNotAvailable("locked"), 2, "somebody else was in the way"),
        (psycopg.DataError("zero byte"), 2, "zero byte"),
        (psycopg.OperationalError("server closed the connection"), 3, "what was not committed is undone"),
        (psycopg.errors.DiskFull("no room"), 3, "no room"),
        (psycopg.errors.InternalError_("bug"), 3, "bug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_have_their_exit_code_and_leave_stdout_empty(
    engine: Engine, run: Any, capfd: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    engine.answers["refresh"] = error
    assert run("refresh", "totals", "--json") == code
    out, err = capfd.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert engine.is_closed


def test_no_database_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HARNESS_DSN", raising=False)
    load_settings.cache_clear()
    try:
        assert run("list") == 2
    finally:
        load_settings.cache_clear()
    assert "HARNESS_DSN" in capfd.readouterr().err


def test_database_that_is_not_there_is_refused(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--dsn", "host=127.0.0.1 port=1 dbname=x user=x password=secret") == 2
    out, err = capfd.readouterr()
    assert "no connection to host=127.0.0.1 port=1" in err
    assert "secret" not in out + err
