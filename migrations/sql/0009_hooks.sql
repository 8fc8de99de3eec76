-- DDL on a source, and on what else a query names: the hooks of 0006, which now know what each stream table uses. SECURITY DEFINER:
-- whoever may alter a table need not own its buffer.

CREATE OR REPLACE FUNCTION pgtrickle._give_up_capture(relid oid, reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- A user's own DDL never fails because of capture. Where capture cannot follow, its function captures nothing any more, and the
-- readers say that they are wrong.
#variable_conflict use_variable
BEGIN
    PERFORM pgtrickle._stop_capture((SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid));
    PERFORM pgtrickle._fail(pgtrickle._readers(relid), format('the changes of %s can no longer be captured: %s', relid::regclass, reason));
    RAISE WARNING 'pgtrickle no longer captures %: %', relid::regclass, reason
        USING HINT = 'its stream tables are in status ERROR until they are rebuilt';
END
$function$;

CREATE FUNCTION pgtrickle._postpone_capture(relid oid, reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Nothing is captured until the next refresh of a reader makes the capture anew, and fills the reader anew.
#variable_conflict use_variable
BEGIN
    PERFORM pgtrickle._stop_capture((SELECT k.source_stable_name FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = relid));
    UPDATE pgtrickle.pgt_change_tracking k SET captured_columns = '[]' WHERE k.source_relid = relid;
    PERFORM pgtrickle._mark(pgtrickle._readers(relid), format('the capture of %s has to be made anew: %s', relid::regclass, reason));
END
$function$;

CREATE FUNCTION pgtrickle._is_probing() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(current_setting('pgtrickle.probing', true), '') = 'on'
$function$;

CREATE FUNCTION pgtrickle._related(relids oid[]) RETURNS oid[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- With what they inherit from and what inherits from them: a command on one of a family changes what a query on another returns.
    WITH RECURSIVE up(relid) AS (
        SELECT unnest(relids) UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relid
    ), down(relid) AS (
        SELECT unnest(relids) UNION SELECT i.inhrelid FROM down JOIN pg_inherits i ON i.inhparent = down.relid
    )
    SELECT ARRAY(SELECT u.relid FROM up u UNION SELECT d.relid FROM down d)
$function$;

CREATE FUNCTION pgtrickle._compare_references(touched jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Marks who uses something that is not what it was. Notes what it is now.
DECLARE
    relids CONSTANT oid[] := pgtrickle._related(pgtrickle._of_class(touched, 'pg_class'));
    others CONSTANT oid[] := pgtrickle._of_class(touched, 'pg_proc') || pgtrickle._of_class(touched, 'pg_type');
    changed record;
BEGIN
    FOR changed IN
        SELECT r.classid, r.objid, r.objsubid, i.schema_name, i.object_name, i.column_name, i.fingerprint, array_agg(r.pgt_id) AS readers,
               bool_or(r.fingerprint <> i.fingerprint) AS differs
        FROM pgtrickle.st_references r, LATERAL pgtrickle._identify(r.classid, r.objid, r.objsubid) AS i
        WHERE (r.objid = ANY (relids) AND r.classid = 'pg_class'::regclass
               OR r.objid = ANY (others) AND r.classid <> 'pg_class'::regclass
               -- A child that left says no longer whose it was.
               OR r.objsubid = 0 AND r.fingerprint LIKE '% children%')
          AND i.object_name IS NOT NULL
          AND (r.schema_name, r.object_name, coalesce(r.column_name, ''), r.fingerprint)
              IS DISTINCT FROM (i.schema_name, i.object_name, coalesce(i.column_name, ''), i.fingerprint)
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    LOOP
        IF changed.differs THEN
            PERFORM pgtrickle._mark(changed.readers, format('%s is not what it was', concat_ws('.', quote_ident(changed.schema_name),
                                                            quote_ident(changed.object_name), quote_ident(changed.column_name))));
        END IF;
        UPDATE pgtrickle.st_references r SET schema_name = changed.schema_name, object_name = changed.object_name,
               column_name = changed.column_name, fingerprint = changed.fingerprint
        WHERE (r.classid, r.objid, r.objsubid) = (changed.classid, changed.objid, changed.objsubid) AND r.pgt_id = ANY (changed.readers);
        IF changed.differs AND changed.classid = 'pg_class'::regclass AND changed.objsubid = 0 AND changed.fingerprint LIKE 'v %' THEN
            -- A view that was replaced may read other tables.
            PERFORM pgtrickle._note_references(reader) FROM unnest(changed.readers) AS reader;
        END IF;
    END LOOP;
END
$function$;

CREATE FUNCTION pgtrickle._is_becoming_shard(relid oid) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- citus_add_local_table_to_metadata (a foreign key to a reference table calls it, too) makes the table its own only shard: it gets the
-- number that was drawn last, and a moment later an empty shell takes its name.
DECLARE
    drawn bigint;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_shardid_seq') IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE 'SELECT s.last_value FROM pg_catalog.pg_dist_shardid_seq s' INTO drawn;
    RETURN (SELECT c.relname LIKE '%\_' || drawn FROM pg_class c WHERE c.oid = relid);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_ddl_start() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
-- On Citus a function can't be replaced or dropped after a parallel command, unless that went shard by shard (F24). Where a table is
-- kept is changed by making another one, whose triggers Citus makes again: those of capture, too.
DECLARE
    has_any boolean := false;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AND NOT pgtrickle._is_probing() THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p
                                WHERE p.logicalrelid IN (SELECT k.source_relid FROM pgtrickle.pgt_change_tracking k
                                                         UNION SELECT t.pgt_relid FROM pgtrickle.pgt_stream_tables t))' INTO has_any;
        IF has_any THEN
            PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
            IF TG_TAG = 'CREATE TABLE' AND current_query() ~* '\malter_distributed_table\M|\mundistribute_table\M|\malter_table_set_access_method\M' THEN
                PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
            END IF;
        END IF;
    END IF;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_ddl_end() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    touched CONSTANT jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_array(c.classid::bigint, c.objid::bigint)), '[]')
                               FROM pg_event_trigger_ddl_commands() c
                               WHERE c.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass));
    named jsonb;
    relids oid[];
    spaces CONSTANT oid[] := pgtrickle._of_class(touched, 'pg_namespace');
    source record;
    shells record;
BEGIN
    IF pgtrickle._is_probing() OR NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables UNION ALL
                                              (SELECT FROM pgtrickle.pgt_change_tracking LIMIT 1)) THEN
        RETURN;
    END IF;
    -- The shell of a table that Citus took over goes on for it.
    FOR shells IN
        SELECT DISTINCT r.objid AS was, c.objid AS becomes, c.object_identity FROM pg_event_trigger_ddl_commands() c
        JOIN pg_class s ON s.oid = c.objid AND c.classid = 'pg_class'::regclass AND c.command_tag = 'CREATE TABLE'
        JOIN pgtrickle.st_references r ON r.classid = c.classid AND (r.schema_name, r.object_name) = (s.relnamespace::regnamespace::text, s.relname)
        WHERE r.objid <> c.objid AND pgtrickle._is_becoming_shard(r.objid)
    LOOP
        PERFORM pgtrickle._follow_oid(shells.was, shells.becomes, format('Citus keeps %s in another way now', shells.object_identity));
    END LOOP;
    SELECT coalesce(jsonb_agg(o), '[]') INTO named FROM jsonb_array_elements(touched) AS o
    WHERE NOT ((o ->> 0)::oid = 'pg_class'::regclass AND pgtrickle._is_becoming_shard((o ->> 1)::oid));
    relids := pgtrickle._related(pgtrickle._of_class(named, 'pg_class'));
    PERFORM pgtrickle._follow_names(named);
    -- The sources that the command is about: the table itself, its parents and its children, all tables of a renamed schema.
    FOR source IN
        SELECT k.source_relid AS relid FROM pgtrickle.pgt_change_tracking k JOIN pg_class s ON s.oid = k.source_relid
        WHERE k.source_relid = ANY (relids) OR s.relnamespace = ANY (spaces)
    LOOP
        BEGIN
            IF pgtrickle._is_of_its_kind(source.relid) AND pgtrickle.resync_capture(source.relid) > 0 AND TG_TAG = 'ALTER TABLE' THEN
                -- A partition came with its rows, or left with them, and no statement says which.
                PERFORM pgtrickle._mark(pgtrickle._readers(source.relid), format('partitions of %s came or went', source.relid::regclass));
            END IF;
        EXCEPTION
            WHEN deadlock_detected OR lock_not_available THEN
                -- A refresh or whoever else looks at the buffer just now is in the way, which is no reason to give up.
                PERFORM pgtrickle._postpone_capture(source.relid, SQLERRM);
            WHEN OTHERS THEN
                PERFORM pgtrickle._give_up_capture(source.relid, SQLERRM);
        END;
    END LOOP;
    PERFORM pgtrickle._compare_references(named);
    -- Of tables that nobody captures, too.
    UPDATE pgtrickle.pgt_dependencies d SET source_stable_name = pgtrickle.stable_name(d.source_relid) FROM pg_class s
    WHERE s.oid = d.source_relid AND (s.oid = ANY (relids) OR s.relnamespace = ANY (spaces))
      AND d.source_stable_name IS DISTINCT FROM pgtrickle.stable_name(d.source_relid)
      AND NOT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = d.source_relid);
    -- A stream table's own name and columns.
    UPDATE pgtrickle.pgt_stream_tables t SET pgt_name = c.relname, pgt_schema = n.nspname, updated_at = now()
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = t.pgt_relid AND (t.pgt_name, t.pgt_schema) <> (c.relname::text, n.nspname::text);
    IF TG_TAG = 'ALTER TABLE' THEN
        PERFORM pgtrickle._follow_own_columns(pgtrickle._of_class(touched, 'pg_class'));
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._is_without_cascade(stack text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- No hook is told whether a command says CASCADE: only its text does. That is the innermost statement of the stack, else what the client
-- sent. Where it can't be seen (a function written in SQL; several statements of which one says CASCADE) the command is let through.
DECLARE
    inner_one CONSTANT text := substring(stack FROM E'^[^\n]*\n(SQL statement ".*)$');
    words text := coalesce(inner_one, current_query());
BEGIN
    IF inner_one IS NOT NULL THEN
        words := regexp_replace(words, '^SQL statement "', '');
    END IF;
    -- Without strings, quoted names and comments.
    words := regexp_replace(words, $quoted$'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/$quoted$, ' ', 'g');
    RETURN words ~* '\mdrop\M' AND words !~* '\mcascade\M';
END
$function$;

CREATE FUNCTION pgtrickle._on_columns_dropped(stack text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- In a hook at sql_drop: columns that stream tables use.
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT format('%I.%I', r.schema_name, r.object_name) AS relation, r.column_name, array_agg(t.pgt_id) AS readers,
               string_agg(format('%I.%I', t.pgt_schema, t.pgt_name), ', ' ORDER BY t.pgt_schema, t.pgt_name) AS names
        FROM pg_event_trigger_dropped_objects() o
        JOIN pgtrickle.st_references r ON r.classid = o.classid AND r.objid = o.objid AND r.objsubid = o.objsubid
        JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)
        WHERE o.classid = 'pg_class'::regclass AND o.objsubid > 0
          AND NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() w WHERE w.classid = o.classid AND w.objsubid = 0
                          AND w.objid IN (o.objid, t.pgt_relid))
        GROUP BY r.schema_name, r.object_name, r.column_name
    LOOP
        IF pgtrickle._is_without_cascade(stack) THEN
            RAISE EXCEPTION 'cannot drop column % of % because stream tables use it: %', quote_ident(gone.column_name), gone.relation, gone.names
                USING ERRCODE = 'dependent_objects_still_exist',
                      HINT = 'drop them first (harness st drop) or give them a query without it (harness st alter); DROP COLUMN .. CASCADE '
                             'leaves them in status ERROR';
        END IF;
        PERFORM pgtrickle._fail(gone.readers, format('column %I of %s, which its query reads, was dropped', gone.column_name, gone.relation));
    END LOOP;
END
$function$;

CREATE FUNCTION pgtrickle._on_capture_dropped() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- In a hook at sql_drop: triggers or a buffer of a source that stays. Nobody's writes may fail for it, and nobody may believe that all was captured.
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT DISTINCT k.source_relid, k.source_stable_name, o.object_type FROM pg_event_trigger_dropped_objects() o
        JOIN pgtrickle.pgt_change_tracking k
            ON o.object_type = 'trigger' AND o.address_names[3] ~ ('^pg_trickle_cdc_(.*_)?' || k.source_stable_name || '$')
            OR o.object_type = 'table' AND o.schema_name = 'pgtrickle_changes' AND o.object_name = 'changes_' || k.source_stable_name
        WHERE pgtrickle._successor(o.schema_name, o.object_name) IS NULL
    LOOP
        IF gone.object_type = 'table' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = gone.source_relid) THEN
            PERFORM pgtrickle._stop_capture(gone.source_stable_name);
        END IF;
        PERFORM pgtrickle._mark(ARRAY(SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d
                                      WHERE d.source_relid = gone.source_relid AND coalesce((to_jsonb(d) ->> 'is_captured')::boolean, true)),
                                format('a %s of the capture of %s was dropped, or a partition with its rows', gone.object_type,
                                       coalesce((SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid = gone.source_relid), 'a source')));
    END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._on_sql_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    gone record;
    stack text;
    is_conversion boolean := false;
