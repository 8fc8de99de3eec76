-- Leases at work (D8). The clock is the server's, in every line.

-- A process id comes again, after a failover even at once: with the moment its session began it names one session for ever.
ALTER TABLE pgtrickle.st_locks ADD COLUMN backend_start timestamptz;
COMMENT ON COLUMN pgtrickle.st_locks.backend_start IS 'When the session that took the lease began; NULL: not known.';

CREATE FUNCTION pgtrickle.lock_timeout() RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- After how long a lease that nobody renews is anybody's (plan P6.2: ten minutes).
DECLARE
    given CONSTANT text := nullif(btrim(current_setting('pgtrickle.lock_timeout', true)), '');
    span interval;
BEGIN
    BEGIN
        span := coalesce(given, '10min')::interval;
    EXCEPTION WHEN data_exception THEN
        span := NULL;
    END;
    IF span IS NULL OR span < interval '1s' OR span > interval '1 day' THEN
        RAISE EXCEPTION 'pgtrickle.lock_timeout is %, and has to be from one second to one day', quote_literal(given)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('ALTER DATABASE %I SET pgtrickle.lock_timeout = ''10min''', current_database());
    END IF;
    RETURN span;
END
$function$;

CREATE FUNCTION pgtrickle._leases_without(lease_of bigint) RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
SELECT regexp_replace(coalesce(nullif(current_setting('pgtrickle.lease', true), ''), ','), ',' || lease_of || ':[0-9]+,', ',');
$function$;

CREATE FUNCTION pgtrickle.acquire_lease(lease_of bigint, lease_holder text, lease_span interval DEFAULT NULL)
RETURNS TABLE (token bigint, taken_at timestamptz, span_s double precision, held_by text, held_pid integer, held_until timestamptz,
               taken_from text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Call it in a transaction of its own: who comes next has to see the row, not to wait for it. With a lease: a token; with none: who has it.
DECLARE
    span CONSTANT interval := coalesce(lease_span, pgtrickle.lock_timeout());
    stale record;
BEGIN
    -- A crash that loses this row loses its session, too. And nobody waits here for a dropped table's transaction to end.
    PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '5s', true);
    -- Past its deadline, or its session is gone. A commit that is checking its lease right now holds the row: it counts as live.
    DELETE FROM pgtrickle.st_locks l USING (
        SELECT s.ctid AS place, EXISTS (SELECT FROM pg_stat_get_activity(s.locked_by) a WHERE a.backend_start = s.backend_start) AS lives
        FROM pgtrickle.st_locks s
        WHERE s.pgt_id = lease_of
          AND (s.deadline <= clock_timestamp()
               OR NOT EXISTS (SELECT FROM pg_stat_get_activity(s.locked_by) a
                              WHERE coalesce(a.backend_start = s.backend_start, true)))
        FOR UPDATE SKIP LOCKED) old
    WHERE l.ctid = old.place AND l.pgt_id = lease_of
    RETURNING l.holder, l.locked_by, old.lives INTO stale;
    IF stale.lives AND stale.locked_by <> pg_backend_pid() THEN
        -- It cannot commit any more; without its row locks the next refresh can begin. Who may not end it waits for them.
        BEGIN
            PERFORM pg_terminate_backend(stale.locked_by);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END IF;
    INSERT INTO pgtrickle.st_locks AS l (pgt_id, locked_by, holder, deadline, backend_start)
    SELECT lease_of, pg_backend_pid(), lease_holder, clock_timestamp() + span,
           (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a)
    ON CONFLICT (pgt_id) DO NOTHING
    RETURNING l.fencing_token, l.locked_at, l.holder, l.locked_by, l.deadline INTO token, taken_at, held_by, held_pid, held_until;
    IF token IS NULL THEN
        SELECT l.holder, l.locked_by, l.deadline INTO held_by, held_pid, held_until FROM pgtrickle.st_locks l WHERE l.pgt_id = lease_of;
    ELSE
        taken_from := stale.holder;
        -- All that this session has, as ',number:token,number:token,'.
        PERFORM set_config('pgtrickle.lease', pgtrickle._leases_without(lease_of) || lease_of || ':' || token || ',', false);
    END IF;
    span_s := extract(epoch FROM span);
    RETURN NEXT;
END
$function$;
COMMENT ON FUNCTION pgtrickle.acquire_lease(bigint, text, interval) IS 'Take the right to refresh a stream table, or say who has it.';

CREATE FUNCTION pgtrickle.renew_lease(lease_of bigint, lease_token bigint, lease_span interval) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET synchronous_commit = off
BEGIN ATOMIC
    -- No column of a key: a commit that checks its lease (FOR KEY SHARE) is neither in the way nor disturbed.
    WITH renewed AS (
        UPDATE pgtrickle.st_locks l SET deadline = clock_timestamp() + lease_span
        WHERE l.pgt_id = lease_of AND l.fencing_token = lease_token RETURNING 1)
    SELECT EXISTS (SELECT FROM renewed);
END;

CREATE FUNCTION pgtrickle.release_lease(lease_of bigint, lease_token bigint) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM set_config('pgtrickle.lease', CASE other WHEN ',' THEN '' ELSE other END, false),
            set_config('synchronous_commit', 'off', true)
    FROM pgtrickle._leases_without(lease_of) AS other;
    DELETE FROM pgtrickle.st_locks l WHERE l.pgt_id = lease_of AND l.fencing_token = lease_token;
    RETURN FOUND;
END
$function$;

CREATE FUNCTION pgtrickle._check_lease() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Inside the COMMIT of whoever works under a lease, before anything is prepared on a worker. The row lock makes who would take the lease
-- over pass it by until this commit is done; who took it before deleted the row, which this finds gone (or, reading an old snapshot,
-- cannot lock: 40001). So there is no moment in which both are right.
DECLARE
    token CONSTANT bigint := substring(current_setting('pgtrickle.lease', true) FROM ',' || OLD.pgt_id || ':([0-9]+),')::bigint;
BEGIN
    IF token IS NOT NULL THEN
        PERFORM FROM pgtrickle.st_locks l WHERE l.pgt_id = OLD.pgt_id AND l.fencing_token = token FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the lease on %.% was lost: it ran out, and somebody else took it or may', quote_ident(OLD.pgt_schema),
                quote_ident(OLD.pgt_name)
                USING ERRCODE = 'PTL01', HINT = 'nothing was changed; refresh it again';
        END IF;
    END IF;
    RETURN OLD;
END
$function$;
CREATE CONSTRAINT TRIGGER _pgt_lease_at_commit AFTER UPDATE ON pgtrickle.pgt_stream_tables
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgtrickle._check_lease();
-- The row's lease goes with it: so it is checked and locked before.
CREATE TRIGGER _pgt_lease_of_dropped BEFORE DELETE ON pgtrickle.pgt_stream_tables
    FOR EACH ROW EXECUTE FUNCTION pgtrickle._check_lease();

CREATE FUNCTION pgtrickle.signal_dag_rebuild() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Plan P6.3. Never called in a user's own transaction: one that has notified cannot be prepared.
SELECT pg_notify('pg_trickle_dag_rebuild', '');
$function$;

REVOKE ALL ON FUNCTION pgtrickle.acquire_lease(bigint, text, interval), pgtrickle.renew_lease(bigint, bigint, interval),
    pgtrickle.release_lease(bigint, bigint), pgtrickle._leases_without(bigint), pgtrickle._check_lease(), pgtrickle.signal_dag_rebuild(), pgtrickle.lock_timeout() FROM PUBLIC;
