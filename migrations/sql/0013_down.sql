-- As before: TRUNCATE of a distributed source is refused (42P01) once Citus moved a shard of it, and nobody waits.

CREATE OR REPLACE FUNCTION pgtrickle._set_function(relid oid, stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    placement CONSTANT text := pgtrickle.placement_of(relid);
    function text;
    body text;
BEGIN
    FOR function, body IN
        SELECT 'pg_trickle_cdc_fn_' || stable, pgtrickle._statement_source(relid, ('changes_' || stable)::name, placement)
        UNION ALL
        -- TRUNCATE fires on the coordinator alone (F11), where no shard can be written; it is a rebuild in any case.
        SELECT 'pg_trickle_cdc_truncate_fn_' || stable, format($body$
BEGIN
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

DROP FUNCTION pgtrickle._lock_capture(text);
