"""``harness st`` on real servers: the life of a stream table, plain and on Citus, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness.chain.runner import upgrade
from harness.cli import main
from harness.clusters import Cluster
from harness.postgres import Node

QUERY = "SELECT region, count(*) AS orders, sum(amount) AS revenue FROM shop.orders GROUP BY region"
HOSTILE = '"sh\'op %s"."to""tals [red]"'

St = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(params=["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))])
def node(request: pytest.FixtureRequest) -> Node:
    """The node that clients talk to, with the catalog at head: of a plain server, then of a cluster."""
    if request.param == "plain":
        found: Node = request.getfixturevalue("database")
    else:
        cluster: Cluster = request.getfixturevalue("citus_database")
        found = cluster.coordinator
    upgrade(found.dsn())
    found.sql("CREATE SCHEMA shop")
    found.sql("CREATE TABLE shop.orders (id int PRIMARY KEY, region text, amount numeric NOT NULL)")
    if request.param == "citus":
        found.sql("SELECT create_distributed_table('shop.orders', 'id', shard_count := 4)")
    found.sql("INSERT INTO shop.orders SELECT g, 'r' || g % 5, g FROM generate_series(1, 100) g")
    return found


@pytest.fixture
def st(node: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> St:
    """Run ``harness st ... --json`` on the node: exit code, document (empty if there is none), standard error."""

    def harness(*arguments: str) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["harness", "st", *arguments, "--dsn", node.dsn(), "--json"])
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capfd.readouterr()
        found: dict[str, Any] = json.loads(out) if out else {}
        return int(leaving.value.code or 0), found, err

    return harness


def test_stream_table_lives_from_create_to_drop(st: St, node: Node) -> None:
    code, made, err = st("create", "shop.totals", QUERY, "--mode", "DIFFERENTIAL", "--schedule", "5m")
    assert code == 0, err
    assert (made["stream_table"]["qualified"], made["stream_table"]["schedule"]) == ('"shop"."totals"', "5m")
    assert st("check", "shop.totals")[0] == 0

    node.sql("INSERT INTO shop.orders VALUES (101, 'new', 7), (102, NULL, 8)")
    node.sql("UPDATE shop.orders SET amount = amount + 1 WHERE region = 'r1'")
    node.sql("DELETE FROM shop.orders WHERE id = 5")
    _, status, _ = st("status", "shop.totals")
    assert sum(status["stream_tables"][0]["pending"].values()) == 2 + 2 * 20 + 1
    code, difference, _ = st("check", "shop.totals")
    assert (code, difference["passed"]) == (1, False)
    assert difference["difference"]["missing"] > 0

    code, explained, err = st("explain", "shop.totals")
    assert (code, explained["explanation"]["mode"]) == (0, "DIFFERENTIAL"), err
    assert explained["explanation"]["statements"]
    code, refreshed, err = st("refresh", "shop.totals")
    assert (code, refreshed["refresh"]["action"]) == (0, "DIFFERENTIAL"), err
    assert st("refresh", "shop.totals")[1]["refresh"]["action"] == "NO_DATA"
    assert st("check", "shop.totals")[0] == 0
    assert st("refresh", "shop.totals", "--mode", "FULL")[1]["refresh"]["action"] == "FULL"

    assert st("alter", "shop.totals", "--schedule", "10s")[1]["stream_table"]["schedule"] == "10s"
    assert st("suspend", "shop.totals")[1]["stream_table"]["status"] == "SUSPENDED"
    assert st("resume", "shop.totals")[1]["stream_table"]["status"] == "ACTIVE"
    assert [table["qualified"] for table in st("list")[1]["stream_tables"]] == ['"shop"."totals"']
    assert st("drop", "shop.totals")[0] == 0
    assert st("list")[1]["stream_tables"] == []
    assert node.value("SELECT to_regclass('shop.totals')") is None


def test_stream_table_with_a_hostile_name_lives_too(st: St, node: Node) -> None:
    node.sql('CREATE SCHEMA "sh\'op %s"')
    code, made, err = st("create", HOSTILE, QUERY)
    assert code == 0, err
    assert made["stream_table"]["name"] == 'to"tals [red]'
    node.sql("DELETE FROM shop.orders WHERE id < 20")
    assert st("refresh", HOSTILE)[0] == 0
    assert st("check", HOSTILE)[0] == 0
    assert st("status", HOSTILE)[0] == 0
    assert st("drop", HOSTILE)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "shop.bad", "SELEC 1"), "SELEC"),
        (("create", "shop.bad", "SELECT 1; DROP TABLE shop.orders"), ""),
        (("create", "shop.bad", "SELECT * FROM shop.nothing"), "shop.nothing"),
        (("create", "shop.orders", QUERY), "orders"),
        (("create", "nowhere.bad", QUERY), "nowhere"),
        (("create", "shop.bad", QUERY, "--schedule", "often"), "often"),
        (("create", "", QUERY), ""),
        (("create", "a.b.c", QUERY), ""),
        (("refresh", "shop.nothing"), "nothing"),
        (("check", "shop.nothing"), "nothing"),
        (("explain", "shop.orders"), "orders"),
        (("drop", "shop.orders"), "orders"),
        (("alter", "shop.orders", "--mode", "FULL"), "orders"),
        (("status", "shop.nothing"), "nothing"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
@pytest.mark.allow_log(r"syntax error|does not exist|cannot insert multiple", "the input is meant to be refused")
def test_bad_input_ends_with_2_and_changes_nothing(st: St, node: Node, arguments: tuple[str, ...], said: str) -> None:
    code, document, err = st(*arguments)
    assert code == 2, err
    assert document == {}
    assert said in err
    assert "Traceback" not in err
    assert st("list")[1]["stream_tables"] == []
    assert node.value("SELECT count(*) FROM shop.orders") == 100
    assert node.value("SELECT to_regclass('shop.bad')") is None


def test_database_without_the_catalog_is_refused(database: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["list"], ["refresh", "x"], ["check", "x"], ["create", "x", "SELECT 1 AS a"]):
        monkeypatch.setattr("sys.argv", ["harness", "st", *arguments, "--dsn", database.dsn()])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code == 2
