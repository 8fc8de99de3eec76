"""A small extension of our own under the public one's name, in versions that are good and bad on purpose.

It shows what a rehearsed update finds; what the real one does is asked of the real one (``scenarios/beside``).
"""

from __future__ import annotations

from pathlib import Path

CONTROL = "comment = 'stands for pg_trickle in tests'\ndefault_version = '1.2'\nrelocatable = false\n"

#: For what the writes to a source wait at 1.6: an advisory lock of that key.
HELD = 1606

_CATALOG = """
CREATE SCHEMA pgtrickle;
CREATE TABLE pgtrickle.pgt_stream_tables (pgt_id bigserial PRIMARY KEY, pgt_relid oid NOT NULL, pgt_name text NOT NULL,
    pgt_schema text NOT NULL, defining_query text NOT NULL, refresh_mode text NOT NULL{columns});
CREATE TABLE pgtrickle.pgt_dependencies (pgt_id bigint, source_relid oid, source_type text);
"""
# It recomputes: what counts here is that it is refreshed at all.
_FUNCTIONS = """
CREATE FUNCTION pgtrickle.create_stream_table(name text, query text, schedule text DEFAULT NULL,
    refresh_mode text DEFAULT 'FULL') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    EXECUTE format('CREATE TABLE %s AS SELECT 0::bigint AS __pgt_row_id, q.* FROM (%s) q', name, query);
    INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query, refresh_mode)
    SELECT c.oid, c.relname, n.nspname, query, 'FULL' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = name::regclass RETURNING pgt_id INTO made;
    INSERT INTO pgtrickle.pgt_dependencies
    VALUES (made, (regexp_match(query, 'FROM ([a-z_.0-9]+)'))[1]::regclass, 'TABLE');
END $$;
CREATE FUNCTION pgtrickle.drop_stream_table(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_relid = name::regclass;
    EXECUTE format('DROP TABLE %s', name);
END $$;
CREATE FUNCTION pgtrickle.always_refuses() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE FUNCTION pgtrickle.always_fails() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN DELETE FROM pgtrickle.never_there; END $$;
CREATE FUNCTION pgtrickle.waits_long(p_mode text DEFAULT 'x', timeout_s int DEFAULT 60) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN ASSERT timeout_s < 60, 'it would wait that long'; RETURN timeout_s; END $$;
CREATE FUNCTION pgtrickle.wants_something(p_something point) RETURNS void LANGUAGE sql AS '';
"""
_REFRESH = """
CREATE OR REPLACE FUNCTION pgtrickle.refresh_stream_table(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %s', name);
    EXECUTE format('INSERT INTO %s SELECT 0, q.* FROM (%s) q', name,
        (SELECT defining_query FROM pgtrickle.pgt_stream_tables WHERE pgt_relid = name::regclass));
END $$;
"""
_FORGETS = """
CREATE OR REPLACE FUNCTION pgtrickle.refresh_stream_table(name text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM 1; END $$;
"""
_STATUS = """
CREATE OR REPLACE FUNCTION pgtrickle.pgt_status() RETURNS SETOF text LANGUAGE plpgsql AS
    $$ BEGIN RETURN QUERY SELECT {column} FROM pgtrickle.pgt_stream_tables; END $$;
"""


_WAITS = """
CREATE FUNCTION pgtrickle.waits() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared({held}); RETURN NULL; END $$;
DO $$
DECLARE
    source regclass;
BEGIN
    FOREACH source IN ARRAY ARRAY['shop.customers', 'shop.orders', 'shop.parts', 'shop.visits']::regclass[] LOOP
        EXECUTE format('CREATE TRIGGER waits AFTER INSERT OR UPDATE OR DELETE ON %s EXECUTE FUNCTION pgtrickle.waits()',
                       source);
    END LOOP;
END $$;
""".replace("{held}", str(HELD))


def _install(columns: str, column: str) -> str:
    return _CATALOG.replace("{columns}", columns) + _FUNCTIONS + _REFRESH + _STATUS.replace("{column}", column)


_SCRIPTS = {
    "1.0": _install("", "pgt_name"),
    "1.1": _install(", tier text", "pgt_name"),
    "1.2": _install(", tier text", "coalesce(tier, pgt_name)"),
    "1.3": _install(", tier text, fuse text", "fuse"),
    # Forgets a column, which the next version mends; nobody stays at 1.1.
    "1.0--1.1": "",
    "1.1--1.2": "ALTER TABLE pgtrickle.pgt_stream_tables ADD tier text;"
    + _STATUS.replace("{column}", "coalesce(tier, pgt_name)"),
    # Forgets a column that a function reads, and how to refresh.
    "1.2--1.3": _STATUS.replace("{column}", "fuse") + _FORGETS,
    # Changes something, and then cannot go on: all of it is undone.
    "1.3--1.4": "DROP FUNCTION pgtrickle.always_refuses(); ALTER TABLE pgtrickle.never_there ADD a int;",
    "1.4--1.5": "",
    # Every write to a source waits for as long as somebody holds a lock.
    "1.2--1.6": _WAITS,
}


def provide(place: Path) -> Path:
    """Write control file and scripts to ``place/extension``, readable by the servers' user; that directory."""
    directory = place / "extension"
    directory.mkdir(parents=True)
    (directory / "pg_trickle.control").write_text(CONTROL, encoding="ascii")
    for version, text in _SCRIPTS.items():
        (directory / f"pg_trickle--{version}.sql").write_text(text, encoding="ascii")
    for path in (place, directory, *directory.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory
