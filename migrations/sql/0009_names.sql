-- New names. A stream table's query is kept as text, so it is written anew as soon as something that it names is called otherwise:
-- PostgreSQL does it, with a view that exists for a moment under the old name.

CREATE FUNCTION pgtrickle._rename(classid oid, objid oid, objsubid integer, to_schema text, to_name text, to_column text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Calls an object what the arguments say; what it is called already stays.
#variable_conflict use_variable
DECLARE
    now_is record;
    kind text;
    parent regclass;
    relation regclass := CASE WHEN classid = 'pg_class'::regclass THEN objid END;
BEGIN
    SELECT * INTO now_is FROM pgtrickle._identify(classid, objid, objsubid);
    IF objsubid > 0 AND now_is.column_name <> to_column THEN
        -- An inherited column is renamed where it comes from.
        LOOP
            SELECT i.inhparent INTO parent FROM pg_inherits i JOIN pg_attribute a ON a.attrelid = i.inhparent AND a.attname = now_is.column_name
            WHERE i.inhrelid = relation LIMIT 1;
            EXIT WHEN NOT FOUND;
            relation := parent;
        END LOOP;
        EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', relation, now_is.column_name, to_column);
    END IF;
    IF objsubid = 0 THEN
        kind := CASE classid WHEN 'pg_class'::regclass THEN 'TABLE'
            WHEN 'pg_proc'::regclass THEN CASE WHEN (SELECT p.prokind = 'a' FROM pg_proc p WHERE p.oid = objid) THEN 'AGGREGATE' ELSE 'ROUTINE' END
            ELSE CASE WHEN (SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = objid) THEN 'DOMAIN' ELSE 'TYPE' END END;
        IF now_is.object_name <> to_name THEN
            EXECUTE format('ALTER %s %s RENAME TO %I', kind, pgtrickle._written(classid, objid), to_name);
        END IF;
        IF now_is.schema_name <> to_schema THEN
            EXECUTE format('ALTER %s %s SET SCHEMA %I', kind, pgtrickle._written(classid, objid), to_schema);
        END IF;
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._written(classid oid, objid oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT CASE classid WHEN 'pg_class'::regclass THEN objid::regclass::text
        WHEN 'pg_proc'::regclass THEN objid::regprocedure::text ELSE objid::regtype::text END
$function$;

CREATE FUNCTION pgtrickle._texts_with(readers bigint[], renamed jsonb, old_schema text, new_schema text) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- The queries of some stream tables as they have to be written now: for a moment the renamed objects get their old names back, views of
-- the queries are made, and PostgreSQL itself says what those are called afterwards. Under locks that the DDL has anyway; nothing stays.
DECLARE
    texts jsonb := '{}';
    made jsonb := '{}';
    item record;
    probe regclass;
    forward jsonb;
BEGIN
    BEGIN
        PERFORM pgtrickle._begin_probe();
        IF old_schema IS NOT NULL THEN
            EXECUTE format('ALTER SCHEMA %I RENAME TO %I', new_schema, old_schema);
        END IF;
        SELECT coalesce(jsonb_agg(jsonb_build_array(o -> 0, o -> 1, o -> 2, i.schema_name, i.object_name, i.column_name)), '[]') INTO forward
        FROM jsonb_array_elements(renamed) AS o, LATERAL pgtrickle._identify((o ->> 0)::oid, (o ->> 1)::oid, (o ->> 2)::integer) AS i;
        FOR item IN SELECT (o ->> 0)::oid AS classid, (o ->> 1)::oid AS objid, (o ->> 2)::integer AS objsubid, o ->> 3 AS schema_name,
                           o ->> 4 AS object_name, o ->> 5 AS column_name FROM jsonb_array_elements(renamed) AS o LOOP
            PERFORM pgtrickle._rename(item.classid, item.objid, item.objsubid, item.schema_name, item.object_name, item.column_name);
        END LOOP;
        FOR item IN SELECT t.pgt_id, t.defining_query FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = ANY (readers) LOOP
            BEGIN
                probe := pgtrickle._probe(item.pgt_id, item.defining_query);
                made := made || jsonb_build_object(item.pgt_id::text, probe::oid::bigint);
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- not understood under the old names either: its refreshes say so
            END;
        END LOOP;
        FOR item IN SELECT (o ->> 0)::oid AS classid, (o ->> 1)::oid AS objid, (o ->> 2)::integer AS objsubid, o ->> 3 AS schema_name,
                           o ->> 4 AS object_name, o ->> 5 AS column_name FROM jsonb_array_elements(forward) AS o LOOP
            PERFORM pgtrickle._rename(item.classid, item.objid, item.objsubid, item.schema_name, item.object_name, item.column_name);
        END LOOP;
        IF old_schema IS NOT NULL THEN
            EXECUTE format('ALTER SCHEMA %I RENAME TO %I', old_schema, new_schema);
        END IF;
        SELECT coalesce(jsonb_object_agg(m.key, rtrim(btrim(pg_get_viewdef(m.value::oid), E' \n'), ';')), '{}') INTO texts FROM jsonb_each_text(made) m;
        RAISE EXCEPTION USING ERRCODE = 'PTU00';
    EXCEPTION WHEN SQLSTATE 'PTU00' THEN
        NULL;
    END;
    RETURN texts;
END
$function$;

CREATE FUNCTION pgtrickle._of_class(touched jsonb, class regclass) RETURNS oid[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT ARRAY(SELECT (o ->> 1)::oid FROM jsonb_array_elements(touched) AS o WHERE (o ->> 0)::oid = class)
$function$;

CREATE FUNCTION pgtrickle._follow_names(touched jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- touched: the objects that a command was about, as pairs of classid and objid; a schema stands for all that is in it.
DECLARE
    -- Columns of parents are those of their children, too.
    relids CONSTANT oid[] := pgtrickle._related(pgtrickle._of_class(touched, 'pg_class'));
    others CONSTANT oid[] := pgtrickle._of_class(touched, 'pg_proc') || pgtrickle._of_class(touched, 'pg_type');
    spaces CONSTANT oid[] := pgtrickle._of_class(touched, 'pg_namespace');
    renamed jsonb;
    readers bigint[];
    texts jsonb := '{}';
    problem text := 'PostgreSQL no longer understands it';
    old_schema text;
    new_schema text;
    item record;
BEGIN
    IF spaces <> '{}' THEN
        SELECT s.nspname, min(r.schema_name) INTO new_schema, old_schema
        FROM pg_namespace s JOIN pgtrickle.st_references r ON true, LATERAL pgtrickle._identify(r.classid, r.objid, r.objsubid) AS i
        WHERE s.oid = ANY (spaces) AND i.schema_name = s.nspname AND r.schema_name <> i.schema_name
        GROUP BY s.nspname;
    END IF;
    SELECT array_agg(DISTINCT r.pgt_id), coalesce(jsonb_agg(DISTINCT jsonb_build_array(r.classid::bigint, r.objid::bigint, r.objsubid, r.schema_name, r.object_name, r.column_name))
        FILTER (WHERE old_schema IS NULL AND (r.objsubid = 0 OR r.column_name <> i.column_name)), '[]') INTO readers, renamed
    FROM pgtrickle.st_references r, LATERAL pgtrickle._identify(r.classid, r.objid, r.objsubid) AS i
    WHERE CASE WHEN old_schema IS NOT NULL THEN r.schema_name = old_schema AND i.schema_name = new_schema
               WHEN r.classid = 'pg_class'::regclass THEN r.objid = ANY (relids)
               ELSE r.objid = ANY (others) END
      AND i.object_name IS NOT NULL
      AND (r.schema_name, r.object_name, coalesce(r.column_name, '')) <> (i.schema_name, i.object_name, coalesce(i.column_name, ''));
    IF readers IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        texts := pgtrickle._texts_with(readers, renamed, old_schema, new_schema);
    EXCEPTION WHEN OTHERS THEN
        problem := SQLERRM;
    END;
    FOR item IN SELECT t.pgt_id, format('%I.%I', t.pgt_schema, t.pgt_name) AS name FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = ANY (readers) LOOP
        IF texts ? item.pgt_id::text THEN
            UPDATE pgtrickle.pgt_stream_tables t SET defining_query = texts ->> item.pgt_id::text, plan_epoch = t.plan_epoch + 1, updated_at = now()
            WHERE t.pgt_id = item.pgt_id;
        ELSE
            PERFORM pgtrickle._fail(ARRAY[item.pgt_id], format('its query names something that is called otherwise now, and could not be rewritten: %s', problem));
            RAISE WARNING 'the query of stream table % could not follow the new name: %', item.name, problem
                USING HINT = 'give it another with `harness st alter`';
        END IF;
    END LOOP;
END
$function$;

CREATE FUNCTION pgtrickle._follow_own_columns(relids oid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Columns of a stream table's own storage that were renamed: its query returns them under their new names from here on.
DECLARE
    item record;
    names text;
    shown name[];
    text_now text;
    probe regclass;
BEGIN
    FOR item IN SELECT t.pgt_id, t.pgt_relid, t.defining_query FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_relid = ANY (relids) LOOP
        SELECT array_agg(a.attname ORDER BY a.attnum), string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO shown, names
        FROM pg_attribute a WHERE a.attrelid = item.pgt_relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT LIKE '\_\_pgt\_%';
        text_now := NULL;
        BEGIN
            PERFORM pgtrickle._begin_probe();
            probe := pgtrickle._probe(item.pgt_id, item.defining_query);
            -- Fewer names than columns are no error; then somebody dropped one, which is another matter.
            IF (SELECT array_agg(a.attname ORDER BY a.attnum) <> shown AND count(*) = cardinality(shown) FROM pg_attribute a
                WHERE a.attrelid = probe AND a.attnum > 0) THEN
                EXECUTE format('DROP VIEW %s', probe);
                probe := pgtrickle._probe(item.pgt_id, item.defining_query, format(' (%s)', names));
                text_now := rtrim(btrim(pg_get_viewdef(probe), E' \n'), ';');
            END IF;
            RAISE EXCEPTION USING ERRCODE = 'PTU00';
        EXCEPTION
            WHEN SQLSTATE 'PTU00' THEN NULL;
            WHEN OTHERS THEN CONTINUE;
        END;
        UPDATE pgtrickle.pgt_stream_tables t SET defining_query = text_now, plan_epoch = t.plan_epoch + 1
        WHERE t.pgt_id = item.pgt_id AND text_now IS NOT NULL;
    END LOOP;
END
$function$;

CREATE FUNCTION pgtrickle._successor(old_schema text, old_name text) RETURNS oid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Citus changes where a table is kept by copying it into one of another name, which is called as the old one was once that is dropped
-- (undistribute_table, alter_distributed_table). While the old one is dropped: the copy; NULL where there is none.
DECLARE
    found oid;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        SELECT c.oid INTO found FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = old_schema AND c.relkind IN ('r', 'p') AND c.relname ~ ('_' || (hashtext(old_name)::bigint & 4294967295) || '$')
          AND left(c.relname, 10) = left(old_name || '_' || (hashtext(old_name)::bigint & 4294967295), 10);  -- a long name is clipped
    END IF;
    RETURN found;
END
$function$;

CREATE FUNCTION pgtrickle._follow_oid(was oid, becomes oid, why text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- A table that goes on under another OID: everything that knew it knows the new one, and its readers are to be filled anew once.
DECLARE
    placement CONSTANT text := pgtrickle.placement_of(becomes);
    stable text;
BEGIN
    PERFORM pgtrickle._mark(pgtrickle._readers(was) || ARRAY(SELECT t.pgt_id FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_relid = was), why);
    UPDATE pgtrickle.pgt_stream_tables t SET pgt_relid = becomes, st_placement = placement WHERE t.pgt_relid = was;
    UPDATE pgtrickle.pgt_dependencies d SET source_relid = becomes, source_placement = placement WHERE d.source_relid = was;
    UPDATE pgtrickle.st_references r SET objid = becomes WHERE r.classid = 'pg_class'::regclass AND r.objid = was;
    -- Its capture is to be made anew, and nothing else be done with it before.
    UPDATE pgtrickle.pgt_change_tracking k SET source_relid = becomes, captured_columns = '[]' WHERE k.source_relid = was RETURNING k.source_stable_name INTO stable;
    IF stable IS NOT NULL THEN
        PERFORM pgtrickle._stop_capture(stable);
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._stop_capture(stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Its triggers may stay: they capture nothing until capture is made anew. Where the function is gone nothing calls it.
BEGIN
    IF to_regprocedure(format('pgtrickle_changes.%I()', 'pg_trickle_cdc_fn_' || stable)) IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION pgtrickle_changes.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                    SET search_path = pg_catalog, pg_temp AS $body$BEGIN RETURN NULL; END$body$', 'pg_trickle_cdc_fn_' || stable);
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._rename(oid, oid, integer, text, text, text), pgtrickle._written(oid, oid),
    pgtrickle._texts_with(bigint[], jsonb, text, text), pgtrickle._of_class(jsonb, regclass), pgtrickle._follow_names(jsonb), pgtrickle._follow_own_columns(oid[]),
    pgtrickle._successor(text, text), pgtrickle._follow_oid(oid, oid, text), pgtrickle._stop_capture(text) FROM PUBLIC;