BEGIN
    IF pgtrickle._is_probing() THEN
        RETURN;
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT;
    -- What goes on under another OID is not gone.
    FOR gone IN
        SELECT o.objid, o.object_identity, pgtrickle._successor(o.schema_name, o.object_name) AS becomes FROM pg_event_trigger_dropped_objects() o
        WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.object_type = 'table'
          AND pgtrickle._successor(o.schema_name, o.object_name) IS NOT NULL
    LOOP
        PERFORM pgtrickle._follow_oid(gone.objid, gone.becomes, format('%s is kept in another way now', gone.object_identity));
        is_conversion := true;
    END LOOP;
    PERFORM pgtrickle._on_columns_dropped(stack);
    -- A stream table whose storage is dropped is no stream table any more.
    DELETE FROM pgtrickle.pgt_stream_tables t
    USING pg_event_trigger_dropped_objects() o WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = t.pgt_relid;
    PERFORM pgtrickle._on_capture_dropped();
    FOR gone IN
        SELECT k.source_relid, k.source_stable_name FROM pgtrickle.pgt_change_tracking k
        JOIN pg_event_trigger_dropped_objects() o ON o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = k.source_relid
    LOOP
        DELETE FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = gone.source_relid;
        DELETE FROM pgtrickle.chain_notes n WHERE n.source_stable_name = gone.source_stable_name;
        EXECUTE format('DROP TABLE IF EXISTS pgtrickle_changes.%I', 'changes_' || gone.source_stable_name);
        -- CASCADE: after a move a shard's old copy keeps its triggers until Citus sweeps it.
        EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I(), pgtrickle_changes.%I() CASCADE',
                       'pg_trickle_cdc_fn_' || gone.source_stable_name, 'pg_trickle_cdc_truncate_fn_' || gone.source_stable_name);
    END LOOP;
    -- Whoever names something that is gone, itself or behind a view, is wrong.
    FOR gone IN
        SELECT d.pgt_id, min(o.object_type || ' ' || o.object_identity) AS what FROM pg_event_trigger_dropped_objects() o
        JOIN (SELECT r.pgt_id, r.classid, r.objid FROM pgtrickle.st_references r WHERE r.objsubid = 0
              UNION SELECT s.pgt_id, 'pg_class'::regclass, s.source_relid FROM pgtrickle.pgt_dependencies s) AS d
            ON d.classid = o.classid AND d.objid = o.objid AND o.objsubid = 0
        GROUP BY d.pgt_id
    LOOP
        IF is_conversion THEN
            -- Citus makes the views on the table again.
            PERFORM pgtrickle._mark(ARRAY[gone.pgt_id], format('%s is made again', gone.what));
        ELSE
            PERFORM pgtrickle._fail(ARRAY[gone.pgt_id], format('%s, which its query reads, was dropped', gone.what));
        END IF;
    END LOOP;
    PERFORM pgtrickle._compare_references('[]');
