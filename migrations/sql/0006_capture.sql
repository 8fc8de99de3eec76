-- Capture, in the database: it works when no Python runs. Statement-level triggers with transition tables write the change buffer,
-- an UPDATE as the rows that went (D) and the rows that came (I): linear in the rows of a statement, and the sum is what counts (F21).
-- The capture functions are SECURITY DEFINER: whoever may write a source need not know of its buffer.
--
-- By placement (D4): a local source has its triggers and its buffer beside it. A reference source has them on the coordinator's own
-- replica, or every node would capture each change (F10). A distributed source has them on every shard (F8), and its buffer is
-- colocated with it: what a shard captures stays on its node, in the writer's transaction (F14, F15).

ALTER TABLE pgtrickle.pgt_change_tracking ADD COLUMN IF NOT EXISTS captured_columns jsonb;
COMMENT ON COLUMN pgtrickle.pgt_change_tracking.captured_columns IS
    'What the buffer holds: attnum, name and type of each captured column; how a rename is told from a drop.';

CREATE OR REPLACE FUNCTION pgtrickle._type_below(type oid, typmod integer) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- A type as SQL writes it, or, of a domain, the type below it.
DECLARE
    domain record;
BEGIN
    LOOP
        SELECT t.typbasetype, t.typtypmod INTO domain FROM pg_type t WHERE t.oid = type AND t.typtype = 'd';
        EXIT WHEN NOT FOUND;
        type := domain.typbasetype;
        typmod := domain.typtypmod;
    END LOOP;
    RETURN format_type(type, typmod);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._source_columns(relid oid) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- Generated columns are left out, as in 0.2: a stream table that needs one computes it from the others. A domain gives way to the
-- type below it: a buffer's row leaves one image empty, which a domain that is NOT NULL would refuse.
BEGIN
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_object('attnum', a.attnum, 'name', a.attname,
                                                     'type', pgtrickle._type_below(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._shard_key(relid oid) RETURNS name
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The distribution column of a table; NULL where it has none (a single shard, a reference table, a local one).
DECLARE
    found text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) FROM pg_catalog.pg_dist_partition p
                 WHERE p.logicalrelid = $1 AND p.partkey IS NOT NULL' INTO found USING relid;
    END IF;
    RETURN found;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._is_partition(relid oid) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RETURN (SELECT c.relispartition FROM pg_class c WHERE c.oid = relid);
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

CREATE OR REPLACE FUNCTION pgtrickle._captured_lists(relid oid, new_row text, old_row text,
                                                     OUT new_names text, OUT new_values text, OUT old_names text, OUT old_values text)
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    -- A source's columns as the buffer names them and as the body of a capture function reads them, each after a comma.
    -- new_row and old_row are what that body calls the two images.
    SELECT coalesce(string_agg(format(', %I', ('new_' || (c ->> 'name'))::name), '' ORDER BY place), ''),
           coalesce(string_agg(format(', %s.%I', new_row, c ->> 'name'), '' ORDER BY place), ''),
           coalesce(string_agg(format(', %I', ('old_' || (c ->> 'name'))::name), '' ORDER BY place), ''),
           coalesce(string_agg(format(', %s.%I', old_row, c ->> 'name'), '' ORDER BY place), '')
    FROM jsonb_array_elements(pgtrickle._source_columns(relid)) WITH ORDINALITY AS e(c, place)
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._row_capture_source(relid oid, buffer name) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body for a source that is a partition itself: rows come to it through its parents, whose statements fire no statement trigger
-- of its own, so it keeps a row trigger, as 0.2 has it. It writes what the statement triggers write.
DECLARE
    lists record;
BEGIN
    SELECT * INTO lists FROM pgtrickle._captured_lists(relid, 'NEW', 'OLD');
    RETURN format($body$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'T');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%3$s) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'D'%5$s);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%2$s) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'I'%4$s);
    END IF;
    RETURN NULL;
