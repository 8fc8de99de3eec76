"""`harness inspect NAME` on the standard cluster: what it prints, its options, its exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.inspectors import registry
from harness.postgres.places import base_dir
from harness.report import load_schema
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import HOSTILE_SCHEMA, HOSTILE_TABLE, LONG_TABLE, TABLES, Standard
from scenarios.inspectors_surface.commands import TIMEOUT_S, command, environment, run, spawn, worker_name

pytestmark = pytest.mark.citus(">= 14")


def _without_password(dsn: str) -> tuple[str, str]:
    parts = conninfo_to_dict(dsn)
    password = str(parts.pop("password"))
    return make_conninfo("", **parts), password


def test_json_is_the_published_document_and_its_rows_are_those_of_the_catalog(standard: Standard) -> None:
    done = spawn("inspect", "list_nodes", "--json", dsn=standard.dsn())
    assert (done.code, done.err) == (0, "")
    jsonschema.validate(done.document, load_schema("inspect-1"), cls=jsonschema.Draft202012Validator)
    seen = [(row["nodeid"], row["groupid"], f"{row['nodename']}:{row['nodeport']}") for row in done.envelope["rows"]]
    assert seen == standard.cluster.rows(
        "SELECT nodeid, groupid, nodename || ':' || nodeport FROM pg_dist_node ORDER BY groupid, nodeid"
    )
    assert (done.document["passed"], done.envelope["status"], done.envelope["reason"]) == (True, "ok", None)


def test_table_shows_the_same_rows_as_json(standard: Standard) -> None:
    done = run("citus_cluster_summary", "--section", "tables", "--table", dsn=standard.dsn())
    assert done.code == 0
    shown = dict(re.findall(r"│ +\d+ │ tables +│ (\w+) +│ +(\d+) │", done.out))
    rows = run("citus_cluster_summary", "--section", "tables", "--json", dsn=standard.dsn()).envelope["rows"]
    assert shown == {row["name"]: str(row["value"]) for row in rows}
    assert sum(map(int, shown.values())) == len(TABLES)


def test_hostile_names_go_in_and_come_out_as_they_are(standard: Standard) -> None:
    done = run("list_shards", "--schema", HOSTILE_SCHEMA, "--relation", HOSTILE_TABLE, "--json", dsn=standard.dsn())
    assert done.code == 0, done.err
    assert {(row["schema"], row["table"]) for row in done.envelope["rows"]} == {(HOSTILE_SCHEMA, HOSTILE_TABLE)}
    assert len(done.envelope["rows"]) == TABLES[HOSTILE_SCHEMA, HOSTILE_TABLE][1]
    shown = run("list_shards", "--schema", HOSTILE_SCHEMA, "--relation", HOSTILE_TABLE, dsn=standard.dsn())
    assert HOSTILE_TABLE in shown.out


def test_escapes_of_a_terminal_in_a_name_are_shown_and_not_obeyed(standard: Standard) -> None:
    done = run("list_shards", "--schema", "\x1b[2Japp", "--json", dsn=standard.dsn())
    assert done.code in (0, 3)
    shown = run("list_shards", "--schema", "\x1b[2Japp", dsn=standard.dsn())
    assert "\x1b[2J" not in shown.out + shown.err


def test_limit_and_cursor_walk_through_all_rows_once(standard: Standard) -> None:
    walked: list[tuple[str, str]] = []
    options: list[str] = []
    while True:
        envelope = run("list_distributed_tables", "--limit", "4", *options, "--json", dsn=standard.dsn()).envelope
        walked += [(row["schema"], row["table"]) for row in envelope["rows"]]
        assert envelope["truncated"] == (envelope["next_cursor"] is not None)
        if not envelope["truncated"]:
            break
        assert len(envelope["rows"]) == 4
        options = ["--cursor", envelope["next_cursor"]]
    whole = run("list_distributed_tables", "--json", dsn=standard.dsn()).envelope
    assert walked == [(row["schema"], row["table"]) for row in whole["rows"]]
    assert len(walked) == len(set(walked)) > 8


def test_dashes_may_stand_for_underscores_and_flags_can_be_switched_off(standard: Standard) -> None:
    done = run("list-nodes", "--no-include-reachability", "--json", dsn=standard.dsn())
    assert [row["reachable"] for row in done.envelope["rows"]] == [None, None, None]
    assert done.document["command"].startswith("harness inspect list_nodes --no-include-reachability --dsn ")


def test_dsn_option_wins_and_no_password_is_printed(standard: Standard) -> None:
    dsn, password = _without_password(standard.dsn())
    elsewhere = make_conninfo(dsn, port="1")
    done = run("list_nodes", "--dsn", dsn, "--json", dsn=elsewhere, extra={"PGPASSWORD": password})
    assert done.code == 0
    given = run("list_nodes", "--dsn", standard.dsn(), "--json")
    assert given.code == 0
    for each in (done, given):
        assert password not in each.out + each.err
        assert "password" not in each.document["command"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list_nodez"], "No such command 'list_nodez'"),
        ([], "Usage:"),
        (["list_nodes", "--limit", "0"], "limit='0' cannot be used"),
        (["list_nodes", "--limit", "1001"], "it takes a whole number from 1 to 1000"),
        (["list_nodes", "--limit", "1; drop table app.orders"], "limit='1; drop table app.orders' cannot be used"),
        (["list_nodes", "--cursor", "bm90IGEgY3Vyc29y"], "cursor='bm90IGEgY3Vyc29y' cannot be used"),
        (["list_nodes", "--schema", "app"], "No such option"),
        (["citus_cluster_summary", "--section", "everything"], "it takes one of all, versions"),
        (["list_nodes", "--json", "--table"], "--json and --table: one of them"),
        (["list_nodes", "--cluster", "nobody-s"], "there is no cluster named 'nobody-s'"),
        (["list_nodes", "--cluster", "x", "--dsn", "host=y"], "--cluster and --dsn name two places"),
        (["list_nodes", "--dbname", "x"], "--dbname is of --cluster"),
        (["list_nodes", "--dsn", "host=x port"], "the DSN cannot be read"),
        (["--all", "list_nodes"], "options of a look stand after its name"),
        (["--json"], "no inspector is named"),
        (["--all", "--report", "/proc/nowhere"], "no report can be written there"),
        (["setup-role", "--adopt"], "options of --apply"),
        (["setup-role", "--role", "pg_mine"], "role='pg_mine' cannot be a role"),
        (["list_nodes", "--every", "0"], "--every"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_2_and_is_named(standard: Standard, arguments: list[str], words: str) -> None:
    is_named = {"--dsn", "--cluster", "--dbname"} & set(arguments)
    done = run(*arguments, dsn=None if is_named else standard.dsn())
    assert done.code == 2, done.out + done.err
    assert words in re.sub(r"[\s│]+", " ", done.out + done.err)
    assert "Traceback" not in done.err
    assert not done.out.startswith("{")


def test_nothing_that_names_a_cluster_is_2() -> None:
    done = run("list_nodes", "--json")
    assert (done.code, done.out) == (2, "")
    assert "no cluster is named" in done.err


def test_nobody_there_is_3_without_a_password(standard: Standard) -> None:
    dsn, password = _without_password(standard.dsn())
    done = spawn("inspect", "list_nodes", "--json", dsn=make_conninfo(dsn, port="1", password=password))
    assert (done.code, done.out) == (3, "")
    assert "no connection to" in done.err
    assert password not in done.err


def test_worker_is_3_with_the_reason(standard: Standard) -> None:
    done = run("list_nodes", "--json", dsn=standard.cluster.workers[0].dsn())
    assert done.code == 3
    assert (done.envelope["status"], done.envelope["reason"], done.envelope["rows"]) == (
        *("unavailable", "not_coordinator"),
        [],
    )


def test_database_without_citus_is_3_for_each_inspector_that_needs_it(standard: Standard) -> None:
    coordinator = standard.cluster.coordinator
    with coordinator.temporary_database() as plain:
        done = run("list_shards", "--json", dsn=plain.dsn())
        assert done.code == 3
        assert (done.envelope["status"], done.envelope["reason"]) == ("unavailable", "citus_missing")


def test_switched_off_tracking_is_3_and_not_an_empty_list(standard: Standard) -> None:
    done = run("citus_tenant_hotspots", "--json", dsn=standard.dsn())
    assert done.code == 3
    assert (done.envelope["status"], done.envelope["reason"], done.envelope["rows"]) == ("unavailable", "guc_off", [])
    assert [(each["rule"], each["severity"]) for each in done.envelope["findings"]] == [("tracking_off", "info")]
    shown = run("citus_tenant_hotspots", dsn=standard.dsn())
    assert "nothing there" not in shown.out
    assert "unavailable (guc_off)" in shown.out


def test_prepared_transaction_left_behind_is_told_until_it_is_resolved(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(settings={"max_prepared_transactions": "10"})
    dsn, worker = cluster.coordinator.dsn(), cluster.workers[0]
    # Another coordinator's: nobody here recovers it.
    gid = "citus_77_99999_77_88"
    assert run("citus_txn_inspector", "--json", dsn=dsn).document["findings"] == []
    with worker.connect(autocommit=False) as connection:
        connection.execute("CREATE TABLE left_behind (id int)")
        connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
    try:
        done = run("citus_txn_inspector", "--json", dsn=dsn)
        assert [row["gid"] for row in done.envelope["rows"]] == [gid]
        (finding,) = done.document["findings"]
        assert (finding["rule"], finding["severity"], done.code) == ("prepared_xact_pending", "warning", 0)
        assert gid in finding["target"]
        advice = run("citus_advisor", "--severity", "warning", "--json", dsn=dsn).envelope["rows"]
        assert [(row["rule"], row["source"], row["target"]) for row in advice] == [
            ("prepared_xact_pending", "citus_txn_inspector", finding["target"])
        ]
    finally:
        worker.sql(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    assert run("citus_txn_inspector", "--json", dsn=dsn).document["findings"] == []


def test_node_that_was_stopped_is_1_and_partial_with_its_name(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    name = worker_name(cluster, 2)
    cluster.workers[1].stop()
    done = run("list_nodes", "--json", dsn=cluster.coordinator.dsn())
    assert done.code == 1
    assert (done.envelope["status"], done.envelope["reason"]) == ("partial", "node_unreachable")
    assert [each["node"] for each in done.envelope["nodes"]["failed"]] == [name]
    assert [(each["rule"], each["target"]) for each in done.document["findings"] if each["severity"] == "error"] == [
        ("node_unreachable", name)
    ]
    shown = run("list_nodes", dsn=cluster.coordinator.dsn())
    assert "partial (node_unreachable)" in shown.out
    assert name in shown.out


def test_watch_prints_a_line_a_look_sees_a_change_and_ends_with_0_at_ctrl_c(standard: Standard) -> None:
    words = command("inspect", "citus_activity", "--watch", "--every", "0.1", "--json")
    with subprocess.Popen(
        words, env=environment(standard.dsn()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = json.loads(process.stdout.readline())
            with psycopg.connect(standard.dsn(), application_name="watched by a test") as idle:
                idle.execute("SELECT 1")  # in a transaction
                for _ in range(100):
                    seen = json.loads(process.stdout.readline())
                    apps = [row["app"] for row in seen["inspectors"][0]["rows"]]
                    if "watched by a test" in apps:
                        break
                assert apps.count("watched by a test") == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
    jsonschema.validate(first, load_schema("inspect-1"), cls=jsonschema.Draft202012Validator)
    assert "watched by a test" not in str(first)


def test_watch_as_table_shows_on_a_terminal_until_sigint(standard: Standard) -> None:
    words = command("inspect", "list_nodes", "--watch", "--every", "0.1")
    reader, writer = os.openpty()
    with subprocess.Popen(words, env=environment(standard.dsn()), stdout=writer, stderr=subprocess.PIPE) as process:
        try:
            shown = b""
            while shown.count(b"list_nodes: ok") < 3:
                shown += os.read(reader, 65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)


def test_watch_of_a_place_that_was_never_there_is_3() -> None:
    assert run("list_nodes", "--watch", "--dsn", "host=127.0.0.1 port=1 user=x dbname=x").code == 3


def test_watch_goes_on_when_the_coordinator_was_restarted(make_cluster: MakeCluster) -> None:
    coordinator = make_cluster().coordinator
    words = command("inspect", "list_nodes", "--watch", "--every", "0.1", "--json")
    with subprocess.Popen(words, env=environment(coordinator.dsn()), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["inspectors"][0]["status"] == "ok"
            coordinator.stop()
            seen = json.loads(process.stdout.readline())
            while "complaint" not in seen:
                seen = json.loads(process.stdout.readline())
            coordinator.start()
            while "complaint" in seen or seen["inspectors"][0]["status"] != "ok":
                seen = json.loads(process.stdout.readline())
            assert len(seen["inspectors"][0]["rows"]) == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def test_two_looks_at_an_idle_cluster_are_the_same_bytes_without_the_times(standard: Standard) -> None:
    def look() -> str:
        document = run("list_shards", "--schema", "app", "--json", dsn=standard.dsn()).document
        del document["started_at"], document["elapsed_s"], document["inspectors"][0]["elapsed_ms"]
        document["verdict"] = document["verdict"].rpartition(";")[0]
        return json.dumps(document)

    assert look() == look()


@pytest.mark.parametrize("name", registry.names())
def test_help_of_each_inspector_names_every_input(name: str) -> None:
    done = run(name, "--help", extra={"COLUMNS": "240"})
    assert done.code == 0
    for each in dataclasses.fields(registry.get(name).inputs):
        option = {"table": "relation"}.get(each.name, each.name).replace("_", "-")
        assert f"--{option} " in done.out
    assert "Exit codes: 0 fine, 1 findings of severity error, 2 bad input, 3 could not look." in done.out


def test_help_lists_every_inspector() -> None:
    shown = run("--help", extra={"COLUMNS": "200"}).out
    assert re.findall(r"^│ (\w[\w-]*) +\S", shown, re.MULTILINE) == ["setup-role", *registry.names()]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory of this test's own, short enough for sockets, that the servers' user can reach."""
    place = base_dir() / f"i{os.getpid()}"
    place.mkdir(mode=0o711)
    yield place
    shutil.rmtree(place)


