-- The step of revision 0004: a buffer's transaction column, and back to a frontier that is an LSN alone.

CREATE OR REPLACE FUNCTION pgtrickle._has_xid(buffer oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = buffer AND a.attname = 'xid' AND NOT a.attisdropped)
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._todo_xid_up() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT s.relid FROM (SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking
                         UNION SELECT source_relid FROM pgtrickle.pgt_dependencies) s
    WHERE pgtrickle._buffer_of(s.relid) IS NOT NULL AND NOT pgtrickle._has_xid(pgtrickle._buffer_of(s.relid))
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._todo_xid_down() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT s.relid FROM (SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking
                         UNION SELECT source_relid FROM pgtrickle.pgt_dependencies) s
    WHERE pgtrickle._has_xid(pgtrickle._buffer_of(s.relid))
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_xid_up(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    buffer CONSTANT oid := pgtrickle._buffer_of(relid);
    stable CONSTANT text := pgtrickle.stable_name(relid);
    seen CONSTANT text := (SELECT n.value FROM pgtrickle.chain_notes n WHERE n.source_stable_name = stable AND n.kind = 'seen');
    -- The frontier when that was noted, and now: they differ where somebody has refreshed between 0002 and here.
    noted CONSTANT pg_lsn := (SELECT n.columns::pg_lsn FROM pgtrickle.chain_notes n WHERE n.source_stable_name = stable AND n.kind = 'seen');
    frontier CONSTANT pg_lsn := (SELECT max((t.frontier -> 'sources' -> stable ->> 'lsn')::pg_lsn) FROM pgtrickle.pgt_stream_tables t);
    saved bigint := 0;
    doubtful boolean;
    rebuilt text[] := '{}';
BEGIN
    -- First without a default, then the default: rows of before stay NULL, and the table is not rewritten.
    EXECUTE format('ALTER TABLE %s ADD COLUMN xid xid8, ALTER COLUMN xid SET DEFAULT pg_catalog.pg_current_xact_id()', buffer::regclass);
    -- Under this lock every captured row is decided. One below the frontier that nobody could see when the upgrade began belongs
    -- to a transaction that was open across the cut: with a transaction id it is pending again.
    IF seen IS NOT NULL AND frontier = noted THEN
        EXECUTE format('UPDATE %s SET xid = pg_catalog.pg_current_xact_id() WHERE lsn <= $1 AND NOT $2 @> change_id', buffer::regclass)
            USING frontier, seen::int8multirange;
        GET DIAGNOSTICS saved = ROW_COUNT;
    ELSIF seen IS NOT NULL AND frontier IS NOT NULL THEN
        -- A full refresh would have taken such a row, one by frontier not: only a rebuild is right in both cases.
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE lsn <= $1 AND NOT $2 @> change_id)', buffer::regclass)
            INTO doubtful USING noted, seen::int8multirange;
        IF doubtful THEN
            WITH marked AS (UPDATE pgtrickle.pgt_stream_tables t SET needs_reinit = true WHERE t.frontier -> 'sources' ? stable
                            RETURNING format('%I.%I', t.pgt_schema, t.pgt_name) AS name)
            SELECT coalesce(array_agg(m.name), '{}') INTO rebuilt FROM marked m;
        END IF;
    END IF;
    DELETE FROM pgtrickle.chain_notes n WHERE n.source_stable_name = stable AND n.kind = 'seen';
    RETURN jsonb_build_object('rows_saved_from_the_cut', saved, 'needs_reinit', to_jsonb(rebuilt));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_xid_down(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Pending rows stay pending. Where no LSN parts them from the consumed ones, the stream table has to be rebuilt, and says so.
#variable_conflict use_variable
DECLARE
    buffer CONSTANT regclass := pgtrickle._buffer_of(relid);
    stable CONSTANT text := pgtrickle.stable_name(relid);
    item record;
    old_lsn pg_lsn;
    lowest_pending pg_lsn;
    highest_consumed pg_lsn;
    unclear boolean;
    new_lsn pg_lsn;
    rebuilt text[] := '{}';
BEGIN
    FOR item IN
        SELECT t.pgt_id, t.pgt_schema, t.pgt_name, t.frontier FROM pgtrickle.pgt_stream_tables t
        WHERE t.frontier -> 'sources' ? stable
    LOOP
        old_lsn := coalesce((item.frontier -> 'sources' -> stable ->> 'lsn')::pg_lsn, '0/0');
        -- The rule of pgtrickle.is_pending, written out: one scan, and writers wait for it.
        EXECUTE format('SELECT min(lsn) FILTER (WHERE pending), max(lsn) FILTER (WHERE NOT pending),
                               coalesce(bool_or((lsn > $2) <> pending), false)
                        FROM (SELECT b.lsn, CASE WHEN $1 IS NULL THEN b.xid IS NOT NULL OR b.lsn > $2
                                                 ELSE b.xid IS NOT NULL AND b.xid >= $1 END AS pending FROM %s b) t', buffer)
            INTO lowest_pending, highest_consumed, unclear
            USING (item.frontier -> 'sources' -> stable -> 'horizons' ->> '0')::xid8, old_lsn;
        new_lsn := old_lsn;
        IF unclear THEN
            IF lowest_pending IS NULL THEN
                new_lsn := greatest(old_lsn, highest_consumed);
            ELSIF highest_consumed IS NULL THEN
                new_lsn := lowest_pending - 1::numeric;
            ELSIF highest_consumed < lowest_pending THEN
                new_lsn := highest_consumed;
            ELSE
                rebuilt := rebuilt || format('%I.%I', item.pgt_schema, item.pgt_name);
                UPDATE pgtrickle.pgt_stream_tables t SET needs_reinit = true WHERE t.pgt_id = item.pgt_id;
            END IF;
        END IF;
        UPDATE pgtrickle.pgt_stream_tables t
        SET frontier = jsonb_set(t.frontier, ARRAY['sources', stable],
                                 (t.frontier -> 'sources' -> stable) - 'horizons' || jsonb_build_object('lsn', new_lsn::text))
        WHERE t.pgt_id = item.pgt_id AND (unclear OR t.frontier -> 'sources' -> stable ? 'horizons');
    END LOOP;
    EXECUTE format('ALTER TABLE %s DROP COLUMN xid', buffer);
    RETURN jsonb_build_object('needs_reinit', to_jsonb(rebuilt));
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._has_xid(oid), pgtrickle._todo_xid_up(), pgtrickle._todo_xid_down(), pgtrickle._do_xid_up(oid),
    pgtrickle._do_xid_down(oid) FROM PUBLIC;
