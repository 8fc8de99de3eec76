"""``harness migrate`` as a command: exit codes, JSON, bad input, and scripts for psql that do the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.chain import runner
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog
from harness.postgres import Node, Server
from scenarios.upgrade.small_installation import SmallInstallation, build_small_installation

CHECKOUT = Path(__file__).parents[2]


def _migrate(*arguments: str, dsn: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command; the DSN goes by the environment, so that no password is in an argument."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("HARNESS_", "PG"))}
    if dsn:
        settings["HARNESS_DSN"] = dsn
    command = [sys.executable, "-m", "harness", "migrate", *arguments]
    return subprocess.run(
        command, cwd=CHECKOUT, env=settings | environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def installed(database: Node) -> SmallInstallation:
    return build_small_installation(database)


def _catalog(node: Node) -> CatalogSnapshot:
    with node.connect() as conn:
        return snapshot_catalog(conn)


def test_up_status_and_down_in_words_and_in_json(database: Node, installed: SmallInstallation) -> None:
    dsn = database.dsn()
    found = _migrate("status", "--json", dsn=dsn)
    assert found.returncode == 0
    status = json.loads(found.stdout)
    assert (status["schema"], status["passed"], status["revision"]) == ("harness/migrate-status/1", True, "0001")
    assert status["pending"] == list(runner.REVISIONS[1:])
    up = _migrate("up", "--json", dsn=dsn)
    assert up.returncode == 0, up.stderr
    document = json.loads(up.stdout)
    assert (document["schema"], document["passed"]) == ("harness/migrate/1", True)
    assert document["revision"] == runner.REVISIONS[-1]
    assert [r["revision"] for r in document["revisions"]] == list(runner.REVISIONS[1:])
    assert [r["sources_moved"] for r in document["revisions"]] == [3, 0, 3, 0, 3] + [0] * (len(runner.REVISIONS) - 6)
    assert runner.REVISIONS[-1] in _migrate("status", dsn=dsn).stdout
    down = _migrate("down", "0001", dsn=dsn)
    assert down.returncode == 0, down.stderr
    assert "revision 0001" in down.stdout


def test_what_stands_in_the_way_is_said_with_exit_code_2(database: Node, installed: SmallInstallation) -> None:
    database.sql("DROP TABLE public.orders")
    for words in (["status"], ["up"]):
        found = _migrate(*words, dsn=database.dsn())
        assert found.returncode == 2
        assert "source_missing" in found.stdout + found.stderr
        assert "Traceback" not in found.stderr


def test_bad_dsns_get_a_message_and_no_password_is_shown(database: Node) -> None:
    good = {key: str(value) for key, value in conninfo_to_dict(database.dsn()).items()}
    secret = "s3cret-of-mine"  # noqa: S105 - not a password of anybody's
    cases = {
        "garbage": f"this is no dsn password={secret}",
        "port": make_conninfo(**{**good, "port": "1", "password": secret}),
        "password": make_conninfo(**{**good, "password": secret}),
        "database": make_conninfo(**{**good, "dbname": "nowhere"}),
        "host": f"postgresql://somebody:{secret}@no-such-host.invalid:5432/db",
    }
    password = good["password"]
    for name, dsn in cases.items():
        for words in (["status"], ["up"], ["adopt"], ["down", "0001"]):
            found = _migrate(*words, dsn=dsn)
            said = found.stdout + found.stderr
            assert found.returncode == 2, (name, words, said)
            assert "error" in said, name
            assert "hint" in said, name
            assert "Traceback" not in said, name
            assert secret not in said, name
            assert password not in said, name


def test_no_dsn_no_direction_no_revision() -> None:
    assert "HARNESS_DSN" in _migrate("up").stderr
    assert _migrate("sql", "sideways", "0001", "head").returncode == 2
    found = _migrate("sql", "up", "0042", "head")
    assert found.returncode == 2
    assert "0042" in found.stderr
    assert _migrate("up", "--lock-timeout-ms", "none").returncode == 2


def test_adopt_says_that_there_is_nothing(database: Node) -> None:
    found = _migrate("adopt", dsn=database.dsn())
    assert found.returncode == 2
    assert "no pg_trickle catalog" in found.stderr


def _run_script(server: Server, database: Node, text: str, tmp_path: Path) -> None:
    script = server.scratch_dir / f"{tmp_path.name}.sql"
    script.write_text(text, encoding="utf-8")
    script.chmod(0o644)
    dbname = str(database.value("SELECT current_database()"))
    server.run("psql", "-X", "-q", "-f", str(script), dbname=dbname)


def test_scripts_for_psql_lead_to_the_same_catalog(
    server: Server, database: Node, installed: SmallInstallation, tmp_path: Path
) -> None:
    runner.upgrade(database.dsn())
    online = _catalog(database)
    runner.downgrade(database.dsn(), "0001")
    baseline = _catalog(database)
    up = _migrate("sql", "up", "0001", "head")
    assert up.returncode == 0, up.stderr
    _run_script(server, database, up.stdout, tmp_path)
    assert compare_catalogs(online, _catalog(database)) == ()
    assert runner.current_revision(database.dsn()) == runner.REVISIONS[-1]
    down = _migrate("sql", "down", "head", "0001")
    assert down.returncode == 0, down.stderr
    _run_script(server, database, down.stdout, tmp_path)
    assert compare_catalogs(baseline, _catalog(database)) == ()
    assert runner.current_revision(database.dsn()) == "0001"


def test_a_script_from_nothing_leads_to_the_same_catalog(server: Server, database: Node, tmp_path: Path) -> None:
    runner.upgrade(database.dsn())
    online = _catalog(database)
    runner.downgrade(database.dsn(), "base")
    database.sql("DROP SCHEMA pgtrickle CASCADE")
    file = tmp_path / "up.sql"
    assert _migrate("sql", "up", "base", "head", "-o", str(file)).returncode == 0
    _run_script(server, database, file.read_text(encoding="utf-8"), tmp_path)
    assert compare_catalogs(online, _catalog(database)) == ()
