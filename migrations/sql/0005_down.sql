-- A live lease is a refresh at work: it must not lose the ground that it stands on.
DO $$
DECLARE
    holders text;
BEGIN
    SELECT string_agg(format('%I.%I by %s until %s', t.pgt_schema, t.pgt_name, l.holder, l.deadline), ', ') INTO holders
    FROM pgtrickle.st_locks l JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE l.deadline > clock_timestamp();
    IF holders IS NOT NULL THEN
        RAISE EXCEPTION 'a refresh is at work: %', holders
            USING HINT = 'wait until it ends, or until its lease runs out', ERRCODE = 'object_in_use';
    END IF;
END
$$;

DROP TABLE pgtrickle.st_locks;
