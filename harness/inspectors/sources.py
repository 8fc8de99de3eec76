"""What inspectors read, held against a live catalog: a version that differs is seen before an answer is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import LiteralString

from harness.inspectors.contract import Source
from harness.inspectors.opening import Connection

# What every look reads before its own (`harness.inspectors.opening`).
COMMON: tuple[Source, ...] = (
    Source("pg_extension", (("extname", "name"), ("extversion", "text"))),
    Source("pg_dist_local_group", (("groupid", "integer"),)),
    Source(
        "pg_dist_node",
        (
            ("nodeid", "integer"),
            ("groupid", "integer"),
            ("nodename", "text"),
            ("nodeport", "integer"),
            ("hasmetadata", "boolean"),
            ("isactive", "boolean"),
            ("noderole", "noderole"),
            ("metadatasynced", "boolean"),
            ("shouldhaveshards", "boolean"),
        ),
        note="nodeisclone is read where it is there (since 14)",
    ),
    Source(
        "run_command_on_all_nodes",
        (("nodeid", "integer"), ("success", "boolean"), ("result", "text")),
        "function",
        note="one connection a node; one row and one column each",
    ),
    Source(
        "master_run_on_worker",
        (("success", "boolean"), ("result", "text")),
        "function",
        note="the same, asked of those that are left when a node is slow",
    ),
    Source("citus.local_hostname", kind="setting"),
    Source("port", kind="setting"),
    Source("citus.version", kind="setting"),
)
_COLUMNS: LiteralString = """
    SELECT a.attname, pg_catalog.format_type(a.atttypid, NULL)
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
     WHERE c.relname = %(name)s AND (n.nspname = %(schema)s OR %(schema)s = '')
       AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
     ORDER BY a.attnum
"""
# The results of each overload: its OUT columns, those of the row type that it returns, or its type alone. An unnest of
# several arrays is syntax and takes no schema.
_RESULTS: LiteralString = """
    SELECT p.oid::bigint, r.name, pg_catalog.format_type(r.type, NULL)
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      CROSS JOIN LATERAL (
          SELECT u.name, u.type FROM unnest(p.proallargtypes, p.proargnames, p.proargmodes)
                 WITH ORDINALITY AS u(type, name, mode, place)
           WHERE u.mode IN ('o', 'b', 't')
          UNION ALL
          SELECT a.attname, a.atttypid FROM pg_catalog.pg_type t
            JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
           WHERE t.oid = p.prorettype
          UNION ALL
          SELECT 'returns', p.prorettype) r
     WHERE p.proname = %(name)s AND (n.nspname = %(schema)s OR %(schema)s = '')
"""
# Not pg_settings: Citus hides some of its settings from it.
_SETTING: LiteralString = "SELECT FROM (VALUES (1)) one WHERE pg_catalog.current_setting(%(name)s, true) IS NOT NULL"
# Everything that the extension brings with columns, and every function of it that can be called by its name.
_CATALOG: LiteralString = """
    SELECT n.nspname || '.' || c.relname AS object,
           pg_catalog.json_object_agg(a.attname, pg_catalog.format_type(a.atttypid, NULL) ORDER BY a.attnum)
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid
           AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_class'::regclass
      JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v', 'm')
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE e.extname = 'citus'
     GROUP BY 1
"""


@dataclass(frozen=True)
class SourceProblem:
    """A source that is not what was declared.

    Attributes:
        source: schema and name.
        problem: what differs: it is missing, or a column is, or has another type.
    """

    source: str
    problem: str


def check_sources(connection: Connection, sources: Iterable[Source]) -> tuple[SourceProblem, ...]:
    """Compare sources with the catalog of the connection's node; changes nothing.

    Args:
        connection: to the database that inspectors look at.
        sources: as inspectors declare them.

    Returns:
        One for each source or column that differs; none where all is as declared.
    """
    found: list[SourceProblem] = []
    for source in dict.fromkeys(sources):
        name = f"{source.schema}.{source.relation}" if source.schema and source.kind != "setting" else source.relation
        found += [SourceProblem(name, problem) for problem in _problems(connection, source)]
    return tuple(found)


def _problems(connection: Connection, source: Source) -> list[str]:
    values = {"name": source.relation, "schema": source.schema}
    if source.kind == "setting":
        return [] if connection.execute(_SETTING, values).fetchall() else ["there is no such setting"]
    if source.kind == "relation":
        rows = connection.execute(_COLUMNS, values).fetchall()
        return _differences(source, dict(rows)) if rows else ["there is no such relation"]
    overloads: dict[int, dict[str, str]] = {}
    for oid, name, kind in connection.execute(_RESULTS, values).fetchall():
        overloads.setdefault(oid, {})[name] = kind
    if not overloads:
        return ["there is no such function"]
    return min((_differences(source, results) for results in overloads.values()), key=len)


def _differences(source: Source, live: Mapping[str, str]) -> list[str]:
    return [
        f"{column} is {live[column]}, declared {kind}" if column in live else f"there is no {column}"
        for column, kind in source.columns
        if live.get(column) != kind
    ]


def fetch_citus_catalog(connection: Connection) -> dict[str, dict[str, str]]:
    """Every relation that Citus' extension has in this database: its columns in order, with their types."""
    return {name: dict(columns) for name, columns in sorted(connection.execute(_CATALOG).fetchall())}
