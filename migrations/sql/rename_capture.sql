-- Renames a source's capture; revisions 0002 and 0006 install it, 0006 for good.

CREATE OR REPLACE FUNCTION pgtrickle._rename_capture(relid oid, old_key text, new_key text, with_triggers boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Every object of a source's capture whose name holds the old key takes the new one; the frontiers and the slot's name too.
-- Bodies of functions stay as they are: they name the buffer, so whoever calls this replaces them in the same transaction.
DECLARE
    buffer oid := to_regclass('pgtrickle_changes.' || quote_ident('changes_' || old_key));
    -- Arrays rather than joins, so that each look is an index's: this runs while writers wait.
    tree CONSTANT oid[] := ARRAY(SELECT relid UNION SELECT p.relid FROM pg_partition_tree(relid) p);
    item record;
BEGIN
    FOR item IN
        SELECT r.relname, r.relkind FROM pg_class r
        WHERE r.oid = ANY (ARRAY(SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = buffer
                                 UNION SELECT d.objid FROM pg_depend d
                                       WHERE d.refobjid = buffer AND d.refclassid = 'pg_class'::regclass
                                         AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
          AND r.relkind IN ('i', 'S') AND r.relname ~ ('_' || old_key || '(_|$)')
    LOOP
        EXECUTE format('ALTER %s pgtrickle_changes.%I RENAME TO %I', CASE item.relkind WHEN 'i' THEN 'INDEX' ELSE 'SEQUENCE' END,
                       item.relname, regexp_replace(item.relname, '_' || old_key || '(_|$)', '_' || new_key || '\1'));
    END LOOP;
    EXECUTE format('ALTER TABLE pgtrickle_changes.%I RENAME TO %I', 'changes_' || old_key, 'changes_' || new_key);
    FOR item IN
        SELECT p.proname FROM pg_proc p
        WHERE p.proname = ANY (ARRAY['pg_trickle_cdc_fn_' || old_key, 'pg_trickle_cdc_truncate_fn_' || old_key]::name[])
          AND p.pronamespace = 'pgtrickle_changes'::regnamespace AND p.pronargs = 0
    LOOP
        EXECUTE format('ALTER FUNCTION pgtrickle_changes.%I() RENAME TO %I',
                       item.proname, regexp_replace(item.proname, '_' || old_key || '$', '_' || new_key));
    END LOOP;
    FOR item IN
        SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t
        WHERE with_triggers AND t.tgrelid = ANY (tree)
          AND t.tgparentid = 0 AND NOT t.tgisinternal AND t.tgname ~ ('^pg_trickle_cdc_(.*_)?' || old_key || '$')
    LOOP
        EXECUTE format('ALTER TRIGGER %I ON %s RENAME TO %I', item.tgname, item.relation,
                       regexp_replace(item.tgname, '_' || old_key || '$', '_' || new_key));
    END LOOP;
    UPDATE pgtrickle.pgt_stream_tables t
    SET frontier = jsonb_set(t.frontier, '{sources}',
                             ((t.frontier -> 'sources') - old_key) || jsonb_build_object(new_key, t.frontier -> 'sources' -> old_key))
    WHERE t.frontier -> 'sources' ? old_key;
    UPDATE pgtrickle.pgt_change_tracking k SET slot_name = replace(k.slot_name, old_key, new_key)
    WHERE k.source_relid = relid AND k.slot_name = 'pg_trickle_cdc_' || old_key;
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._rename_capture(oid, text, text, boolean) FROM PUBLIC;
