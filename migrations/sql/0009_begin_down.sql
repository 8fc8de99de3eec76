-- What waits for its capture to be made anew, the functions below cannot wait for.
DO $$
DECLARE
    names text;
BEGIN
    SELECT string_agg(k.source_relid::regclass::text, ', ') INTO names FROM pgtrickle.pgt_change_tracking k
    WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = k.source_relid) AND NOT pgtrickle._is_of_its_kind(k.source_relid);
    IF names IS NOT NULL THEN
        RAISE EXCEPTION 'the capture of % does not fit it, since it was altered', names
            USING HINT = 'run: harness st repair', ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;
