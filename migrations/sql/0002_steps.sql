-- The step of revision 0002: one source from names by OID to names by stable name, and back. Left out of the catalog when done.

CREATE OR REPLACE FUNCTION pgtrickle._columns_of(relid oid) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    -- The columns that a capture function writes and those that it hashes: if these are the same, so is the function.
    SELECT jsonb_build_object(
        'all', coalesce((SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                         WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '[]'),
        'key', coalesce((SELECT jsonb_agg(a.attname ORDER BY array_position(k.conkey, a.attnum)) FROM pg_constraint k
                         JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
                         WHERE k.conrelid = relid AND k.contype = 'p'), '[]'))::text
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._key_hash(relid oid, qualifier text, prefix text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- SQL for the hash of a row's key (without one: of all columns) as 0.2.0 has it, for example of NEW."id" (qualifier 'NEW.').
-- With a prefix the columns are a buffer's: 'new_' gives b."new_id".
DECLARE
    columns CONSTANT jsonb := pgtrickle._columns_of(relid)::jsonb;
    hashed CONSTANT jsonb := CASE WHEN columns -> 'key' = '[]' THEN columns -> 'all' ELSE columns -> 'key' END;
    list text;
BEGIN
    SELECT string_agg(format('%s%I::text', qualifier, (prefix || name)::name), ', ' ORDER BY place) INTO list
    FROM jsonb_array_elements_text(hashed) WITH ORDINALITY AS e(name, place);
    RETURN CASE jsonb_array_length(hashed)
        WHEN 0 THEN '0'
        WHEN 1 THEN format('pgtrickle.pg_trickle_hash(%s)', list)
        ELSE format('pgtrickle.pg_trickle_hash_multi(ARRAY[%s])', list) END;
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._row_source(relid oid, buffer name) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body of a row trigger's function that does what 0.2.0's does, for the source's columns as they are now.
DECLARE
    new_names text;
    old_names text;
    new_values text;
    old_values text;
BEGIN
    SELECT string_agg(format(', %I', ('new_' || name)::name), '' ORDER BY place),
           string_agg(format(', %I', ('old_' || name)::name), '' ORDER BY place),
           string_agg(format(', NEW.%I', name), '' ORDER BY place),
           string_agg(format(', OLD.%I', name), '' ORDER BY place)
    INTO new_names, old_names, new_values, old_values
    FROM jsonb_array_elements_text(pgtrickle._columns_of(relid)::jsonb -> 'all') WITH ORDINALITY AS e(name, place);
    RETURN format($body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action, pk_hash%2$s)
        VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'I', %6$s%4$s);
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action, pk_hash%2$s%3$s)
        VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'U', %6$s%4$s%5$s);
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action, pk_hash%3$s)
        VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'D', %7$s%5$s);
        RETURN OLD;
    END IF;
    RETURN NULL;
END;
$body$, buffer, coalesce(new_names, ''), coalesce(old_names, ''), coalesce(new_values, ''), coalesce(old_values, ''),
        pgtrickle._key_hash(relid, 'NEW.', ''), pgtrickle._key_hash(relid, 'OLD.', ''));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._truncate_source(buffer name) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT format($body$
BEGIN
    INSERT INTO pgtrickle_changes.%I (lsn, action) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'T');
    RETURN NULL;
