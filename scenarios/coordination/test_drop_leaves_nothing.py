"""Dropped, a stream table leaves nothing on any node: the catalogs of all nodes are what they were before it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from harness.postgres import Node
from scenarios.coordination.ddl_shop import NOTES, PLACEMENTS, TOTALS, Shop, open_shop, open_where

CATALOG: LiteralString = """
    SELECT 'relation ' || c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL SELECT 'function ' || p.oid::regprocedure::text FROM pg_proc p WHERE p.oid >= 16384
    UNION ALL SELECT 'trigger ' || t.tgname || ' ' || t.tgrelid::regclass::text FROM pg_trigger t
    UNION ALL SELECT 'publication ' || b.pubname FROM pg_publication b
    UNION ALL SELECT 'slot ' || s.slot_name FROM pg_replication_slots s WHERE s.database = current_database()
    UNION ALL SELECT 'schema ' || n.nspname FROM pg_namespace n WHERE n.nspname NOT LIKE 'pg_t%'
    UNION ALL SELECT 'prepared ' || x.gid FROM pg_prepared_xacts x WHERE x.database = current_database()"""
TABLES: LiteralString = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'pgtrickle' AND table_type = 'BASE TABLE'"
)
CITUS: LiteralString = "SELECT count(*), array_agg(logicalrelid::text ORDER BY 1) FROM pg_dist_partition"
OBJECTS: LiteralString = (
    "SELECT count(*) FROM pg_dist_object o JOIN pg_proc p ON p.oid = o.objid AND o.classid = 'pg_proc'::regclass"
    " WHERE p.pronamespace = 'pgtrickle_changes'::regnamespace"
)


def picture(nodes: tuple[Node, ...]) -> Mapping[str, frozenset[str]]:
    """What every node's catalog holds, shards included, and how many rows each table of ours has."""
    found = {}
    for node in nodes:
        with node.connect() as connection:
            is_citus = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'citus'").fetchone() is not None
            if is_citus:
                connection.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
            lines = [str(row[0]) for row in connection.execute(CATALOG)]
            for (table,) in connection.execute(TABLES).fetchall():
                count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("pgtrickle", table))
                lines.append(f"{table}: {connection.execute(count).fetchone()} rows")
            if is_citus:
                lines += [str(connection.execute(query).fetchone()) for query in (CITUS, OBJECTS)]
            found[node.name] = frozenset(lines)
    return found


def shared(shop: Shop) -> None:
    """What stays for good once anything of a cluster was captured: the sequence on the workers (0004)."""
    shop.tables.create("first", "SELECT id FROM orders", None)
    shop.tables.drop("first")


HOW = {
    "drop": lambda shop, name: shop.tables.drop(name),
    "drop table": lambda shop, name: shop.run(f"DROP TABLE {name}"),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("placement", "storage"),
    [
        *((case, "local") for case in PLACEMENTS if case == "plain"),
        *(
            pytest.param(source, storage, marks=pytest.mark.citus(">= 13"))
            for source in PLACEMENTS[1:]
            for storage in ("local", "reference", "distributed")
        ),
    ],
)
def test_every_nodes_catalog_is_what_it_was(
    request: pytest.FixtureRequest, placement: str, storage: str, how: str
) -> None:
    with open_shop(open_where(request, placement), placement, makes_tables=False) as shop:
        shared(shop)
        before = picture(shop.nodes)
        shop.tables.create("totals", TOTALS, "1m", "AUTO", storage)
        shop.tables.create("notes", NOTES, None, "AUTO", storage)
        shop.write()
        shop.refresh("totals")
        shop.run("ALTER TABLE orders RENAME TO o2")
        shop.run("ALTER TABLE o2 RENAME TO orders")
        shop.write()  # pending
        HOW[how](shop, "totals")
        half = picture(shop.nodes)
        assert any("pg_trickle_cdc" in line for lines in half.values() for line in lines), "notes is captured yet"
        shop.write()
        assert shop.refresh("notes") == "DIFFERENTIAL"
        HOW[how](shop, "notes")
        after = picture(shop.nodes)
        for name, lines in before.items():
            assert after[name] - lines == set(), f"left on {name}"
            assert lines - after[name] == set(), f"missing on {name}"
        shop.write()


def test_a_schema_with_source_and_stream_table_goes_at_once(request: pytest.FixtureRequest) -> None:
    with open_shop(open_where(request, "plain"), "plain", makes_tables=False) as shop:
        before = picture(shop.nodes)
        shop.run("CREATE SCHEMA s")
        shop.run("CREATE TABLE s.t (id int PRIMARY KEY, v int)")
        shop.tables.create("s.sums", "SELECT v, count(*) AS n FROM s.t GROUP BY v", None)
        shop.tables.create("s.more", "SELECT n, count(*) AS m FROM s.sums GROUP BY n", None)
        shop.run("INSERT INTO s.t VALUES (1, 1)")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            shop.run("DROP SCHEMA s")
        shop.run("DROP SCHEMA s CASCADE")
        assert picture(shop.nodes) == before


def test_a_drop_that_is_rolled_back(request: pytest.FixtureRequest) -> None:
    with open_shop(open_where(request, "plain"), "plain") as shop:
        before = picture(shop.nodes)
        with shop.connection.transaction(force_rollback=True):
            shop.run("DROP TABLE totals, notes")
        assert picture(shop.nodes) == before
        shop.write()
        for name in ("totals", "notes"):
            assert shop.refresh(name) == "DIFFERENTIAL"


def test_altered_stream_tables_keep_history_and_capture(request: pytest.FixtureRequest) -> None:
    """A new query makes the table anew under its number: that is no drop."""
    with open_shop(open_where(request, "plain"), "plain") as shop:
        before = shop.value("SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE pgt_id = 1")
        shop.tables.alter("totals", query="SELECT customer, max(amount) AS m FROM orders GROUP BY 1")
        assert isinstance(before, int)
        assert shop.value("SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE pgt_id = 1") == before + 1
        shop.write()
        for name in ("totals", "notes"):
            assert shop.refresh(name) == "DIFFERENTIAL"
