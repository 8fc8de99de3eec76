-- Capture that fits where a source is kept now; capture that is set free for a while.

CREATE FUNCTION pgtrickle._buffer_of(relid oid) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT to_regclass(format('pgtrickle_changes.%I', 'changes_' || k.source_stable_name)) FROM pgtrickle.pgt_change_tracking k
    WHERE k.source_relid = relid
$function$;

CREATE FUNCTION pgtrickle._is_of_its_kind(relid oid) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- Whether a source's buffer is the one that its placement needs: on the coordinator, or colocated by the same column.
DECLARE
    buffer CONSTANT regclass := pgtrickle._buffer_of(relid);
    found boolean;
BEGIN
    IF buffer IS NULL OR EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid AND k.captured_columns = '[]') THEN
        RETURN false;
    END IF;
    IF pgtrickle.placement_of(relid) <> 'distributed' THEN
        RETURN pgtrickle.placement_of(buffer) = 'local' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = buffer AND a.attname = 'lsn');
    END IF;
    EXECUTE $query$
        SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition s JOIN pg_catalog.pg_dist_partition b ON b.colocationid = s.colocationid
                       WHERE s.logicalrelid = $1 AND b.logicalrelid = $2)$query$ INTO found USING relid, buffer::oid;
    RETURN found AND (pgtrickle._shard_key(relid) IS NULL) = (pgtrickle._shard_key(buffer) IS NULL);
END
$function$;

CREATE FUNCTION pgtrickle._sweep_capture(relid oid, stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Takes triggers, function and buffer of a stable name away, wherever the triggers are on this node.
DECLARE
    item record;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    END IF;
    FOR item IN
        -- Not joined with pg_class, where Citus hides shards.
        SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t
        WHERE t.tgname ~ '^pg_trickle_cdc_' AND t.tgparentid = 0
          AND t.tgfoid IN (SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'pgtrickle_changes'::regnamespace
                           AND p.proname IN ('pg_trickle_cdc_fn_' || stable, 'pg_trickle_cdc_truncate_fn_' || stable))
        ORDER BY t.tgrelid = relid DESC, t.oid
    LOOP
        -- With a distributed table's own trigger Citus takes those of its shards.
        IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = item.relation AND t.tgname = item.tgname) THEN
            -- A shard may be without it.
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', item.tgname, item.relation);
        END IF;
    END LOOP;
    -- CASCADE: after a move a shard's old copy keeps its triggers until Citus sweeps it.
    EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I(), pgtrickle_changes.%I() CASCADE',
                   'pg_trickle_cdc_fn_' || stable, 'pg_trickle_cdc_truncate_fn_' || stable);
    EXECUTE format('DROP TABLE IF EXISTS pgtrickle_changes.%I', 'changes_' || stable);
END
$function$;

CREATE FUNCTION pgtrickle.rebuild_capture(relid oid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Makes a source's capture anew, as its placement wants it now. What was captured and not applied is gone with the old buffer, so the
-- readers are filled anew. In the caller's transaction; answers the stable name.
#variable_conflict use_variable
DECLARE
    known CONSTANT text := (SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid);
BEGIN
    DELETE FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid;
    PERFORM pgtrickle._sweep_capture(relid, known) WHERE known IS NOT NULL;
    -- Whose next refresh fills them anyway are left as they are: it would not know that this is what it mended.
    PERFORM pgtrickle._mark(ARRAY(SELECT t.pgt_id FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = ANY (pgtrickle._readers(relid)) AND NOT t.needs_reinit),
                            format('the capture of %s was made anew', relid::regclass));
    PERFORM pgtrickle.install_capture(relid);
    UPDATE pgtrickle.pgt_dependencies d SET source_placement = pgtrickle.placement_of(relid), source_stable_name = pgtrickle.stable_name(relid)
    WHERE d.source_relid = relid;
    RETURN pgtrickle.stable_name(relid);
END
$function$;

CREATE FUNCTION pgtrickle.release_capture(relation regclass) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Takes the triggers of capture off a table, for what Citus does to no table with triggers (create_distributed_table,
-- create_reference_table). Call it in the same transaction, before. Its readers are filled anew by their next refresh, which captures
-- again; answers their names.
BEGIN
    IF NOT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relation) THEN
        RAISE EXCEPTION '% is not captured', relation USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM pgtrickle._set_triggers(relation, (SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relation), false);
    PERFORM pgtrickle._mark(pgtrickle._readers(relation), format('the capture of %s was released', relation));
    RETURN ARRAY(SELECT format('%I.%I', t.pgt_schema, t.pgt_name) FROM pgtrickle.pgt_stream_tables t
                 WHERE t.pgt_id = ANY (pgtrickle._readers(relation)) ORDER BY 1);
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._buffer_of(oid), pgtrickle._is_of_its_kind(oid), pgtrickle._sweep_capture(oid, text),
    pgtrickle.rebuild_capture(oid), pgtrickle.release_capture(regclass) FROM PUBLIC;

