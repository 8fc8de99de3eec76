-- A stream table of this project goes back to a shape that 0.2 can fill: row ids and hidden columns of its own make no sense to it, so
-- they leave, and whoever refreshes it next fills it anew. Its visible rows stay as they are, and so does what others made on it.
DO $$
DECLARE
    item record;
    part record;
    index_name name;
BEGIN
    FOR item IN SELECT g.tgname, g.tgrelid::regclass AS relation FROM pg_trigger g
                WHERE g.tgfoid = 'pgtrickle._guard_stream_table'::regproc AND g.tgparentid = 0 ORDER BY g.oid LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
    END LOOP;
    FOR item IN SELECT t.pgt_relid, n.nspname, c.relname, t.pgt_relid::regclass AS storage
                FROM pgtrickle.pgt_stream_tables t JOIN pg_class c ON c.oid = t.pgt_relid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE t.storage_format IS NOT NULL ORDER BY t.pgt_id
    LOOP
        -- What is unique with the row id in it, as a constraint or as an index alone: where all row ids are NULL it says nothing.
        FOR part IN SELECT i.indexrelid::regclass AS index, k.conname
                    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = '__pgt_row_id'
                    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
                    WHERE i.indrelid = item.pgt_relid AND i.indisunique ORDER BY i.indexrelid LOOP
            EXECUTE CASE WHEN part.conname IS NULL THEN format('DROP INDEX %s', part.index)
                         ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', item.storage, part.conname) END;
        END LOOP;
        FOR part IN SELECT a.attname FROM pg_attribute a WHERE a.attrelid = item.pgt_relid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.attname LIKE '\_\_pgt\_%' AND a.attname NOT IN ('__pgt_row_id', '__pgt_count') ORDER BY a.attnum LOOP
            EXECUTE format('ALTER TABLE %s DROP COLUMN %I', item.storage, part.attname);
        END LOOP;
        EXECUTE format('ALTER TABLE %s ALTER COLUMN __pgt_row_id DROP NOT NULL', item.storage);
        EXECUTE format('UPDATE %s SET __pgt_row_id = NULL', item.storage);
        -- The name that 0.2 gives, clipped as PostgreSQL does; of a table with a name of 63 bytes that is its own.
        index_name := item.relname || '___pgt_row_id_idx';
        EXECUTE format('CREATE UNIQUE INDEX %s ON %s (__pgt_row_id)',
                       CASE WHEN to_regclass(format('%I.%I', item.nspname, index_name)) IS NULL THEN quote_ident(index_name) END, item.storage);
    END LOOP;
END
$$;

UPDATE pgtrickle.pgt_stream_tables t
SET needs_reinit = needs_reinit OR t.storage_format IS NOT NULL,
    refresh_mode = CASE t.refresh_mode WHEN 'AUTO' THEN 'DIFFERENTIAL' ELSE t.refresh_mode END,
    frontier = CASE WHEN jsonb_typeof(t.frontier -> 'sources') = 'object' THEN jsonb_set(t.frontier, '{sources}', coalesce(
        (SELECT jsonb_object_agg(s.key, CASE jsonb_typeof(s.value) WHEN 'object' THEN s.value - 'snapshots' - 'groups' - 'seq_id' ELSE s.value END)
         FROM jsonb_each(t.frontier -> 'sources') s), '{}')) ELSE t.frontier END
WHERE t.storage_format IS NOT NULL OR t.refresh_mode = 'AUTO';

DROP FUNCTION pgtrickle._guard_stream_table();
ALTER TABLE pgtrickle.pgt_dependencies DROP COLUMN is_captured;
ALTER TABLE pgtrickle.pgt_refresh_history DROP COLUMN reason;
ALTER TABLE pgtrickle.pgt_stream_tables DROP COLUMN suspended_reason;
ALTER TABLE pgtrickle.pgt_stream_tables DROP COLUMN differential_us_per_change;
ALTER TABLE pgtrickle.pgt_stream_tables DROP COLUMN storage_format;
ALTER TABLE pgtrickle.pgt_stream_tables DROP CONSTRAINT pgt_stream_tables_refresh_mode_check;
ALTER TABLE pgtrickle.pgt_stream_tables ADD CONSTRAINT pgt_stream_tables_refresh_mode_check
    CHECK (refresh_mode IN ('FULL', 'DIFFERENTIAL', 'IMMEDIATE'));