END;
$body$, buffer, lists.new_names, lists.old_names, lists.new_values, lists.old_values);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._distributed_source(buffer name, new_names text, new_values text, old_names text, old_values text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    -- The body for a distributed source, which runs on a worker for a shard. Through the buffer's shell table it would fail (F13, F15),
    -- so it writes the colocated shard by its own name. One value of the sequence a statement, since no order is needed (F34).
    -- Its statements are dynamic, so no variable of it can be taken for a column.
    SELECT format($body$
DECLARE
    __pgt_shard CONSTANT pg_catalog.text := pgtrickle._buffer_shard(%1$L, TG_TABLE_NAME);
    __pgt_seq CONSTANT pg_catalog.int8 := pg_catalog.nextval('pgtrickle.change_seq');
BEGIN
    IF TG_OP <> 'INSERT' THEN
        EXECUTE pg_catalog.format(%2$L, __pgt_shard) USING __pgt_seq;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE pg_catalog.format(%3$L, __pgt_shard) USING __pgt_seq;
    END IF;
    RETURN NULL;
END;
$body$, buffer,
        format('INSERT INTO pgtrickle_changes.%%I (seq_id, action%s) SELECT $1, ''D''%s FROM __pgt_old AS o',
               replace(old_names, '%', '%%'), replace(old_values, '%', '%%')),
        format('INSERT INTO pgtrickle_changes.%%I (seq_id, action%s) SELECT $1, ''I''%s FROM __pgt_new AS n',
               replace(new_names, '%', '%%'), replace(new_values, '%', '%%')))
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._statement_source(relid oid, buffer name, placement text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body of the function behind a source's statement triggers. It declares nothing whose name could be a column's.
DECLARE
    shard_key CONSTANT name := pgtrickle._shard_key(relid);
    lists record;
BEGIN
    IF pgtrickle._is_partition(relid) THEN
        RETURN pgtrickle._row_capture_source(relid, buffer);
    END IF;
    SELECT * INTO lists FROM pgtrickle._captured_lists(relid, 'n', 'o');
    IF placement = 'distributed' THEN
        IF shard_key IS NOT NULL THEN
            lists.new_names := lists.new_names || ', shard_key';
            lists.old_names := lists.old_names || ', shard_key';
            lists.new_values := lists.new_values || format(', n.%I', shard_key);
            lists.old_values := lists.old_values || format(', o.%I', shard_key);
        END IF;
        RETURN pgtrickle._distributed_source(buffer, lists.new_names, lists.new_values, lists.old_names, lists.old_values);
    END IF;
    RETURN format($body$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'T');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%3$s) SELECT pg_catalog.pg_current_wal_insert_lsn(), 'D'%5$s FROM __pgt_old AS o;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%2$s) SELECT pg_catalog.pg_current_wal_insert_lsn(), 'I'%4$s FROM __pgt_new AS n;
    END IF;
    RETURN NULL;
END;
$body$, buffer, lists.new_names, lists.old_names, lists.new_values, lists.old_values);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._buffer_shard(buffer text, shard name) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- On a worker: the name of the buffer's shard that is colocated with a source's shard. Looked up once a session (F15).
DECLARE
    known CONSTANT text := 'pgtrickle.' || buffer || '_' || substring(shard FROM '_([0-9]+)$');
    found text := nullif(current_setting(known, true), '');
BEGIN
    IF found IS NULL OR to_regclass('pgtrickle_changes.' || found) IS NULL THEN
        EXECUTE $query$
            SELECT $1 || '_' || b.shardid FROM pg_catalog.pg_dist_shard s
            JOIN pg_catalog.pg_dist_shard b ON b.logicalrelid = ('pgtrickle_changes.' || $1)::regclass
                AND b.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
            WHERE s.shardid = $2$query$ INTO STRICT found USING buffer, substring(shard FROM '_([0-9]+)$')::bigint;
        PERFORM set_config(known, found, false);
    END IF;
    RETURN found;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._set_triggers(relid oid, stable text, wanted boolean) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Gives a source the statement triggers and takes them from every other table (a partition that was detached), or takes all.