CREATE FUNCTION pgtrickle._enable_triggers(relid oid, stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- DISABLE TRIGGER ALL is meant for other triggers: without those of capture a stream table would be wrong and not know it.
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t
        WHERE t.tgrelid = ANY (pgtrickle._captured_relations(relid)) AND t.tgenabled = 'D' AND t.tgparentid = 0
          AND t.tgname ~ ('^pg_trickle_cdc_(.*_)?' || stable || '$')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE TRIGGER %I', item.relation, item.tgname);
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle._enable_triggers(oid, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle.resync_capture(relid oid) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Makes a source's capture fit the source as it is now: its name, its columns, its partitions. In the caller's transaction.
-- Answers how many triggers came or went.
#variable_conflict use_variable
DECLARE
    changed integer;
    stable CONSTANT text := pgtrickle.stable_name(relid);
    known record;
BEGIN
    SELECT k.source_stable_name, k.captured_columns INTO STRICT known FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid;
    IF pgtrickle.placement_of(relid) = 'distributed' THEN
        PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    END IF;
    IF known.source_stable_name <> stable THEN
        -- A table's new name reaches the workers only after this (docs/findings.md), so there its triggers keep their names.
        PERFORM pgtrickle._rename_capture(relid, known.source_stable_name, stable, pgtrickle.placement_of(relid) <> 'distributed');
        UPDATE pgtrickle.pgt_change_tracking k SET source_stable_name = stable WHERE k.source_relid = relid;
        UPDATE pgtrickle.pgt_dependencies d SET source_stable_name = stable WHERE d.source_relid = relid;
        UPDATE pgtrickle.chain_notes n SET source_stable_name = stable WHERE n.source_stable_name = known.source_stable_name;
    END IF;
    IF pgtrickle._sync_columns(relid, stable, coalesce(known.captured_columns, pgtrickle._source_columns(relid))) THEN
        -- Of whoever's columns are known a hook decides by them.
        PERFORM pgtrickle._mark(ARRAY(SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = relid
                                      AND NOT EXISTS (SELECT FROM pgtrickle.st_references r WHERE r.pgt_id = d.pgt_id)),
                                format('a type of %s changed', relid::regclass));
    END IF;
    PERFORM pgtrickle._set_function(relid, stable);
    changed := pgtrickle._set_triggers(relid, stable, true);
    PERFORM pgtrickle._enable_triggers(relid, stable);
    UPDATE pgtrickle.pgt_change_tracking k SET captured_columns = pgtrickle._source_columns(relid) WHERE k.source_relid = relid;
    RETURN changed;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.install_capture(relid oid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Begins to capture a source, in the caller's transaction, on the coordinator; answers its stable name. Does no harm twice.
#variable_conflict use_variable
DECLARE
    stable CONSTANT text := pgtrickle.stable_name(relid);
    placement CONSTANT text := pgtrickle.placement_of(relid);
    other text;
    columns text;
BEGIN
    IF stable IS NULL THEN
        RAISE EXCEPTION 'there is no table with OID %', relid USING ERRCODE = 'undefined_table';
    END IF;
    IF (SELECT c.relkind NOT IN ('r', 'p') FROM pg_class c WHERE c.oid = relid) THEN
        RAISE EXCEPTION '% is no table, so its changes cannot be captured', relid::regclass USING ERRCODE = 'wrong_object_type';
    END IF;
    IF placement <> 'local' AND pgtrickle._is_partition(relid) THEN
        RAISE EXCEPTION '% is a partition and %: capture its parent instead', relid::regclass, placement USING ERRCODE = 'feature_not_supported';
    END IF;
    IF placement <> 'local' THEN
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
        PERFORM pgtrickle.share_with_workers();
    END IF;
    SELECT k.source_relid::regclass::text INTO other FROM pgtrickle.pgt_change_tracking k
    WHERE k.source_stable_name = stable AND k.source_relid <> relid;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION '% and % have one stable name, %', relid::regclass, other, stable
            USING ERRCODE = 'duplicate_object', HINT = 'rename one of the two tables or its schema';
    END IF;
    IF EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid) AND NOT pgtrickle._is_of_its_kind(relid) THEN
        RETURN pgtrickle.rebuild_capture(relid);
    END IF;
    -- One that is there under an earlier name is renamed below.
    IF to_regclass(format('pgtrickle_changes.%I', 'changes_' || stable)) IS NULL AND pgtrickle._buffer_of(relid) IS NULL THEN
        SELECT string_agg(format(', %I %s, %I %s', ('new_' || (c ->> 'name'))::name, c ->> 'type', ('old_' || (c ->> 'name'))::name, c ->> 'type'),
                          '' ORDER BY place) INTO columns
        FROM jsonb_array_elements(pgtrickle._source_columns(relid)) WITH ORDINALITY AS e(c, place);
        PERFORM pgtrickle._make_buffer(relid, stable, placement, coalesce(columns, ''));
    END IF;
    INSERT INTO pgtrickle.pgt_change_tracking (source_relid, slot_name, source_stable_name, captured_columns)
    VALUES (relid, 'pg_trickle_cdc_' || stable, stable, pgtrickle._source_columns(relid))
    ON CONFLICT (source_relid) DO NOTHING;
    PERFORM pgtrickle.resync_capture(relid);
    RETURN stable;
END
$function$;

CREATE FUNCTION pgtrickle._own_shards(relid oid) RETURNS oid[]
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The shards of a table on this node.
#variable_conflict use_variable
DECLARE
    found oid[];
BEGIN
    IF to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL THEN
        EXECUTE $query$
            SELECT array_agg(r.oid::oid) FROM (
                SELECT to_regclass(format('%I.%I', n.nspname, c.relname || '_' || s.shardid)) AS oid
                FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE s.logicalrelid = $1) r WHERE r.oid IS NOT NULL$query$
            INTO found USING relid;
    END IF;
    RETURN coalesce(found, '{}');
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle._own_shards(oid) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle._set_triggers(relid oid, stable text, wanted boolean) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Gives a source the statement triggers and takes them from every other table (a partition that was detached), or takes all.
-- Answers how many triggers came or went.
DECLARE
    shards CONSTANT oid[] := pgtrickle._own_shards(relid);
    changed integer := 0;
    relation oid;
    item record;
    placement CONSTANT text := pgtrickle.placement_of(relid);
    tree CONSTANT oid[] := pgtrickle._captured_relations(relid);
    functions CONSTANT oid[] := ARRAY[to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_fn_' || stable)),
                                      to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_truncate_fn_' || stable))];
    by_row CONSTANT boolean := pgtrickle._is_partition(relid);
    names CONSTANT text[] := CASE WHEN by_row THEN ARRAY['pg_trickle_cdc_row_', 'pg_trickle_cdc_truncate_']
        ELSE ARRAY['pg_trickle_cdc_ins_', 'pg_trickle_cdc_upd_', 'pg_trickle_cdc_del_', 'pg_trickle_cdc_truncate_'] END;
BEGIN
    IF placement = 'distributed' THEN
        PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
    END IF;
    FOR item IN
        -- By what depends on the function, which is an index's work: nobody indexes triggers by name. Shards that live on this
        -- node have the trigger too, and Citus takes it from them with the table's own.
        SELECT t.tgname, t.tgrelid FROM pg_trigger t
        WHERE t.oid = ANY (ARRAY(SELECT d.objid FROM pg_depend d
                                 WHERE d.refclassid = 'pg_proc'::regclass AND d.classid = 'pg_trigger'::regclass
                                   AND d.refobjid = ANY (functions)))
          AND t.tgparentid = 0
          -- A partition that was detached; not the shards, which Citus sees to.
          AND (t.tgrelid = ANY (tree)
               OR (placement = 'local' AND t.tgrelid <> ALL (shards))
               OR (placement = 'distributed' AND pgtrickle.placement_of(t.tgrelid) = 'distributed'))
          -- What follows the last underscore may be of an earlier name of a distributed table.
          AND NOT (wanted AND t.tgrelid = ANY (tree) AND regexp_replace(t.tgname, '[^_]*$', '') = ANY (names))
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.tgrelid::regclass);
        changed := changed + 1;
    END LOOP;
    FOREACH relation IN ARRAY CASE WHEN wanted THEN tree ELSE '{}' END LOOP
        CONTINUE WHEN (SELECT c.relkind NOT IN ('r', 'p') FROM pg_class c WHERE c.oid = relation);
        FOR item IN
            SELECT w.name, w.event, w.clause, w.function FROM (VALUES
                ('pg_trickle_cdc_ins_', 'INSERT', 'REFERENCING NEW TABLE AS __pgt_new FOR EACH STATEMENT', 'pg_trickle_cdc_fn_'),
                ('pg_trickle_cdc_upd_', 'UPDATE', 'REFERENCING OLD TABLE AS __pgt_old NEW TABLE AS __pgt_new FOR EACH STATEMENT', 'pg_trickle_cdc_fn_'),
                ('pg_trickle_cdc_del_', 'DELETE', 'REFERENCING OLD TABLE AS __pgt_old FOR EACH STATEMENT', 'pg_trickle_cdc_fn_'),
                ('pg_trickle_cdc_row_', 'INSERT OR UPDATE OR DELETE', 'FOR EACH ROW', 'pg_trickle_cdc_fn_'),
                ('pg_trickle_cdc_truncate_', 'TRUNCATE', 'FOR EACH STATEMENT',
                 CASE placement WHEN 'distributed' THEN 'pg_trickle_cdc_truncate_fn_' ELSE 'pg_trickle_cdc_fn_' END))
                AS w(name, event, clause, function)
            WHERE w.name = ANY (names)
              AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgfoid = ANY (functions)
                              AND regexp_replace(t.tgname, '[^_]*$', '') = w.name)
        LOOP
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s EXECUTE FUNCTION pgtrickle_changes.%I()',
                           item.name || stable, item.event, relation::regclass, item.clause, item.function || stable);
            changed := changed + 1;
        END LOOP;
    END LOOP;
    RETURN changed;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._captured_relations(relid oid) RETURNS oid[]
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The relations on this node that carry a source's triggers: the source and its partitions, since a statement fires the triggers of
-- the table that it names and of no other; of a reference table the coordinator's own replica.
#variable_conflict use_variable
DECLARE
    found oid[];
