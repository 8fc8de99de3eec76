-- The step of revision 0006: one source from row triggers to statement triggers, and back.

CREATE OR REPLACE FUNCTION pgtrickle._todo_capture_up() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT k.source_relid FROM pgtrickle.pgt_change_tracking k JOIN pg_class c ON c.oid = k.source_relid
    WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = k.source_relid AND t.tgname = 'pg_trickle_cdc_' || k.source_stable_name)
       OR k.captured_columns IS NULL
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_capture_up(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    stable CONSTANT text := pgtrickle.stable_name(relid);
    source CONSTANT regclass := relid;
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pg_trickle_cdc_' || stable, source);
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pg_trickle_cdc_truncate_' || stable, source);
    EXECUTE format('DROP FUNCTION IF EXISTS pgtrickle_changes.%I()', 'pg_trickle_cdc_truncate_fn_' || stable);
    -- 0.2's refresh reads by it, and each captured row pays for it; nothing reads by it from here on.
    EXECUTE format('DROP INDEX IF EXISTS pgtrickle_changes.%I', 'idx_changes_' || stable || '_lsn_pk_cid');
    UPDATE pgtrickle.pgt_change_tracking k SET captured_columns = pgtrickle._buffered_columns(relid, stable) WHERE k.source_relid = relid;
    PERFORM pgtrickle.resync_capture(relid);
    RETURN jsonb_build_object('columns', jsonb_array_length(pgtrickle._source_columns(relid)));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._buffered_columns(relid oid, stable text) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- The source's columns that its buffer has: one that was added while nobody listened is missing, and is new to it.
    SELECT coalesce(jsonb_agg(c ORDER BY (c ->> 'attnum')::integer), '[]') FROM jsonb_array_elements(pgtrickle._source_columns(relid)) AS c
    WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('pgtrickle_changes.%I', 'changes_' || stable))
                  AND a.attname = ('new_' || (c ->> 'name'))::name AND NOT a.attisdropped)
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._todo_capture_down() RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT k.source_relid FROM pgtrickle.pgt_change_tracking k JOIN pg_class c ON c.oid = k.source_relid
    WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = k.source_relid AND t.tgname IN ('pg_trickle_cdc_ins_' || k.source_stable_name, 'pg_trickle_cdc_row_' || k.source_stable_name))
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._hash_keys(relid oid, stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    EXECUTE format('UPDATE pgtrickle_changes.%I AS b SET pk_hash = CASE b.action WHEN ''D'' THEN %s ELSE %s END
                    WHERE b.pk_hash IS NULL AND b.action <> ''T''',
                   'changes_' || stable, pgtrickle._key_hash(relid, 'b.', 'old_'), pgtrickle._key_hash(relid, 'b.', 'new_'));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._number_rows(stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Rows of a buffer that was made without numbers (0012) get them by their lsn. Done twice it goes on from the last one: who changes a row
-- again has waited for who changed it first, so whatever is seen has all before it numbered.
BEGIN
    EXECUTE format('UPDATE pgtrickle_changes.%1$I AS b SET change_id = s.number
                    FROM (SELECT r.ctid AS place, coalesce((SELECT max(change_id) FROM pgtrickle_changes.%1$I), 0)
                                 + row_number() OVER (ORDER BY r.lsn, r.ctid) AS number
                          FROM pgtrickle_changes.%1$I AS r WHERE r.change_id IS NULL) AS s
                    WHERE b.ctid = s.place', 'changes_' || stable);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._number_from_here(stable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Rows that come from here on are numbered by a sequence, as 0.2's are.
DECLARE
    buffer CONSTANT text := format('pgtrickle_changes.%I', 'changes_' || stable);
    sequence CONSTANT text := format('pgtrickle_changes.%I', 'changes_' || stable || '_change_id_seq');
BEGIN
    IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = buffer::regclass AND a.attname = 'change_id' AND a.atthasdef) THEN
        RETURN;
    END IF;
    PERFORM pgtrickle._number_rows(stable);
    -- A column's sequence has the owner of its table, whoever runs the chain.
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %1$s; ALTER SEQUENCE %1$s OWNER TO %3$I; ALTER SEQUENCE %1$s OWNED BY %2$s.change_id;
                    ALTER TABLE %2$s ALTER COLUMN change_id SET DEFAULT pg_catalog.nextval(%1$L), ALTER COLUMN change_id SET NOT NULL;
                    SELECT pg_catalog.setval(%1$L, greatest(1, max(change_id)), count(*) > 0) FROM %2$s', sequence, buffer,
                   (SELECT r.rolname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = buffer::regclass));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._before_capture_down(relid oid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- 0.2 wants a number and a key's hash with each captured row. All those that are there now, while writers write.
BEGIN
    PERFORM pgtrickle._number_rows(pgtrickle.stable_name(relid));
    PERFORM pgtrickle._hash_keys(relid, pgtrickle.stable_name(relid));
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._do_capture_down(relid oid) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    stable CONSTANT text := pgtrickle.stable_name(relid);
    source CONSTANT regclass := relid;
    buffer CONSTANT name := 'changes_' || stable;
    index CONSTANT name := 'idx_changes_' || stable || '_lsn_pk_cid';
BEGIN
    PERFORM pgtrickle._set_triggers(relid, stable, false);
    PERFORM pgtrickle._number_from_here(stable);
    PERFORM pgtrickle._hash_keys(relid, stable);
    PERFORM pgtrickle._set_body('pg_trickle_cdc_fn_' || stable, pgtrickle._row_source(relid, buffer), true);
    PERFORM pgtrickle._set_body('pg_trickle_cdc_truncate_fn_' || stable, pgtrickle._truncate_source(buffer), true);
    -- What CREATE FUNCTION gives by itself, as before.
    EXECUTE format('GRANT EXECUTE ON FUNCTION pgtrickle_changes.%I() TO PUBLIC', 'pg_trickle_cdc_fn_' || stable);
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION pgtrickle_changes.%I()',
                   'pg_trickle_cdc_' || stable, source, 'pg_trickle_cdc_fn_' || stable);
    EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle_changes.%I()',
                   'pg_trickle_cdc_truncate_' || stable, source, 'pg_trickle_cdc_truncate_fn_' || stable);
    IF to_regclass(format('pgtrickle_changes.%I', index)) IS NULL THEN
        EXECUTE format('CREATE INDEX %I ON pgtrickle_changes.%I (lsn, pk_hash, change_id) INCLUDE (action)', index, buffer);
    END IF;
    RETURN '{}';
END
$function$;

REVOKE ALL ON FUNCTION pgtrickle._todo_capture_up(), pgtrickle._do_capture_up(oid), pgtrickle._buffered_columns(oid, text),
    pgtrickle._todo_capture_down(), pgtrickle._number_rows(text), pgtrickle._number_from_here(text), pgtrickle._hash_keys(oid, text), pgtrickle._before_capture_down(oid), pgtrickle._do_capture_down(oid) FROM PUBLIC;