END
$function$;

CREATE FUNCTION pgtrickle._on_reader_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
-- At the commit that took a source's last reader away, by whatever command: its capture goes, and the history of a stream table that is
-- no more. What cannot be removed now is left to `harness st repair`: the user's own DDL does not fail for it.
BEGIN
    IF TG_TABLE_NAME = 'pgt_stream_tables' THEN
        DELETE FROM pgtrickle.pgt_refresh_history h WHERE h.pgt_id = OLD.pgt_id
            AND NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = OLD.pgt_id);
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = OLD.source_relid AND d.is_captured)
       OR NOT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = OLD.source_relid) THEN
        RETURN NULL;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', '2s', true);
        PERFORM pgtrickle.remove_capture(OLD.source_relid);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'nobody reads the changes of % any more, and its capture could not be removed: %', OLD.source_relid::regclass, SQLERRM
            USING HINT = 'run: harness st repair';
    END;
    RETURN NULL;
END
$function$;
CREATE CONSTRAINT TRIGGER _pgt_reader_gone AFTER DELETE ON pgtrickle.pgt_dependencies
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.is_captured) EXECUTE FUNCTION pgtrickle._on_reader_gone();
CREATE CONSTRAINT TRIGGER _pgt_table_gone AFTER DELETE ON pgtrickle.pgt_stream_tables
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgtrickle._on_reader_gone();

