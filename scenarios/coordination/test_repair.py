"""Repair finds what is broken, names it and mends it, and finds nothing the second time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from harness.cli import main
from harness.trickle.repair import RepairReport, repair
from scenarios.coordination.ddl_shop import NAMES, Shop, open_shop, open_where, placements
from scenarios.coordination.test_drop_leaves_nothing import picture

HOOKS = ("pg_trickle_ddl_start", "pg_trickle_ddl_tracker", "pg_trickle_drop_tracker")
BUFFER = "pgtrickle_changes.changes_d6ad704b2cddddcd"
FUNCTION = "pgtrickle_changes.pg_trickle_cdc_fn_d6ad704b2cddddcd()"
ORPHANS = """
CREATE TABLE pgtrickle_changes.changes_00112233445566aa (seq_id bigint);
CREATE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_00112233445566aa() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RETURN NULL; END';
CREATE TABLE stray (id int);
CREATE TRIGGER pg_trickle_cdc_ins_00112233445566aa AFTER INSERT ON stray
    EXECUTE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_00112233445566aa();
CREATE PUBLICATION pg_trickle_00112233445566aa"""
NOTHING = f"CREATE OR REPLACE FUNCTION {FUNCTION} RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"


def unseen(shop: Shop, *statements: str) -> None:
    """Statements that no hook sees."""
    for name in HOOKS:
        shop.run(f"ALTER EVENT TRIGGER {name} DISABLE")
    for statement in statements:
        shop.run(statement)
    for name in HOOKS:
        shop.run(f"ALTER EVENT TRIGGER {name} ENABLE")


def drop_triggers(shop: Shop) -> None:
    query = (
        "SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger"
        " WHERE tgname LIKE 'pg_trickle_cdc_upd%'"
    )
    if shop.placement != "plain":
        shop.run("SET citus.enable_unsafe_triggers = on")
        shop.run("SET citus.enable_manual_changes_to_shards = on")
    unseen(shop, *(str(row[0]) for row in shop.connection.execute(query).fetchall()))


def on_a_worker(statement: str) -> Callable[[Shop], None]:
    def run(shop: Shop) -> None:
        with shop.nodes[1].connect() as connection:
            connection.execute("SET citus.enable_ddl_propagation = off")
            connection.execute("SET citus.enable_manual_changes_to_shards = on")
            connection.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
            connection.execute(statement.encode())

    return run


ONE_TRIGGER = """DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE tgname LIKE 'pg\\_trickle\\_cdc\\_del%' AND tgrelid::regclass::text ~ '_[0-9]+$' LIMIT 1); END $$"""
# How it is broken, what repair calls that, and whether a refresh has to fill the readers anew.
BROKEN: dict[str, tuple[Callable[[Shop], None], str, bool]] = {
    "no buffer": (lambda shop: unseen(shop, f"DROP TABLE {BUFFER}", NOTHING), "broken_capture", True),
    "no triggers": (drop_triggers, "broken_capture", True),
    "an older function": (lambda shop: unseen(shop, NOTHING), "broken_capture", True),
    "not tracked": (
        lambda shop: unseen(shop, "DELETE FROM pgtrickle.pgt_change_tracking"),
        "uncaptured",
        True,
    ),
    "orphans": (lambda shop: unseen(shop, *ORPHANS.split(";\n")), "orphan_buffer", False),
    "history": (
        lambda shop: shop.run(
            "INSERT INTO pgtrickle.pgt_refresh_history (pgt_id, data_timestamp, start_time, action, status)"
            " VALUES (77, now(), now(), 'FULL', 'COMPLETED')"
        ),
        "orphan_history",
        False,
    ),
    "nobody reads": (
        lambda shop: shop.run(
            "CREATE TABLE unread (id int PRIMARY KEY); SELECT pgtrickle.install_capture('unread'::regclass)"
        ),
        "unread_capture",
        False,
    ),
}
ON_WORKERS: dict[str, tuple[Callable[[Shop], None], str, bool]] = {
    "a shard without a trigger": (on_a_worker(ONE_TRIGGER), "broken_capture", True),
    "an older function there": (on_a_worker(NOTHING), "broken_capture", True),
    "no function there": (on_a_worker(f"DROP FUNCTION {FUNCTION} CASCADE"), "broken_capture", True),
    "orphans there": (on_a_worker(ORPHANS), "orphan_buffer", False),
}


@pytest.fixture(params=placements("plain", "reference", "distributed"))
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(open_where(request, request.param), request.param) as opened:
        yield opened


def mend(shop: Shop, code: str) -> RepairReport:
    """Look, mend, look again."""
    looked = repair(shop.connection, is_check=True)
    assert code in {finding.code for finding in looked.findings}, looked
    assert not looked.passed
    report = repair(shop.connection)
    assert [(f.code, f.node, f.subject) for f in report.findings] == [
        (f.code, f.node, f.subject) for f in looked.findings
    ], "a look changes nothing"
    assert report.passed, report.left
    assert all(finding.action for finding in report.findings)
    assert repair(shop.connection).findings == ()
    return report


def go_on(shop: Shop, *, is_anew: bool) -> None:
    assert shop.marked() == (set(NAMES) if is_anew else set())
    for name in NAMES:
        shop.refresh(name)
    for _ in range(2):
        shop.write()
        for name in NAMES:
            assert shop.refresh(name) == "DIFFERENTIAL"


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found_and_mended(shop: Shop, what: str) -> None:
    shop.write()
    assert repair(shop.connection).findings == ()
    break_it, code, is_anew = BROKEN[what]
    break_it(shop)
    if what != "not tracked" or shop.placement == "plain":
        shop.write()
    mend(shop, code)
    go_on(shop, is_anew=is_anew)


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("what", ON_WORKERS)
def test_what_is_broken_on_a_worker_alone(request: pytest.FixtureRequest, what: str) -> None:
    with open_shop(open_where(request, "distributed"), "distributed") as shop:
        shop.write()
        break_it, code, is_anew = ON_WORKERS[what]
        break_it(shop)
        shop.write()
        report = mend(shop, code)
        address = shop.value("SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE groupid = 1")
        assert {finding.node for finding in report.findings} == {address}
        go_on(shop, is_anew=is_anew)


def test_sources_storage_and_guards_that_went_unseen(shop: Shop) -> None:
    """What no hook saw go."""
    shop.tables.create("more", "SELECT id, spare FROM orders", None)
    if shop.placement != "plain":
        shop.run("SET citus.enable_unsafe_triggers = on")
    unseen(shop, "DROP TABLE more", "DROP TRIGGER pgt_guard ON notes")
    report = mend(shop, "lost_storage")
    assert {finding.code for finding in report.findings} == {"lost_storage", "unguarded"}
    assert shop.marked() == {"notes"}
    for name in NAMES:
        shop.refresh(name)

    if shop.placement == "plain":
        unseen(shop, "DROP TABLE orders CASCADE")
        report = repair(shop.connection)
        assert {(finding.code, finding.is_mended) for finding in report.findings} == {
            ("lost_table", True),
            ("lost_source", False),
        }
        assert {finding.subject for finding in report.left} == {"public.totals", "public.notes"}
        assert all("harness st alter" in finding.error for finding in report.left)
        assert not any("changes_" in line for lines in picture(shop.nodes).values() for line in lines)


def test_the_command_names_mends_and_tells_by_its_exit_code(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["harness", "st", "repair", *arguments, "--dsn", opened.node.dsn()])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), capfd.readouterr().out

    with open_shop(open_where(request, "plain"), "plain") as opened:
        assert run("--check") == (0, "nothing to mend\n")
        unseen(opened, *ORPHANS.split(";\n"), NOTHING)
        code, text = run("--check")
        assert code == 1
        assert "pgtrickle_changes.changes_00112233445566aa is a buffer without a source" in text
        assert "of an older version" in text
        code, text = run("--check", "--json")
        document = json.loads(text)
        assert (code, document["passed"], document["mended"]) == (1, False, 0)
        assert document["found"] == len(document["findings"]) == 4
        code, text = run("--json")
        document = json.loads(text)
        assert (code, document["passed"], document["found"], document["mended"]) == (0, True, 4, 4)
        assert {each["code"] for each in document["findings"]} == {
            "orphan_buffer",
            "orphan_function",
            "orphan_publication",
            "broken_capture",
        }
        assert run() == (0, "nothing to mend\n")
        unseen(opened, "DROP TABLE orders CASCADE")
        code, text = run()
        assert code == 1
        assert "2 of 3 are left" in text


def test_no_name_of_a_shard_is_taken_for_a_leftover(shop: Shop) -> None:
    """A stream table whose own name ends like a shard's."""
    shop.tables.create("sales_9102008", "SELECT id, spare FROM orders", None)
    shop.write()
    assert repair(shop.connection).findings == ()
    shop.refresh("sales_9102008")
