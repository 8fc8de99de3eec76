-- What `harness st repair` looks for, said by the database of its own objects.

ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN drop_requested_at timestamptz;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.drop_requested_at IS
    'When somebody dropped it while a worker was down: Citus drops nothing then. `harness st repair` ends it once all are back.';

CREATE FUNCTION pgtrickle.capture_problems(relid oid) RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- What is wrong, on this node, with the capture of a source that is tracked.
#variable_conflict use_variable
DECLARE
    stable CONSTANT text := (SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid);
    placement CONSTANT text := pgtrickle.placement_of(relid);
    by_row CONSTANT boolean := pgtrickle._is_partition(relid);
    function CONSTANT regprocedure := to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_fn_' || stable));
    functions CONSTANT oid[] := ARRAY[function::oid, to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_truncate_fn_' || stable))::oid];
    wanted CONSTANT text[] := CASE WHEN by_row THEN ARRAY['pg_trickle_cdc_row_', 'pg_trickle_cdc_truncate_']
        ELSE ARRAY['pg_trickle_cdc_ins_', 'pg_trickle_cdc_upd_', 'pg_trickle_cdc_del_', 'pg_trickle_cdc_truncate_'] END;
    relation oid;
    name text;
    state "char";
BEGIN
    IF to_regclass(format('pgtrickle_changes.%I', 'changes_' || stable)) IS NULL THEN
        RETURN NEXT 'has no buffer';
    ELSIF NOT pgtrickle._is_of_its_kind(relid) THEN
        RETURN NEXT format('has a buffer that does not fit a %s table', placement);
    END IF;
    IF stable <> pgtrickle.stable_name(relid) THEN
        RETURN NEXT 'is captured under an earlier name';
    END IF;
    IF function IS NULL THEN
        RETURN NEXT 'has no capture function';
        RETURN;
    END IF;
    IF (SELECT p.prosrc FROM pg_proc p WHERE p.oid = function) IS DISTINCT FROM pgtrickle._statement_source(relid, ('changes_' || stable)::name, placement) THEN
        RETURN NEXT 'has a capture function of an older version, or one that captures nothing';
    END IF;
    FOREACH relation IN ARRAY pgtrickle._captured_relations(relid) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind NOT IN ('r', 'p'));
        FOREACH name IN ARRAY wanted LOOP
            SELECT t.tgenabled INTO state FROM pg_trigger t
            WHERE t.tgrelid = relation AND t.tgfoid = ANY (functions) AND regexp_replace(t.tgname, '[^_]*$', '') = name;
            IF NOT FOUND THEN
                RETURN NEXT format('has no trigger %s* on %s', name, relation::regclass);
            ELSIF state = 'D' THEN
                RETURN NEXT format('has a disabled trigger %s* on %s', name, relation::regclass);
            END IF;
        END LOOP;
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle.capture_problems(oid) FROM PUBLIC;