BEGIN
    IF pgtrickle.placement_of(relid) = 'reference' THEN
        EXECUTE $query$
            SELECT ARRAY[to_regclass(format('%I.%I', n.nspname, c.relname || '_' || s.shardid))]
            FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE s.logicalrelid = $1$query$ INTO found USING relid;
        IF found IS NULL OR found[1] IS NULL THEN
            -- In a hook the table may have its new name, and its replica the old one yet: it has the triggers.
            EXECUTE $query$
                SELECT array_agg(DISTINCT t.tgrelid::oid) FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_trigger t
                    ON t.tgrelid::regclass::text ~ ('_' || s.shardid || '"?$')
                JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = 'pgtrickle_changes'::regnamespace
                WHERE s.logicalrelid = $1$query$ INTO found USING relid;
        END IF;
        IF found IS NULL OR found[1] IS NULL THEN
            RAISE EXCEPTION 'this node has no replica of reference table %', relid::regclass USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'run this on the coordinator, and register it: SELECT citus_set_coordinator_host(...)';
        END IF;
        RETURN found;
    END IF;
    IF pgtrickle._is_partition(relid) THEN
        -- Its row triggers reach its own partitions by themselves.
        RETURN ARRAY[relid];
    END IF;
    RETURN ARRAY(SELECT relid UNION SELECT p.relid FROM pg_partition_tree(relid) p);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.remove_capture(relid oid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Ends the capture of a source whose last reader is gone, its buffer with it. Answers whether there was one. Refused while read.
#variable_conflict use_variable
DECLARE
    stable CONSTANT text := (SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid);
    readers text;
BEGIN
    IF stable IS NULL THEN
        RETURN false;
    END IF;
    SELECT string_agg(format('%I.%I', t.pgt_schema, t.pgt_name), ', ') INTO readers
    FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)
    -- One that recomputes its query reads no buffer (0007's column; before it every reader does).
    WHERE d.source_relid = relid AND coalesce((to_jsonb(d) ->> 'is_captured')::boolean, true);
    IF readers IS NOT NULL THEN
        RAISE EXCEPTION 'the capture of % is in use by %', relid::regclass, readers USING ERRCODE = 'object_in_use';
    END IF;
    IF pgtrickle.placement_of(relid) <> 'local' THEN
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    END IF;
    PERFORM pgtrickle._set_triggers(relid, stable, false);
    -- CASCADE: after a move a shard's old copy keeps its triggers until Citus sweeps it.
    EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I(), pgtrickle_changes.%I() CASCADE',
                   'pg_trickle_cdc_fn_' || stable, 'pg_trickle_cdc_truncate_fn_' || stable);
    EXECUTE format('DROP TABLE IF EXISTS pgtrickle_changes.%I', 'changes_' || stable);
    DELETE FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid;
    DELETE FROM pgtrickle.chain_notes n WHERE n.source_stable_name = stable;
    RETURN true;
END
$function$;
