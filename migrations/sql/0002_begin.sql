-- Before the first source moves: refuse what stands in the way, fill the new columns, note what can be seen.

DO $$
DECLARE
    found text;
BEGIN
    SELECT string_agg(format('%s: %s (%s)', f.code, f.message, f.hint), E'\n') INTO found FROM pgtrickle._findings() f;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'stable names cannot be given, and nothing was changed' USING DETAIL = found, ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'mend what is listed, then run the same command again';
    END IF;
END
$$;

UPDATE pgtrickle.pgt_dependencies d SET source_stable_name = pgtrickle.stable_hash(n.nspname || '.' || c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = d.source_relid AND d.source_stable_name IS NULL;
UPDATE pgtrickle.pgt_change_tracking k SET source_stable_name = pgtrickle.stable_hash(n.nspname || '.' || c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = k.source_relid AND k.source_stable_name IS NULL;
SELECT pgtrickle._note_seen();