@pytest.mark.usefixtures("citus_installation")
def test_names_of_named_clusters_are_taken(run_dir: Path) -> None:
    place = {"HARNESS_RUN_DIR": str(run_dir), "HARNESS_CACHE_DIR": str(base_dir() / "cache")}
    assert spawn("cluster", "up", "--name", "looked-at", "--workers", "1", extra=place).code == 0
    try:
        done = run("list_nodes", "--cluster", "looked-at", "--json", extra=place)
        assert (done.code, len(done.envelope["rows"])) == (0, 2)
        assert done.document["command"] == "harness inspect list_nodes --cluster looked-at --json"
        again = spawn(*done.document["command"].split()[1:], extra=place)
        assert again.envelope["rows"] == done.envelope["rows"]
        assert run("list_nodes", "--cluster", "looked-at", "--dbname", "nothing", extra=place).code == 3
    finally:
        assert spawn("cluster", "down", "--name", "looked-at", extra=place).code == 0


def test_long_names_are_whole_in_json(standard: Standard) -> None:
    rows = run("list_shards", "--schema", "app", "--relation", LONG_TABLE, "--json", dsn=standard.dsn()).envelope[
        "rows"
    ]
    assert {row["table"] for row in rows} == {LONG_TABLE}
    assert all(len(row["shard_name"].encode()) <= 63 for row in rows)
