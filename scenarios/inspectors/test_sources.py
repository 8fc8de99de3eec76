"""What inspectors say that they read is what is there, and is all that they read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from packaging.version import Version

from harness import inspectors
from harness.clusters import Cluster
from harness.inspectors import Inspection, registry
from harness.inspectors.contract import Source
from harness.inspectors.inputs import required
from harness.inspectors.sources import COMMON, SourceProblem, check_sources, fetch_citus_catalog
from harness.postgres import AdministeredNode
from scenarios.inspectors.fixture_standard import Standard

pytestmark = pytest.mark.citus(">= 14")
_CATALOGS = Path(__file__).parent / "catalogs"


def _is_of_trickle(source: Source) -> bool:
    return source.schema.startswith("pgtrickle")


@pytest.mark.parametrize("name", registry.names())
def test_declared_sources_are_what_the_live_catalog_has(standard: Standard, name: str) -> None:
    sources = [source for source in registry.get(name).sources if not _is_of_trickle(source)]
    with standard.cluster.coordinator.connect() as connection:
        assert check_sources(connection, (*COMMON, *sources)) == ()


def test_declared_sources_of_stream_tables_are_what_the_chain_makes(
    citus_head_database: Cluster[AdministeredNode],
) -> None:
    sources = [source for each in registry.all_() for source in each.sources if _is_of_trickle(source)]
    assert sources
    with citus_head_database.coordinator.connect() as connection:
        assert check_sources(connection, sources) == ()


def test_check_names_what_differs(standard: Standard) -> None:
    with standard.cluster.coordinator.connect() as connection:
        assert check_sources(
            connection,
            [
                Source("pg_dist_node", (("nodeid", "bigint"), ("nodeport", "integer"), ("node_state", "text"))),
                Source("pg_dist_nowhere"),
                Source("citus_nowhere", kind="function"),
                Source("citus_remote_connection_stats", (("hostname", "text"), ("pool", "text")), "function"),
                Source("citus.nowhere", kind="setting"),
            ],
        ) == (
            SourceProblem("pg_catalog.pg_dist_node", "nodeid is integer, declared bigint"),
            SourceProblem("pg_catalog.pg_dist_node", "there is no node_state"),
            SourceProblem("pg_catalog.pg_dist_nowhere", "there is no such relation"),
            SourceProblem("pg_catalog.citus_nowhere", "there is no such function"),
            SourceProblem("pg_catalog.citus_remote_connection_stats", "there is no pool"),
            SourceProblem("citus.nowhere", "there is no such setting"),
        )


class _Recording(psycopg.Connection[Any]):
    """Keeps the text of every statement that is sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.statements: list[str] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.Cursor[Any]:
        text = (
            query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else query.as_string(self)
        )
        self.statements.append(text)
        return super().execute(query, params, **options)


@pytest.mark.parametrize("name", registry.names())
def test_inspector_reads_no_relation_that_it_does_not_declare(standard: Standard, name: str) -> None:
    """Every ``schema.relation`` in what it sends that the catalog knows as a relation is among its sources."""
    values = {"schema": "app", "table": "orders"} if required(registry.get(name).inputs) else {}
    with _Recording.connect(standard.dsn(), autocommit=True) as connection:
        with Inspection(connection) as inspection:
            inspection.inspect(name, values)
        sent = " ".join(connection.statements)
    mentioned = set(re.findall(r"\b(pg_catalog|public|pgtrickle\w*|citus\w*)\.(\w+)\b(?!\s*\()", sent))
    known = set(
        standard.cluster.rows(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'v', 'm')"
        )
    )
    read = {relation for _schema, relation in mentioned & known}
    sources = {*COMMON, *registry.get(name).sources}
    if registry.get(name).cost == "sum":  # it declares nothing of its own
        sources |= _all_sources()
    assert read - {source.relation for source in sources} == set()
    assert "pg_extension" in read  # the statements were seen at all
    if "pg_stat_activity" in read:
        assert _columns_of_sessions(standard, sent) - _columns("pg_stat_activity", sources) == set()


def _all_sources() -> set[Source]:
    return {*COMMON, *(source for each in registry.all_() for source in each.sources)}


def _columns(relation: str, sources: set[Source]) -> set[str]:
    return {column for source in sources if source.relation == relation for column, _type in source.columns}


def _columns_of_sessions(standard: Standard, sent: str) -> set[str]:
    """Columns of pg_stat_activity that are mentioned by the name that it has in all questions, ``a``."""
    known = standard.cluster.rows(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'pg_stat_activity'::regclass AND attnum > 0"
    )
    mentioned = set(re.findall(r"\ba\.(\w+)", sent)) & {name for (name,) in known}
    assert mentioned
    return mentioned


def test_functions_of_citus_that_the_code_names_are_declared(standard: Standard) -> None:
    """Those that are called only when a node is slow, too."""
    files = Path(inspectors.__file__).parent.rglob("*.py")
    named = {name for file in files for name in re.findall(r"\bpg_catalog\.(\w+)\(", file.read_text(encoding="utf-8"))}
    theirs = standard.cluster.rows(
        "SELECT p.proname::text FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid"
        " JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid"
        " WHERE e.extname = 'citus'"
    )
    called = named & {name for (name,) in theirs}
    assert {"run_command_on_all_nodes", "master_run_on_worker"} <= called
    assert called - {source.relation for source in _all_sources()} == set()


def test_citus_catalog_is_as_it_was_recorded(standard: Standard) -> None:
    """A new version shows what changed: what it took away or changed fails, and of a recorded one what it added."""
    with standard.cluster.coordinator.connect() as connection:
        live = fetch_citus_catalog(connection)
        version = connection.execute("SELECT current_setting('citus.version')").fetchall()[0][0]
    recorded = {Version(path.stem.removeprefix("citus-")): path for path in _CATALOGS.glob("citus-*.json")}
    base = max((each for each in recorded if each <= Version(version)), default=None)
    assert base is not None, f"no catalog of a Citus up to {version} is recorded in {_CATALOGS}"
    expected = json.loads(recorded[base].read_text(encoding="utf-8"))
    changed = {
        f"{name}.{column}": (kind, live.get(name, {}).get(column))
        for name, columns in expected.items()
        for column, kind in columns.items()
        if live.get(name, {}).get(column) != kind
    }
    assert changed == {}
    if Version(version).release[:2] == base.release[:2]:
        assert live == expected, f"write what is here to {recorded[base]}, and see what inspectors make of it"
