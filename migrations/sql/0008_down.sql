-- A live lease is a refresh at work: it must not lose the functions that it ends with.
DO $$
DECLARE
    holders text;
BEGIN
    SELECT string_agg(format('%I.%I by %s until %s', t.pgt_schema, t.pgt_name, l.holder, l.deadline), ', ') INTO holders
    FROM pgtrickle.st_locks l JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE l.deadline > clock_timestamp();
    IF holders IS NOT NULL THEN
        RAISE EXCEPTION 'a refresh is at work: %', holders
            USING HINT = 'stop the scheduler and wait until the refresh ends, or until its lease runs out', ERRCODE = 'object_in_use';
    END IF;
END
$$;

DROP TRIGGER _pgt_lease_of_dropped ON pgtrickle.pgt_stream_tables;
DROP TRIGGER _pgt_lease_at_commit ON pgtrickle.pgt_stream_tables;
DROP FUNCTION pgtrickle.signal_dag_rebuild();
DROP FUNCTION pgtrickle._check_lease();
DROP FUNCTION pgtrickle.release_lease(bigint, bigint);
DROP FUNCTION pgtrickle.renew_lease(bigint, bigint, interval);
DROP FUNCTION pgtrickle.acquire_lease(bigint, text, interval);
DROP FUNCTION pgtrickle._leases_without(bigint);
DROP FUNCTION pgtrickle.lock_timeout();
ALTER TABLE pgtrickle.st_locks DROP COLUMN backend_start;
