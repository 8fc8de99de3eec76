-- Buffers that are made from here on number their rows. Those that were made without get their numbers where 0.2 reads them (0006_steps.sql).

CREATE OR REPLACE FUNCTION pgtrickle._make_buffer(relid oid, stable text, placement text, columns text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- No index: rows are read in bulk and written one statement at a time (F16, F17).
#variable_conflict use_variable
DECLARE
    buffer CONSTANT text := format('pgtrickle_changes.%I', 'changes_' || stable);
    shard_key CONSTANT name := pgtrickle._shard_key(relid);
BEGIN
    IF placement = 'distributed' THEN
        EXECUTE format('CREATE TABLE %s (seq_id bigint NOT NULL, action character(1) NOT NULL%s%s,
                        xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()) USING heap', buffer, columns,
                       (SELECT format(', shard_key %s', format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
                        WHERE a.attrelid = relid AND a.attname = shard_key));
        -- Without an identity it would stop every logical move of a shard in its group (F16).
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', buffer);
        EXECUTE format('SELECT pg_catalog.create_distributed_table(%L, %L, colocate_with => %L)', buffer,
                       CASE WHEN shard_key IS NOT NULL THEN 'shard_key' END, relid::regclass);
    ELSE
        EXECUTE format('CREATE TABLE %s (change_id bigserial, lsn pg_lsn NOT NULL, action character(1) NOT NULL, pk_hash bigint%s,
                        xid xid8 DEFAULT pg_catalog.pg_current_xact_id()) USING heap', buffer, columns);
    END IF;
    EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC', buffer);
END
$function$;
