"""`harness inspect --all`: the document, the page, the time, and what is kept of a failed scenario."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
from lxml import etree

from harness.inspectors import Inspection, registry
from harness.inspectors.contract import Cost, Status
from harness.inspectors.report.keeping import keep_report
from harness.inspectors.report.making import report_all
from harness.report import load_schema
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import HOSTILE_TABLE, TABLES, Standard
from scenarios.inspectors_surface.commands import TIMEOUT_S, environment, run, spawn, worker_name

pytestmark = pytest.mark.citus(">= 14")
ROOT = Path(__file__).parents[2]


def _validate(document: dict[str, Any]) -> None:
    jsonschema.validate(document, load_schema("inspect-1"), cls=jsonschema.Draft202012Validator)


def _found(page: etree._Element, path: str) -> list[str]:
    answer = page.xpath(path)
    assert isinstance(answer, list)
    return [str(each) for each in answer]


def test_all_gives_every_inspector_once_as_document_page_and_table(standard: Standard, tmp_path: Path) -> None:
    place = tmp_path / "made" / "here"
    done = run("--all", "--json", "--report", str(place), dsn=standard.dsn("inspector"))
    assert done.code == 0, done.document["findings"]
    _validate(done.document)
    names = [each["name"] for each in done.document["inspectors"]]
    assert sorted(names + [each["name"] for each in done.document["skipped"]]) == sorted(registry.names())
    assert json.loads((place / "inspect.json").read_text()) == done.document
    (tables,) = (each for each in done.document["inspectors"] if each["name"] == "list_distributed_tables")
    assert {(row["schema"], row["table"]) for row in tables["rows"]} == set(TABLES) - {
        ("app", name) for name in ("events_p2026_01", "events_p2026_02", "events_p2026_03")
    }
    page = etree.HTML((place / "inspect.html").read_bytes())
    assert _found(page, "//section[@id='verdict']/h1//text()") == ["✓", " Fine"]
    assert _found(page, "//section[@id='rows']/h3/@id") == names
    assert _found(page, "//script | //link[@rel='stylesheet'] | //img | //iframe | //@onclick") == []
    cells = _found(page, "//h3[@id='list_distributed_tables']/following::table[1]//td/text()")
    assert HOSTILE_TABLE in cells
    shown = run("--all", "--report", str(place), dsn=standard.dsn("inspector"))
    assert shown.code == 0
    for look in done.document["inspectors"]:
        assert f"{look['name']} " in shown.out
    assert (shown.err.strip(), done.err.strip()) == (f"page: {place / 'inspect.html'}",) * 2


def test_page_escapes_what_strangers_named(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster()
    cluster.sql('CREATE TABLE "<script>alert(1)</script>\u202e" (id bigint PRIMARY KEY)')
    cluster.rows("SELECT create_distributed_table('\"<script>alert(1)</script>\u202e\"', 'id', shard_count := 2)")
    assert run("--all", "--report", str(tmp_path), dsn=cluster.coordinator.dsn()).code == 0
    text = (tmp_path / "inspect.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in text
    names = {row["table"] for each in _looks(tmp_path, "list_distributed_tables") for row in each["rows"]}
    assert names == {"<script>alert(1)</script>\u202e"}


def _looks(place: Path, name: str) -> list[dict[str, Any]]:
    document = json.loads((place / "inspect.json").read_text())
    return [each for each in document["inspectors"] if each["name"] == name]


def _bare_fan_out(standard: Standard) -> float:
    """Seconds of the least that can be asked of all nodes, on new connections to them."""
    with psycopg.connect(standard.dsn("inspector"), autocommit=True) as connection:
        connection.execute("SET citus.max_cached_conns_per_worker = 0")
        started = time.monotonic()
        connection.execute("SELECT * FROM run_command_on_all_nodes('SELECT 1')").fetchall()
        return time.monotonic() - started


def test_all_asks_each_inspector_once_in_two_seconds(standard: Standard) -> None:
    with Inspection(standard.dsn("inspector")) as inspection:
        report = report_all(inspection, standard.dsn("inspector"))  # what is read first is not in any cache
        times: list[tuple[float, float]] = []
        for _ in range(3):
            before_s = _bare_fan_out(standard)
            report = report_all(inspection, standard.dsn("inspector"))
            times.append((report.elapsed_s, max(before_s, _bare_fan_out(standard))))
    sums = [look for look in report.looks if registry.get(look.envelope.name).cost is Cost.SUM]
    assert len(sums) == 2
    assert all(look.envelope.status is Status.OK for look in sums), [look.envelope.message for look in sums]
    # They took the answers that were there: no node was asked again.
    assert [look.envelope.nodes.asked for look in sums] == [(), ()]
    # Two seconds, and on a machine that is busy with others as many fan-outs of that moment as that is on a quiet one.
    assert any(elapsed_s < max(2.0, 80 * bare_s) for elapsed_s, bare_s in times), times


def test_all_with_a_dead_worker_is_1_and_names_it_everywhere(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster()
    name = worker_name(cluster, 1)
    cluster.workers[0].kill()
    done = run("--all", "--json", "--report", str(tmp_path), dsn=cluster.coordinator.dsn())
    assert done.code == 1
    _validate(done.document)
    fan_outs = [each for each in done.document["inspectors"] if each["nodes"]["asked"]]
    assert len(fan_outs) > 12
    for each in fan_outs:
        assert [node["node"] for node in each["nodes"]["failed"]] == [name]
        assert each["status"] != "ok"
    assert [each["rule"] for each in done.document["findings"] if each["severity"] == "error"] == ["node_unreachable"]
    health = run("citus_health_report", "--json", dsn=cluster.coordinator.dsn())
    assert health.code == 1
    errors = [(each["rule"], each["target"]) for each in health.document["findings"] if each["severity"] == "error"]
    assert errors == [("node_unreachable", name)]


def test_all_of_a_frozen_worker_ends_near_its_deadline_and_says_what_is_left(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_cluster()
    cluster.workers[0].freeze()
    try:
        started = time.monotonic()
        done = run("--all", "--json", "--deadline", "1", "--report", str(tmp_path), dsn=cluster.coordinator.dsn())
        # One look waits 1.3 s for the node; all of them would wait for half a minute.
        assert time.monotonic() - started < 15
    finally:
        cluster.workers[0].thaw()
    _validate(done.document)
    assert done.code == 1
    late = [each for each in done.document["inspectors"] if each["message"].startswith("not asked: the time")]
    assert late
    assert {each["status"] for each in late} == {"unavailable"}
    health = next(each for each in done.document["inspectors"] if each["name"] == "citus_health_report")
    assert health["facts"]["overall"] == "error"


def test_all_of_a_database_without_citus_is_3(standard: Standard, tmp_path: Path) -> None:
    with standard.cluster.coordinator.temporary_database() as plain:
        done = run("--all", "--json", "--report", str(tmp_path), dsn=plain.dsn())
    _validate(done.document)
    reasons = {each["reason"] for each in done.document["inspectors"] if registry.get(each["name"]).needs_citus}
    assert reasons == {"citus_missing"}
    assert done.code == 3


def test_database_with_names_in_no_encoding_is_an_error_of_the_inspectors_that_read_them(
    standard: Standard, tmp_path: Path
) -> None:
    coordinator = standard.cluster.coordinator
    coordinator.sql("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        with psycopg.connect(coordinator.dsn("bytes"), autocommit=True, client_encoding="SQL_ASCII") as connection:
            connection.execute("CREATE EXTENSION citus")
            connection.execute(b'CREATE TABLE "planted\xff" (at date) PARTITION BY RANGE (at)')
            connection.execute(
                b"CREATE TABLE part PARTITION OF \"planted\xff\" FOR VALUES FROM ('-infinity') TO ('now')"
            )
        done = run("--all", "--json", "--report", str(tmp_path), dsn=coordinator.dsn("bytes"))
    finally:
        coordinator.sql("DROP DATABASE bytes WITH (FORCE)")
    _validate(done.document)
    statuses = {each["name"]: each["status"] for each in done.document["inspectors"]}
    assert len(statuses) + len(done.document["skipped"]) == len(registry.names())
    assert (statuses["list_nodes"], statuses["citus_time_partitions_inspector"]) == ("ok", "error")
    assert done.code == 3
    (parts,) = (each for each in done.document["inspectors"] if each["name"] == "citus_time_partitions_inspector")
    assert parts["reason"] == "internal"
    assert "22021" in parts["message"]
    assert "planted" not in done.out


def test_all_watched_as_json_gives_a_document_a_line(standard: Standard, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "harness", "inspect", "--all", "--watch", "--json", "--every", "0.1"]
    with subprocess.Popen(
        words, env=environment(standard.dsn()), stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            for _ in range(2):
                _validate(json.loads(process.stdout.readline()))
            process.send_signal(2)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def test_kept_report_of_a_cluster_that_is_gone_says_why(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster()
    dsn, password = cluster.coordinator.dsn(), cluster.coordinator.password
    assert keep_report(dsn, tmp_path / "new").name == "inspect.html"
    cluster.coordinator.stop()
    path = keep_report(dsn, tmp_path / "new", name="later")
    assert path.name == "later.txt"
    assert "no connection to" in path.read_text()
    assert password not in path.read_text()


def test_failing_scenario_keeps_the_report_of_its_databases_beside_the_logs(tmp_path: Path) -> None:
    place = ROOT / "scenarios" / "inspectors_surface" / f"test_generated_{tmp_path.name}.py"
    place.write_text(
        textwrap.dedent('''
            """Fails on purpose; made by test_inspect_all.py, and removed by it."""


            def test_it_fails(citus_database):
                citus_database.sql("CREATE TABLE kept_in_the_report (id bigint PRIMARY KEY)")
                citus_database.rows("SELECT create_distributed_table('kept_in_the_report', 'id', shard_count := 2)")
                raise AssertionError("on purpose")


            def test_it_fails_on_a_cluster_of_its_own(make_cluster):
                cluster = make_cluster(workers=1)
                cluster.workers[0].stop()
                raise AssertionError("on purpose")


            def test_it_passes(citus_database):
                pass
        ''')
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--rootdir={tmp_path}", str(place)],
            env=environment(None),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        place.unlink()
    assert "2 failed, 1 passed" in done.stdout, done.stdout[-3000:]
    kept = {path.parent.name.rpartition("test_it_")[2]: path.parent for path in tmp_path.rglob("state.json")}
    assert set(kept) == {"fails", "fails_on_a_cluster_of_its_own"}
    for directory in kept.values():
        assert (directory / "coordinator.log").is_file()
    document = json.loads((kept["fails"] / "inspect-database.json").read_text())
    _validate(document)
    (tables,) = (each for each in document["inspectors"] if each["name"] == "list_distributed_tables")
    assert [row["table"] for row in tables["rows"]] == ["kept_in_the_report"]
    (own,) = kept["fails_on_a_cluster_of_its_own"].glob("inspect-*.json")
    assert "node_unreachable" in [each["rule"] for each in json.loads(own.read_text())["findings"]]
    assert own.with_suffix(".html").is_file()


def test_setup_role_prints_sql_that_psql_runs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    done = spawn("inspect", "setup-role", "--role", "my inspector")
    assert (done.code, done.err) == (0, "")
    assert run("setup-role", "--role", "my inspector").out == done.out
    with cluster.coordinator.connect() as connection:
        connection.execute(done.out.encode())
    for node in cluster.nodes:
        settings = node.value("SELECT rolconfig FROM pg_roles WHERE rolname = 'my inspector'")
        assert "default_transaction_read_only=on" in settings


def test_setup_role_applied_is_proven_on_every_node_and_can_look(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster()
    # So nodes know its password: what a person does in pg_hba.conf or a password file.
    cluster.create_role("watcher")
    dsn = cluster.coordinator.dsn()
    refused = run("setup-role", "--apply", "--role", "watcher", dsn=dsn)
    assert refused.code == 2
    assert "is there and can write" in refused.err
    done = run("setup-role", "--apply", "--adopt", "--role", "watcher", dsn=dsn)
    assert done.code == 0, done.err
    assert done.out.count("can look and not write") == 3
    looked = run("list_nodes", "--json", dsn=cluster.coordinator.dsn(user="watcher"))
    assert looked.envelope["readonly_enforced"] is True
    assert looked.document["findings"] == []
    assert run("list_nodes", "--json", dsn=dsn).envelope["readonly_enforced"] is False


def test_setup_role_that_a_node_does_not_let_in_is_1(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster()
    words = tmp_path / "password"
    words.write_text("a new secret 7f\n")
    arguments = ("setup-role", "--apply", "--role", "stranger", "--password-file", str(words))
    done = run(*arguments, dsn=cluster.coordinator.dsn())
    assert done.code == 1
    assert done.out.count("NOT proven") == 3
    assert "a new secret 7f" not in done.out + done.err
    (tmp_path / "empty").touch()
    bad = run(*arguments[:-1], str(tmp_path / "empty"), dsn=cluster.coordinator.dsn())
    assert bad.code == 2
    assert "has no password" in bad.err