-- Answers how many triggers came or went.
DECLARE
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
          AND (t.tgrelid = ANY (tree) OR placement = 'local')
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

CREATE OR REPLACE FUNCTION pgtrickle._sync_columns(relid oid, stable text, captured jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Makes the buffer's columns follow the source's: renamed with their values, added empty, dropped with the column. Answers whether
-- captured values were lost that a stream table may need: then its readers have to be rebuilt.
DECLARE
    buffer CONSTANT regclass := format('pgtrickle_changes.%I', 'changes_' || stable)::regclass;
    now_has CONSTANT jsonb := pgtrickle._source_columns(relid);
    lost boolean := false;
    item record;
    side text;
BEGIN
    FOR item IN
        SELECT w ->> 'name' AS was, n ->> 'name' AS name, n ->> 'type' AS type, w ->> 'type' AS was_type,
               n IS NULL AS is_gone, w IS NULL AS is_new
        FROM jsonb_array_elements(captured) AS w
        FULL JOIN jsonb_array_elements(now_has) AS n ON n -> 'attnum' = w -> 'attnum'
        ORDER BY n IS NULL DESC, w IS NULL, (coalesce(n, w) ->> 'attnum')::integer
    LOOP
        FOREACH side IN ARRAY ARRAY['new_', 'old_'] LOOP
            IF item.is_gone OR item.type <> item.was_type THEN
                EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS %I', buffer, (side || item.was)::name);
            END IF;
            IF item.is_new OR item.type <> item.was_type THEN
                EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', buffer, (side || item.name)::name, item.type);
            ELSIF NOT item.is_gone AND item.name <> item.was THEN
                EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', buffer, (side || item.was)::name, (side || item.name)::name);
            END IF;
        END LOOP;
        lost := lost OR coalesce(item.type <> item.was_type, false);
    END LOOP;
    RETURN lost;
END
$function$;

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
        UPDATE pgtrickle.pgt_stream_tables t SET needs_reinit = true
        WHERE t.pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = relid);
    END IF;
    PERFORM pgtrickle._set_function(relid, stable);
    changed := pgtrickle._set_triggers(relid, stable, true);
    UPDATE pgtrickle.pgt_change_tracking k SET captured_columns = pgtrickle._source_columns(relid) WHERE k.source_relid = relid;
    RETURN changed;
END
$function$;

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
    IF to_regclass(format('pgtrickle_changes.%I', 'changes_' || stable)) IS NULL THEN
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
    EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I(), pgtrickle_changes.%I()',
                   'pg_trickle_cdc_fn_' || stable, 'pg_trickle_cdc_truncate_fn_' || stable);
    EXECUTE format('DROP TABLE IF EXISTS pgtrickle_changes.%I', 'changes_' || stable);
    DELETE FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid;
    DELETE FROM pgtrickle.chain_notes n WHERE n.source_stable_name = stable;
    RETURN true;
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._type_below(oid, integer), pgtrickle._source_columns(oid), pgtrickle._shard_key(oid), pgtrickle._is_partition(oid), pgtrickle._captured_relations(oid),
    pgtrickle._captured_lists(oid, text, text), pgtrickle._row_capture_source(oid, name),
    pgtrickle._distributed_source(name, text, text, text, text), pgtrickle._statement_source(oid, name, text),
    pgtrickle._buffer_shard(text, name), pgtrickle._make_buffer(oid, text, text, text), pgtrickle._set_triggers(oid, text, boolean),
    pgtrickle._set_function(oid, text), pgtrickle._sync_columns(oid, text, jsonb), pgtrickle.resync_capture(oid),
    pgtrickle.install_capture(oid), pgtrickle.remove_capture(oid) FROM PUBLIC;
