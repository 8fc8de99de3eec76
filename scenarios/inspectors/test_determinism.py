"""Two looks at an idle cluster are equal to the byte but for what is volatile; pages add up; answers are bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from psycopg import sql

from harness.errors import BadInputError
from harness.inspectors import Inspection, inspect, registry
from harness.inspectors.limits import Limits
from harness.waiting import wait_until
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.inspectors import everything
from scenarios.inspectors.fixture_standard import Standard

pytestmark = pytest.mark.citus(">= 14")
# Of the session, as an unlucky role may have them.
_ODD = {
    "search_path": "tenant_a, app",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "-2",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "on",
    "citus.override_table_visibility": "on",
}


def _wait_for_an_idle_cluster(standard: Standard) -> None:
    """Sessions end some time after they are closed, those between nodes too, and some inspectors list them."""
    left = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND (application_name = 'harness inspect' OR application_name LIKE 'citus_run_command%%')"
    )
    for node in standard.cluster.nodes:
        wait_until(f"looks to have left {node.name}", lambda node=node: not node.value(left), deadline_s=20)  # type: ignore[misc]


def _bytes(name: str, dsn: str, values: Mapping[str, Any]) -> str:
    return json.dumps(everything.still(inspect(dsn, name, values)), sort_keys=True)


@pytest.mark.parametrize("name", everything.names())
def test_two_looks_are_equal_but_for_what_is_volatile(standard: Standard, name: str) -> None:
    values = everything.most_values(name)
    _wait_for_an_idle_cluster(standard)
    first = _bytes(name, standard.dsn(), values)
    _wait_for_an_idle_cluster(standard)
    assert first == _bytes(name, standard.dsn(), values)


def test_roles_own_settings_change_no_answer(standard: Standard) -> None:
    cluster = standard.cluster

    def look() -> dict[str, str]:
        return {name: _bytes(name, standard.dsn("inspector"), everything.values(name)) for name in everything.names()}

    plain = look()
    kept = cluster.value("SELECT rolconfig FROM pg_roles WHERE rolname = 'inspector'")
    try:
        for name, value in _ODD.items():
            cluster.sql(
                sql.SQL("ALTER ROLE inspector SET {} = {}").format(
                    sql.SQL(".").join(map(sql.Identifier, name.split("."))), sql.Literal(value)
                )
            )
        assert look() == plain
    finally:
        cluster.sql("ALTER ROLE inspector RESET ALL")
        for each in kept:
            name, _, value = each.partition("=")
            cluster.sql(sql.SQL("ALTER ROLE inspector SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))


@pytest.mark.parametrize("name", everything.names())
def test_pages_of_one_row_add_up_to_the_whole(standard: Standard, name: str) -> None:
    ordering = {each.removeprefix("-") for each in registry.get(name).ordering}
    if changing := ordering & registry.get(name).volatile:
        skip_not_applicable(f"{name} is in an order that changes, by {', '.join(sorted(changing))}: there is no place")
    values = everything.values(name)
    with Inspection(standard.dsn()) as inspection:
        whole = everything.still(inspection.inspect(name, {**values, "limit": 6}))["rows"]
        pages, cursor = [], None
        for _ in whole:
            page = inspection.inspect(name, {**values, "limit": 1, "cursor": cursor})
            assert len(page.rows) == 1
            pages += everything.still(page)["rows"]
            cursor = page.next_cursor
    assert pages == whole


@pytest.mark.parametrize("name", everything.names())
def test_rows_are_in_a_total_order(standard: Standard, name: str) -> None:
    envelope = inspect(standard.dsn(), name, {**everything.values(name), "limit": 1000})
    keys = [[getattr(row, each.removeprefix("-")) for each in envelope.ordering] for row in envelope.rows]
    assert len({json.dumps(key) for key in keys}) == len(keys)


def test_answer_is_cut_at_its_size_and_goes_on_behind_it(standard: Standard) -> None:
    whole = inspect(standard.dsn(), "list_shards", {"limit": 1000})
    limits = Limits(most_bytes=4000)
    found: list[Any] = []
    cursor, answers = None, 0
    while True:
        page = inspect(standard.dsn(), "list_shards", {"limit": 1000, "cursor": cursor}, limits=limits)
        assert len(json.dumps(page.document()["rows"]).encode()) <= 4200
        found += page.rows
        cursor, answers = page.next_cursor, answers + 1
        assert page.truncated is (cursor is not None)
        if cursor is None:
            break
    assert answers > 2
    assert tuple(found) == whole.rows


@pytest.mark.parametrize(
    "cursor", ["x", "!", "bnVsbA", "WyJsaXN0X25vZGVzIiwgWzEsMiwzXV0", "WyJsaXN0X3NoYXJkcyIsW3t9XV0"]
)
def test_cursor_that_is_none_is_bad_input(standard: Standard, cursor: str) -> None:
    with pytest.raises(BadInputError, match="cursor="):
        inspect(standard.dsn(), "list_shards", {"cursor": cursor})
