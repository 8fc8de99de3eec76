-- Capture, in the database: it works when no Python runs. Statement-level triggers with transition tables write the change buffer,
-- an UPDATE as the rows that went (D) and the rows that came (I): linear in the rows of a statement, and the sum is what counts (F21).
-- The capture functions are SECURITY DEFINER: whoever may write a source need not know of its buffer.

ALTER TABLE pgtrickle.pgt_change_tracking ADD COLUMN IF NOT EXISTS captured_columns jsonb;
COMMENT ON COLUMN pgtrickle.pgt_change_tracking.captured_columns IS
    'What the buffer holds: attnum, name and type of each captured column; how a rename is told from a drop.';

CREATE OR REPLACE FUNCTION pgtrickle._source_columns(relid oid) RETURNS jsonb
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    -- Generated columns are left out, as in 0.2: a stream table that needs one computes it from the others.
    SELECT coalesce(jsonb_agg(jsonb_build_object('attnum', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod))
                              ORDER BY a.attnum), '[]')
    FROM pg_attribute a WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._statement_source(relid oid, buffer name) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body of the function behind a source's statement triggers. It declares nothing: a variable's name could be a column's.
DECLARE
    new_names text;
    old_names text;
    new_values text;
    old_values text;
BEGIN
    SELECT string_agg(format(', %I', ('new_' || (c ->> 'name'))::name), '' ORDER BY place),
           string_agg(format(', %I', ('old_' || (c ->> 'name'))::name), '' ORDER BY place),
           string_agg(format(', n.%I', c ->> 'name'), '' ORDER BY place),
           string_agg(format(', o.%I', c ->> 'name'), '' ORDER BY place)
    INTO new_names, old_names, new_values, old_values
    FROM jsonb_array_elements(pgtrickle._source_columns(relid)) WITH ORDINALITY AS e(c, place);
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
$body$, buffer, coalesce(new_names, ''), coalesce(old_names, ''), coalesce(new_values, ''), coalesce(old_values, ''));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._set_triggers(relid oid, stable text, wanted boolean) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Gives the source and each of its partitions the statement triggers, and takes them from every other table (a partition that was
-- detached). A statement fires the triggers of the table that it names, and of no other, so each needs its own.
-- Answers how many triggers came or went.
DECLARE
    changed integer := 0;
    relation oid;
    item record;
    -- By OID, so that a table of any name can be addressed.
    tree CONSTANT oid[] := CASE WHEN wanted THEN ARRAY(SELECT relid UNION SELECT p.relid FROM pg_partition_tree(relid) p) ELSE '{}' END;
BEGIN
    FOR item IN
        -- By what depends on the function, which is an index's work: nobody indexes triggers by name.
        SELECT t.tgname, t.tgrelid FROM pg_trigger t
        WHERE t.oid = ANY (ARRAY(SELECT d.objid FROM pg_depend d
                                 WHERE d.refclassid = 'pg_proc'::regclass AND d.classid = 'pg_trigger'::regclass
                                   AND d.refobjid = to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_fn_' || stable))))
          AND t.tgrelid <> ALL (tree)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.tgrelid::regclass);
        changed := changed + 1;
    END LOOP;
    FOREACH relation IN ARRAY tree LOOP
        CONTINUE WHEN (SELECT c.relkind NOT IN ('r', 'p') FROM pg_class c WHERE c.oid = relation);
        FOR item IN
            SELECT w.name, w.event, w.referencing FROM (VALUES
                ('pg_trickle_cdc_ins_', 'INSERT', 'REFERENCING NEW TABLE AS __pgt_new'),
                ('pg_trickle_cdc_upd_', 'UPDATE', 'REFERENCING OLD TABLE AS __pgt_old NEW TABLE AS __pgt_new'),
                ('pg_trickle_cdc_del_', 'DELETE', 'REFERENCING OLD TABLE AS __pgt_old'),
                ('pg_trickle_cdc_truncate_', 'TRUNCATE', '')) AS w(name, event, referencing)
            WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = w.name || stable)
        LOOP
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle_changes.%I()',
                           item.name || stable, item.event, relation::regclass, item.referencing, 'pg_trickle_cdc_fn_' || stable);
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
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION pgtrickle_changes.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                    SET search_path = pg_catalog, pg_temp AS %L',
                   'pg_trickle_cdc_fn_' || stable, pgtrickle._statement_source(relid, 'changes_' || stable));
    EXECUTE format('REVOKE ALL ON FUNCTION pgtrickle_changes.%I() FROM PUBLIC', 'pg_trickle_cdc_fn_' || stable);
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
    IF known.source_stable_name <> stable THEN
        PERFORM pgtrickle._rename_capture(relid, known.source_stable_name, stable);
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

CREATE OR REPLACE FUNCTION pgtrickle.install_capture(relid oid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Begins to capture a local source, in the caller's transaction; answers its stable name. Does no harm twice.
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
    IF placement <> 'local' THEN
        RAISE EXCEPTION '% is %, and this revision captures local tables', relid::regclass, placement USING ERRCODE = 'feature_not_supported';
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
        -- No index: rows are read in bulk and written one statement at a time (F16, F17).
        EXECUTE format('CREATE TABLE pgtrickle_changes.%I (change_id bigserial, lsn pg_lsn NOT NULL, action character(1) NOT NULL, pk_hash bigint%s,
                        xid xid8 DEFAULT pg_catalog.pg_current_xact_id())', 'changes_' || stable, coalesce(columns, ''));
        EXECUTE format('REVOKE ALL ON TABLE pgtrickle_changes.%I FROM PUBLIC', 'changes_' || stable);
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
    FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE d.source_relid = relid;
    IF readers IS NOT NULL THEN
        RAISE EXCEPTION 'the capture of % is in use by %', relid::regclass, readers USING ERRCODE = 'object_in_use';
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

REVOKE ALL ON FUNCTION pgtrickle._source_columns(oid), pgtrickle._statement_source(oid, name), pgtrickle._set_triggers(oid, text, boolean),
    pgtrickle._set_function(oid, text), pgtrickle._sync_columns(oid, text, jsonb), pgtrickle.resync_capture(oid),
    pgtrickle.install_capture(oid), pgtrickle.remove_capture(oid) FROM PUBLIC;
