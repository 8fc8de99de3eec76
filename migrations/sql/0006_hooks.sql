-- DDL on a source: capture follows in the same transaction, so a later write finds a function that fits (F24 to F26).
-- SECURITY DEFINER: whoever may alter a table need not own its buffer.

CREATE OR REPLACE FUNCTION pgtrickle._give_up_capture(relid oid, reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- A user's own DDL never fails because of capture. Where capture cannot follow, its function captures nothing any more, and the
-- readers say that they are wrong.
#variable_conflict use_variable
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION pgtrickle_changes.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                    SET search_path = pg_catalog, pg_temp AS $body$BEGIN RETURN NULL; END$body$',
                   (SELECT 'pg_trickle_cdc_fn_' || k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid));
    UPDATE pgtrickle.pgt_stream_tables t SET status = 'ERROR', needs_reinit = true, updated_at = now()
    WHERE t.pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = relid);
    RAISE WARNING 'pgtrickle no longer captures %: %', relid::regclass, reason
        USING HINT = 'its stream tables are in status ERROR until they are rebuilt';
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_ddl_start() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
-- On Citus a function can't be replaced or dropped after a parallel command, unless that went shard by shard (F24).
DECLARE
    has_any boolean := false;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k
                                JOIN pg_catalog.pg_dist_partition p ON p.logicalrelid = k.source_relid)' INTO has_any;
        IF has_any THEN
            PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
        END IF;
    END IF;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_ddl_end() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    source oid;
BEGIN
    -- The sources that the command is about: the table itself, the parents of a partition, a partition that it attached, all tables
    -- of a renamed schema.
    FOR source IN
        SELECT k.source_relid FROM pgtrickle.pgt_change_tracking k
        WHERE EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                      WHERE (c.classid = 'pg_class'::regclass
                             AND (c.objid = k.source_relid OR k.source_relid IN (SELECT a.relid FROM pg_partition_ancestors(c.objid) a)
                                  OR c.objid IN (SELECT a.relid FROM pg_partition_ancestors(k.source_relid) a)))
                         OR (c.classid = 'pg_namespace'::regclass
                             AND c.objid = (SELECT s.relnamespace FROM pg_class s WHERE s.oid = k.source_relid)))
          AND EXISTS (SELECT FROM pg_class s WHERE s.oid = k.source_relid)
    LOOP
        BEGIN
            IF pgtrickle.resync_capture(source) > 0 AND TG_TAG = 'ALTER TABLE' THEN
                -- A partition came with its rows, or left with them, and no statement says which.
                UPDATE pgtrickle.pgt_stream_tables t SET needs_reinit = true, updated_at = now()
                WHERE t.pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = source);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            PERFORM pgtrickle._give_up_capture(source, SQLERRM);
        END;
    END LOOP;
    -- A stream table's own name.
    UPDATE pgtrickle.pgt_stream_tables t SET pgt_name = c.relname, pgt_schema = n.nspname, updated_at = now()
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = t.pgt_relid AND (t.pgt_name, t.pgt_schema) <> (c.relname::text, n.nspname::text);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_sql_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    gone record;
BEGIN
    -- A stream table whose storage is dropped is no stream table any more.
    DELETE FROM pgtrickle.pgt_stream_tables t
    USING pg_event_trigger_dropped_objects() o WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = t.pgt_relid;
    -- A dropped partition took its rows with it; its capture triggers say whose it was.
    UPDATE pgtrickle.pgt_stream_tables t SET needs_reinit = true, updated_at = now()
    FROM pg_event_trigger_dropped_objects() o, pgtrickle.pgt_dependencies d
    WHERE o.object_type = 'trigger' AND o.address_names[3] = 'pg_trickle_cdc_del_' || d.source_stable_name AND d.pgt_id = t.pgt_id;
    FOR gone IN
        SELECT k.source_relid, k.source_stable_name FROM pgtrickle.pgt_change_tracking k
        JOIN pg_event_trigger_dropped_objects() o ON o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = k.source_relid
    LOOP
        UPDATE pgtrickle.pgt_stream_tables t SET status = 'ERROR', needs_reinit = true, updated_at = now()
        WHERE t.pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = gone.source_relid);
        DELETE FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = gone.source_relid;
        DELETE FROM pgtrickle.chain_notes n WHERE n.source_stable_name = gone.source_stable_name;
        EXECUTE format('DROP TABLE IF EXISTS pgtrickle_changes.%I', 'changes_' || gone.source_stable_name);
        EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I(), pgtrickle_changes.%I()',
                       'pg_trickle_cdc_fn_' || gone.source_stable_name, 'pg_trickle_cdc_truncate_fn_' || gone.source_stable_name);
    END LOOP;
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._give_up_capture(oid, text), pgtrickle._on_ddl_start(), pgtrickle._on_ddl_end(),
    pgtrickle._on_sql_drop() FROM PUBLIC;

DROP EVENT TRIGGER IF EXISTS pg_trickle_ddl_start;
CREATE EVENT TRIGGER pg_trickle_ddl_start ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER SCHEMA', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION pgtrickle._on_ddl_start();
DROP EVENT TRIGGER IF EXISTS pg_trickle_ddl_tracker;
CREATE EVENT TRIGGER pg_trickle_ddl_tracker ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER SCHEMA') EXECUTE FUNCTION pgtrickle._on_ddl_end();
DROP EVENT TRIGGER IF EXISTS pg_trickle_drop_tracker;
CREATE EVENT TRIGGER pg_trickle_drop_tracker ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION') EXECUTE FUNCTION pgtrickle._on_sql_drop();