END;
$body$, buffer)
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._set_body(function name, body text, secured boolean) RETURNS void
LANGUAGE plpgsql STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION pgtrickle_changes.%I() RETURNS trigger LANGUAGE plpgsql %s AS %L',
                   function, CASE WHEN secured THEN 'SET search_path = pg_catalog, pg_temp' ELSE '' END, body);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._todo_stable_up() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT s.relid FROM (SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking
                         UNION SELECT source_relid FROM pgtrickle.pgt_dependencies) s
    JOIN pg_class c ON c.oid = s.relid
    WHERE to_regclass('pgtrickle_changes.changes_' || s.relid) IS NOT NULL
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_stable_up(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    old_key CONSTANT text := relid::text;
    new_key CONSTANT text := pgtrickle.stable_name(relid);
BEGIN
    INSERT INTO pgtrickle.chain_notes (source_stable_name, kind, value, columns)
    SELECT new_key, CASE WHEN p.proname ~ 'truncate' THEN 'truncate_function' ELSE 'row_function' END, p.prosrc, pgtrickle._columns_of(relid)
    FROM pg_proc p
    WHERE p.proname = ANY (ARRAY['pg_trickle_cdc_fn_' || old_key, 'pg_trickle_cdc_truncate_fn_' || old_key]::name[])
      AND p.pronamespace = 'pgtrickle_changes'::regnamespace
    ON CONFLICT (source_stable_name, kind) DO UPDATE SET value = excluded.value, columns = excluded.columns;
    PERFORM pgtrickle._rename_capture(relid, old_key, new_key);
    IF to_regproc('pgtrickle_changes.pg_trickle_cdc_fn_' || new_key) IS NOT NULL THEN
        PERFORM pgtrickle._set_body('pg_trickle_cdc_fn_' || new_key, pgtrickle._row_source(relid, 'changes_' || new_key), true);
    END IF;
    IF to_regproc('pgtrickle_changes.pg_trickle_cdc_truncate_fn_' || new_key) IS NOT NULL THEN
        PERFORM pgtrickle._set_body('pg_trickle_cdc_truncate_fn_' || new_key, pgtrickle._truncate_source('changes_' || new_key), true);
    END IF;
    RETURN jsonb_build_object('from', 'changes_' || old_key, 'to', 'changes_' || new_key);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._todo_stable_down() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT k.source_relid FROM pgtrickle.pgt_change_tracking k JOIN pg_class c ON c.oid = k.source_relid
    WHERE to_regclass('pgtrickle_changes.changes_' || k.source_stable_name) IS NOT NULL
    UNION
    SELECT d.source_relid FROM pgtrickle.pgt_dependencies d JOIN pg_class c ON c.oid = d.source_relid
    WHERE to_regclass('pgtrickle_changes.changes_' || d.source_stable_name) IS NOT NULL
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_stable_down(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    old_key CONSTANT text := pgtrickle.stable_name(relid);
    new_key CONSTANT text := relid::text;
    columns_now CONSTANT text := pgtrickle._columns_of(relid);
    body text;
BEGIN
    PERFORM pgtrickle._rename_capture(relid, old_key, new_key);
    -- The function as it was before the upgrade, to the letter, unless the source has other columns now.
    IF to_regproc('pgtrickle_changes.pg_trickle_cdc_fn_' || new_key) IS NOT NULL THEN
        SELECT n.value INTO body FROM pgtrickle.chain_notes n
        WHERE n.source_stable_name = old_key AND n.kind = 'row_function' AND n.columns = columns_now;
        PERFORM pgtrickle._set_body('pg_trickle_cdc_fn_' || new_key, coalesce(body, pgtrickle._row_source(relid, 'changes_' || new_key)), false);
    END IF;
    IF to_regproc('pgtrickle_changes.pg_trickle_cdc_truncate_fn_' || new_key) IS NOT NULL THEN
        body := (SELECT n.value FROM pgtrickle.chain_notes n WHERE n.source_stable_name = old_key AND n.kind = 'truncate_function');
        PERFORM pgtrickle._set_body('pg_trickle_cdc_truncate_fn_' || new_key, coalesce(body, pgtrickle._truncate_source('changes_' || new_key)), false);
    END IF;
    RETURN jsonb_build_object('from', 'changes_' || old_key, 'to', 'changes_' || new_key, 'restored', body IS NOT NULL);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._note_seen() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Which captured rows below a frontier can be seen now, before the first source moves. A row that turns up there later belongs
-- to a transaction that was open all the while: the LSN frontier counts it as consumed, and no refresh can have seen it.
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT s AS relid, pgtrickle.stable_name(s) AS stable_name,
               (SELECT max((t.frontier -> 'sources' -> s::text ->> 'lsn')::pg_lsn) FROM pgtrickle.pgt_stream_tables t) AS frontier
        FROM pgtrickle._todo_stable_up() AS s
    LOOP
        EXECUTE format($query$
            INSERT INTO pgtrickle.chain_notes (source_stable_name, kind, value, columns)
            SELECT $1, 'seen', coalesce(range_agg(int8range(change_id, change_id, '[]')), '{}')::text, $2::text
            FROM pgtrickle_changes.%I WHERE lsn <= $2 HAVING $2 IS NOT NULL
            ON CONFLICT DO NOTHING$query$, 'changes_' || item.relid) USING item.stable_name, item.frontier;
    END LOOP;
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._columns_of(oid), pgtrickle._key_hash(oid, text, text), pgtrickle._row_source(oid, name),
    pgtrickle._truncate_source(name), pgtrickle._set_body(name, text, boolean),
    pgtrickle._todo_stable_up(), pgtrickle._do_stable_up(oid), pgtrickle._todo_stable_down(), pgtrickle._do_stable_down(oid),
    pgtrickle._note_seen() FROM PUBLIC;