REVOKE ALL ON FUNCTION pgtrickle._postpone_capture(oid, text), pgtrickle._is_probing(), pgtrickle._related(oid[]), pgtrickle._compare_references(jsonb),
    pgtrickle._is_becoming_shard(oid), pgtrickle._is_without_cascade(text), pgtrickle._on_columns_dropped(text),
    pgtrickle._on_capture_dropped(), pgtrickle._on_reader_gone() FROM PUBLIC;

DROP EVENT TRIGGER IF EXISTS pg_trickle_ddl_start;
CREATE EVENT TRIGGER pg_trickle_ddl_start ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER SCHEMA', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION pgtrickle._on_ddl_start();
DROP EVENT TRIGGER IF EXISTS pg_trickle_ddl_tracker;
CREATE EVENT TRIGGER pg_trickle_ddl_tracker ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER SCHEMA', 'CREATE VIEW', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE',
                 'CREATE FUNCTION', 'ALTER FUNCTION', 'ALTER ROUTINE', 'CREATE AGGREGATE', 'ALTER AGGREGATE', 'ALTER TYPE', 'ALTER DOMAIN',
                 'DROP TABLE')
    EXECUTE FUNCTION pgtrickle._on_ddl_end();
DROP EVENT TRIGGER IF EXISTS pg_trickle_drop_tracker;
CREATE EVENT TRIGGER pg_trickle_drop_tracker ON sql_drop
    WHEN TAG IN ('ALTER TABLE', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION', 'DROP TRIGGER', 'DROP FUNCTION', 'DROP ROUTINE',
                 'DROP AGGREGATE', 'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP FOREIGN TABLE', 'DROP TYPE', 'DROP DOMAIN')
    EXECUTE FUNCTION pgtrickle._on_sql_drop();
