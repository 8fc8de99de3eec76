-- A distributed source can be truncated after Citus moved a shard of it; through a worker it is refused in words. And two sessions that
-- make the capture of one source at the same time wait for one another.

CREATE FUNCTION pgtrickle._lock_capture(stable text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
-- One at a time, until the end of the transaction: who replaces what another replaces fails with XX000, "tuple concurrently updated",
-- even if both write the same, and who makes what another makes with 23505.
AS $$SELECT pg_advisory_xact_lock(hashtextextended('pgtrickle capture of ' || stable, 0))$$;
REVOKE ALL ON FUNCTION pgtrickle._lock_capture(text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle._set_function(relid oid, stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    placement CONSTANT text := pgtrickle.placement_of(relid);
    function text;
    body text;
BEGIN
    PERFORM pgtrickle._lock_capture(stable);
    FOR function, body IN
        SELECT 'pg_trickle_cdc_fn_' || stable, pgtrickle._statement_source(relid, ('changes_' || stable)::name, placement)
        UNION ALL
        -- TRUNCATE fires where it was said (F11), where no shard can be written; it is a rebuild in any case. And on each shard that
        -- Citus moved, which it gives this trigger too: what is to be done the table's own does.
        SELECT 'pg_trickle_cdc_truncate_fn_' || stable, format($body$
BEGIN
    IF pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = TG_RELID) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF pg_catalog.to_regclass('pgtrickle.pgt_stream_tables') IS NULL THEN
        RAISE EXCEPTION 'TRUNCATE of %%, which stream tables read, is not captured on this node', TG_RELID::pg_catalog.regclass
            USING ERRCODE = 'feature_not_supported', HINT = 'run it on the coordinator, or use DELETE';
    END IF;
    UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
    WHERE pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_stable_name = %L);
    RETURN NULL;
END;
$body$, stable) WHERE placement = 'distributed'
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pgtrickle_changes.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                        SET search_path = pg_catalog, pg_temp AS %L', function, body);
        EXECUTE format('REVOKE ALL ON FUNCTION pgtrickle_changes.%I() FROM PUBLIC', function);
    END LOOP;
END
$function$;
