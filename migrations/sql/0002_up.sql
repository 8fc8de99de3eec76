-- Stable names: columns, functions, what the renames need. Everything can be run again after a kill.

CREATE OR REPLACE FUNCTION pgtrickle.stable_hash(name text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- D1: the extension's own hash of 'schema.table', as 16 hex digits: equal on every node, and after a restore.
    SELECT lpad(to_hex(pgtrickle.pg_trickle_hash(name)), 16, '0')
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.stable_name(relation oid) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT pgtrickle.stable_hash(n.nspname || '.' || c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
$function$;

ALTER TABLE pgtrickle.pgt_dependencies ADD COLUMN IF NOT EXISTS source_stable_name text;
ALTER TABLE pgtrickle.pgt_change_tracking ADD COLUMN IF NOT EXISTS source_stable_name text;

-- What the way down needs to know, and what the upgrade saw when it began. By stable name, which survives a restore.
CREATE TABLE IF NOT EXISTS pgtrickle.chain_notes (
    source_stable_name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('row_function', 'truncate_function', 'seen')),
    value text NOT NULL,
    columns text,
    PRIMARY KEY (source_stable_name, kind)
);
COMMENT ON TABLE pgtrickle.chain_notes IS
    'What the migration chain must remember: capture functions as they were (row_function, truncate_function; columns: of the source at that time), and which captured rows were visible when the upgrade began (seen: a multirange of change_id; columns: the frontier at that time).';

-- Nothing for PUBLIC.
REVOKE ALL ON FUNCTION pgtrickle.stable_hash(text), pgtrickle.stable_name(oid) FROM PUBLIC;
REVOKE ALL ON TABLE pgtrickle.chain_notes FROM PUBLIC;
