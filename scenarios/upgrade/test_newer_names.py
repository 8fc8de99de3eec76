"""What is taken and what goes of a newer catalog, on the few columns that are asked for: no extension is needed."""

from __future__ import annotations

import pytest

from harness.chain.newer import fetch_made, find_refused
from harness.postgres import Node

# The columns of 0.66 and 0.67 that are asked for (their install scripts), with their defaults.
CATALOG = """
CREATE SCHEMA pgtrickle;
CREATE SCHEMA pgtrickle_changes;
CREATE TABLE pgtrickle.pgt_stream_tables (pgt_id bigint, pgt_relid oid, pgt_schema text DEFAULT 'public', pgt_name text,
    topk_offset int, st_placement text DEFAULT 'local', temporal_mode boolean DEFAULT false,
    storage_backend text DEFAULT 'heap', st_partition_key text, scc_id int, downstream_publication_name text,
    fuse_mode text DEFAULT 'off', post_refresh_action text DEFAULT 'none', refresh_tier text DEFAULT 'hot',
    ducklake_sink_mode text, ducklake_sink_path text, ducklake_compaction_policy text);
CREATE TABLE pgtrickle.pgt_dependencies (pgt_id bigint, source_relid oid, source_type text, cdc_mode text);
CREATE TABLE public.kept (id int);
INSERT INTO pgtrickle.pgt_stream_tables (pgt_id, pgt_relid, pgt_name) VALUES (1, 'kept'::regclass, 'kept');
"""
# What the extension makes, and what somebody else may have put beside it.
BUFFERS = """
CREATE TABLE pgtrickle_changes.changes_0123456789abcdef (change_id bigint);
CREATE TABLE pgtrickle_changes.changes_fedcba9876543210 (change_id bigint) PARTITION BY RANGE (change_id);
CREATE TABLE pgtrickle_changes.changes_1111111111111111
    PARTITION OF pgtrickle_changes.changes_fedcba9876543210 DEFAULT;
CREATE TABLE pgtrickle_changes.changes_16412 (change_id bigint);
CREATE TABLE pgtrickle_changes.changes_pgt_7 (change_id bigint);
CREATE TABLE pgtrickle_changes.changes_mine (change_id bigint);
CREATE TABLE pgtrickle_changes.changes_16412_before (change_id bigint);
CREATE VIEW pgtrickle_changes.changes_17 AS SELECT 1 AS one;
CREATE FUNCTION pgtrickle_changes.pg_trickle_cdc_ins_fn_0123456789abcdef() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION pgtrickle_changes.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
"""


@pytest.fixture
def newer(database: Node) -> Node:
    with database.connect() as conn:
        conn.execute(CATALOG)
    return database


def test_only_buffers_by_their_names_go_and_partitions_with_their_table(newer: Node) -> None:
    with newer.connect() as conn:
        conn.execute(BUFFERS)
        made = fetch_made(conn)
        assert made == [
            ("function", "pgtrickle_changes.pg_trickle_cdc_ins_fn_0123456789abcdef()"),
            ("table", "pgtrickle_changes.changes_0123456789abcdef"),
            ("table", "pgtrickle_changes.changes_16412"),
            ("table", "pgtrickle_changes.changes_fedcba9876543210"),
            ("table", "pgtrickle_changes.changes_pgt_7"),
        ]
        for kind, identity in made:
            conn.execute(b"DROP " + f"{kind} {identity}".encode())
        rows = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pgtrickle_changes'::regnamespace ORDER BY 1"
        ).fetchall()
        assert rows == [("changes_16412_before",), ("changes_17",), ("changes_mine",)]


@pytest.mark.parametrize(("tier", "is_refused"), [("hot", False), ("cold", False), ("frozen", True)])
def test_stream_table_that_is_never_refreshed_is_refused(newer: Node, tier: str, is_refused: bool) -> None:
    """Here it would be refreshed; how often the others are is told, and gone."""
    with newer.connect() as conn:
        assert find_refused(conn) == ()
        conn.execute("UPDATE pgtrickle.pgt_stream_tables SET refresh_tier = %s", [tier])
        found = [(one.code, one.subject) for one in find_refused(conn)]
    assert found == ([("feature_not_taken", "public.kept")] if is_refused else [])
