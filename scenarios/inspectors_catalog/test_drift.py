"""citus_drift_inspector: a setting and an extension that one node has otherwise."""

from __future__ import annotations

import pytest

from harness.inspectors import Reason, Status, inspect, registry
from harness.inspectors.contract import Severity
from harness.postgres import ServerNode
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_catalog.asking import by, look

pytestmark = pytest.mark.citus(">= 14")
NAME = "citus_drift_inspector"


def _set(node: ServerNode, setting: str, value: str | None) -> None:
    what = f"ALTER SYSTEM SET {setting} = '{value}'" if value is not None else f"ALTER SYSTEM RESET {setting}"
    node.sql(what)
    node.sql("SELECT pg_reload_conf()")


def _is_seen(own: Standard, setting: str, *, drifted: bool) -> bool:
    rows = by(look(own, NAME, only_drifted=False), lambda row: (row.kind, row.name))
    return rows["setting", setting].drifted is drifted


def test_like_nodes_have_no_drift_and_everything_is_compared(own: Standard) -> None:
    envelope = look(own, NAME, role="mon")
    assert envelope.rows == ()
    rows = by(look(own, NAME, role="mon", only_drifted=False), lambda row: (row.kind, row.name))
    assert envelope.facts == {"compared": len(rows), "drifted": 0}
    assert {each.value for each in rows["extension", "citus"].values} == {
        own.cluster.value("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
    }
    for name in ("wal_level", "max_prepared_transactions", "shared_preload_libraries", "citus.recover_2pc_interval"):
        row = rows["setting", name]
        shown = own.cluster.value("SELECT setting FROM pg_settings WHERE name = %s", [name])
        assert {each.value for each in row.values} == {shown}, name
        assert len(row.values) == 3
    unknown = [
        name for (kind, name), row in rows.items() if kind == "setting" and {v.value for v in row.values} == {None}
    ]
    assert unknown == [], "each setting of the list is one of this version"


@pytest.mark.parametrize(
    ("setting", "value", "category", "severity"),
    [
        ("citus.max_adaptive_executor_pool_size", "3", "should", Severity.WARNING),
        ("bytea_output", "escape", "must", Severity.WARNING),
        ("work_mem", "12MB", "may", None),
    ],
)
def test_setting_of_one_node_is_found_with_each_value(
    own: Standard, setting: str, value: str, category: str, severity: Severity | None
) -> None:
    node = own.cluster.workers[1]
    was = own.cluster.value("SELECT setting FROM pg_settings WHERE name = %s", [setting])
    _set(node, setting, value)
    try:
        wait_until("the reload", lambda: _is_seen(own, setting, drifted=True), deadline_s=10)
        envelope = look(own, NAME)
        (row,) = envelope.rows
        assert (row.kind, row.name, row.category, row.drifted) == ("setting", setting, category, True)
        changed = node.value("SELECT reset_val FROM pg_settings WHERE name = %s", [setting])
        assert [each.value for each in row.values] == [was, was, changed]
        assert [each.severity for each in registry.get(NAME).severity(envelope)] == ([severity] if severity else [])  # type: ignore[misc]
    finally:
        _set(node, setting, None)
        wait_until("the reload", lambda: _is_seen(own, setting, drifted=False), deadline_s=10)


def test_what_a_role_has_set_for_itself_is_no_drift(own: Standard) -> None:
    own.cluster.sql("ALTER ROLE mon SET search_path = 'app'")
    own.cluster.sql("ALTER ROLE mon SET statement_timeout = '3s'")
    try:
        assert look(own, NAME, role="mon").rows == ()
    finally:
        own.cluster.sql("ALTER ROLE mon RESET ALL")


def test_extension_of_one_node_is_a_version_mismatch(own: Standard) -> None:
    with own.cluster.workers[0].connect() as connection:
        connection.execute("SET citus.enable_ddl_propagation = off")
        connection.execute("CREATE EXTENSION tablefunc")
    try:
        envelope = look(own, NAME)
        (row,) = envelope.rows
        assert (row.kind, row.name) == ("extension", "tablefunc")
        assert [each.value is None for each in row.values] == [True, False, True]
        (finding,) = registry.get(NAME).severity(envelope)  # type: ignore[misc]
        assert (finding.rule, finding.severity) == ("version_mismatch", Severity.ERROR)
    finally:
        with own.cluster.workers[0].connect() as connection:
            connection.execute("SET citus.enable_ddl_propagation = off")
            connection.execute("DROP EXTENSION tablefunc")


def test_role_without_rights_is_told_what_it_cannot_see(own: Standard) -> None:
    envelope = inspect(own.dsn("plain"), NAME, {"only_drifted": False, "limit": 1000})
    assert (envelope.status, envelope.reason) == (Status.PARTIAL, Reason.INSUFFICIENT_PRIVILEGE)
    hidden = {row.name for row in envelope.rows if row.drifted is None}
    visible = {
        name
        for (name,) in own.cluster.rows("SELECT name FROM pg_settings")
        if not own.cluster.value("SELECT pg_settings_get_flags(%s) @> ARRAY['NO_SHOW_ALL']", [name])
    }
    assert hidden == {"citus.max_shared_pool_size", "shared_preload_libraries"}
    assert hidden <= visible
    assert all(name in envelope.message for name in hidden)
    whole = look(own, NAME, role="mon", only_drifted=False).rows
    assert [row.name for row in envelope.rows] == [row.name for row in whole]
    assert [row for row in whole if row.name not in hidden] == [row for row in envelope.rows if row.name not in hidden]
