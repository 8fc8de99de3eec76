-- What this project's own refresh keeps in the catalog.

ALTER TABLE pgtrickle.pgt_stream_tables DROP CONSTRAINT pgt_stream_tables_refresh_mode_check;
ALTER TABLE pgtrickle.pgt_stream_tables ADD CONSTRAINT pgt_stream_tables_refresh_mode_check
    CHECK (refresh_mode IN ('FULL', 'DIFFERENTIAL', 'IMMEDIATE', 'AUTO'));
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN storage_format integer;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.storage_format IS
    'How rows and row ids are kept. NULL: as pg_trickle 0.2 does, until the first refresh here fills the table anew; 1: PostgreSQL''s own hash and an ordinal.';
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN differential_us_per_change double precision;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.differential_us_per_change IS 'What a captured row cost to apply, measured, in microseconds.';
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN suspended_reason text;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.suspended_reason IS 'Why it is not refreshed, where somebody said so.';
ALTER TABLE pgtrickle.pgt_refresh_history ADD COLUMN reason text;
COMMENT ON COLUMN pgtrickle.pgt_refresh_history.reason IS 'Why this action was chosen.';
ALTER TABLE pgtrickle.pgt_dependencies ADD COLUMN is_captured boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN pgtrickle.pgt_dependencies.is_captured IS
    'Whether the stream table reads the source''s change buffer; one that recomputes its query does not, and holds no row there.';
UPDATE pgtrickle.pgt_dependencies d SET is_captured = false
WHERE EXISTS (SELECT FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = d.pgt_id AND t.refresh_mode = 'FULL')
   OR NOT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = d.source_relid);

CREATE FUNCTION pgtrickle._guard_stream_table() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Before a statement that writes a stream table, or a shard of one: only a refresh may.
BEGIN
    IF current_setting('pgtrickle.refreshing', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION '%.% is a stream table, which only a refresh writes', quote_ident(TG_TABLE_SCHEMA), quote_ident(TG_TABLE_NAME)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'change the tables that it reads, or drop it with `harness st drop`';
    END IF;
    RETURN NULL;
END
$function$;
-- A trigger needs no right on its function when it fires, only whoever creates the trigger does.
REVOKE ALL ON FUNCTION pgtrickle._guard_stream_table() FROM PUBLIC;
