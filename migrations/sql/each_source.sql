-- One short transaction a source: the loop behind revisions 0002, 0004 and 0006, both ways. Removed again when a revision ends.
--
-- pgtrickle._todo_<step>() lists the sources (OIDs) that are not there yet, so a killed run goes on where it stopped.
-- pgtrickle._before_<step>(oid), if there is one, does what needs no lock.
-- pgtrickle._do_<step>(oid) moves one, under the locks that _lock_source has taken, and answers what it did.
-- Nobody is made to wait for longer than the lock timeout: where a transaction has been open on a source for longer than
-- patience, the loop does not even queue, does the other sources meanwhile, and says for whom it waits.

CREATE OR REPLACE FUNCTION pgtrickle._buffer_of(relid oid) RETURNS oid
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The change buffer of a source, whichever name it has: by OID before revision 0002's step, by stable name after it.
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT b.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_class b
        WHERE c.oid = relid AND b.relkind = 'r' AND b.relnamespace = to_regnamespace('pgtrickle_changes')
          AND b.relname IN ('changes_' || c.oid, 'changes_' || pgtrickle.stable_hash(n.nspname || '.' || c.relname))
        ORDER BY b.relname = 'changes_' || c.oid
        LIMIT 1);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._holder_of(relations oid[], older_than interval) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- Whose transaction has held a lock on one of these relations for longer than that; NULL if nobody's.
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT CASE WHEN l.pid IS NULL
                    THEN format('prepared transaction %s', coalesce((
                        SELECT x.gid FROM pg_prepared_xacts x JOIN pg_locks o ON o.locktype = 'transactionid' AND o.transactionid = x.transaction
                        WHERE o.pid IS NULL AND o.virtualtransaction = l.virtualtransaction), '?'))
                    ELSE format('pid %s, role %s, application %s, for %s s', l.pid, coalesce(a.usename, '?'),
                                coalesce(nullif(a.application_name, ''), '?'),
                                round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1)) END
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY (relations)
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND (l.pid IS NULL OR a.xact_start < clock_timestamp() - older_than)
        ORDER BY a.xact_start NULLS FIRST
        LIMIT 1);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._lock_tree(relid oid) RETURNS oid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- What a step locks: the source, its partitions, its buffer; parents first, then by OID, as LOCK TABLE does.
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT array_agg(t.oid ORDER BY t.rank, t.oid) FROM (
            SELECT relid AS oid, 0 AS rank FROM pg_class c WHERE c.oid = relid
            UNION SELECT p.relid, p.level FROM pg_partition_tree(relid) p WHERE p.level > 0
            UNION SELECT pgtrickle._buffer_of(relid), 1000 WHERE pgtrickle._buffer_of(relid) IS NOT NULL) t);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle._lock_source(relid oid, timeout_ms integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Locks all of it within one budget: lock_timeout counts each lock by itself, and a writer that waits behind the first one
-- would wait for the sum. Only the loop calls it.
DECLARE
    started CONSTANT timestamptz := clock_timestamp();
    relation oid;
    left_ms integer;
BEGIN
    FOREACH relation IN ARRAY pgtrickle._lock_tree(relid) LOOP
        left_ms := greatest(1, timeout_ms - (extract(epoch FROM clock_timestamp() - started) * 1000)::integer);
        PERFORM set_config('lock_timeout', left_ms || 'ms', true);
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', relation::regclass);
    END LOOP;
    -- What a step does beyond these locks (catalog rows) has the same patience.
    PERFORM set_config('lock_timeout', timeout_ms || 'ms', true);
END
$function$;

CREATE OR REPLACE PROCEDURE pgtrickle._each_source(step text)
LANGUAGE plpgsql
AS $procedure$
-- No SET clause: a procedure that has one may not commit. It sets the session's search_path first instead.
DECLARE
    timeout_ms CONSTANT integer := coalesce(nullif(current_setting('pgtrickle.chain_lock_timeout_ms', true), '')::integer, 50);
    deadline_s CONSTANT double precision := coalesce(nullif(current_setting('pgtrickle.chain_deadline_s', true), '')::double precision, 600);
    -- Twenty lock timeouts: whoever has been in a transaction for that long will not leave within one more.
    patience CONSTANT interval := make_interval(secs => timeout_ms * 20 / 1000.0);
    started CONSTANT timestamptz := clock_timestamp();
    pending oid[];
    next_try timestamptz[];
    attempts integer[];
    later oid[];
    later_try timestamptz[];
    later_attempts integer[];
    source text;
    holder text;
    moved boolean;
    detail jsonb;
    begun timestamptz;
    slot integer;
    count integer := 0;
BEGIN
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', false);
    EXECUTE format('SELECT array_agg(t.relid ORDER BY t.relid) FROM pgtrickle.%I() AS t(relid)', '_todo_' || step) INTO pending;
    pending := coalesce(pending, '{}');
    next_try := array_fill(started, ARRAY[cardinality(pending)]);
    attempts := array_fill(0, ARRAY[cardinality(pending)]);
    COMMIT;
    WHILE cardinality(pending) > 0 LOOP
        later := '{}'; later_try := '{}'; later_attempts := '{}';
        FOR slot IN 1 .. cardinality(pending) LOOP
            begun := clock_timestamp();
            IF next_try[slot] > begun THEN
                later := later || pending[slot]; later_try := later_try || next_try[slot]; later_attempts := later_attempts || attempts[slot];
                CONTINUE;
            END IF;
            SELECT format('%I.%I', n.nspname, c.relname) INTO source
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pending[slot];
            moved := false;
            holder := pgtrickle._holder_of(pgtrickle._lock_tree(pending[slot]), patience);
            IF holder IS NULL THEN
                -- Work that needs no lock comes first, in a transaction of its own.
                IF to_regproc('pgtrickle._before_' || step) IS NOT NULL THEN
                    EXECUTE format('SELECT pgtrickle.%I($1)', '_before_' || step) USING pending[slot];
                    COMMIT;
                END IF;
                -- A superuser's deadlock_timeout below the lock timeout makes autovacuum step aside at once.
                IF current_setting('is_superuser') = 'on' THEN
                    PERFORM set_config('deadlock_timeout', greatest(1, timeout_ms / 2) || 'ms', true);
                END IF;
                BEGIN
                    begun := clock_timestamp();
                    PERFORM pgtrickle._lock_source(pending[slot], timeout_ms);
                    EXECUTE format('SELECT pgtrickle.%I($1)', '_do_' || step) INTO detail USING pending[slot];
                    moved := true;
                EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                    holder := coalesce(pgtrickle._holder_of(pgtrickle._lock_tree(pending[slot]), '0'), 'others');
                END;
            END IF;
            COMMIT;
            IF moved THEN
                RAISE NOTICE USING MESSAGE = 'pgtrickle chain: source moved', DETAIL = jsonb_build_object(
                    'step', step, 'source', source, 'attempts', attempts[slot] + 1,
                    'elapsed_ms', round(extract(epoch FROM clock_timestamp() - begun) * 1000, 3)) || coalesce(detail, '{}');
                -- Every other session now forgets what it cached of this source, and one with thousands of plans takes longer for that
                -- than the step took: without a pause it falls behind, and pays in one statement (docs/findings.md).
                count := count + 1;
                IF count % 5 = 0 THEN
                    PERFORM pg_sleep(0.003);
                END IF;
            ELSE
                RAISE NOTICE USING MESSAGE = 'pgtrickle chain: waiting', DETAIL = jsonb_build_object(
                    'step', step, 'source', source, 'attempts', attempts[slot] + 1, 'holder', holder,
                    'elapsed_ms', round(extract(epoch FROM clock_timestamp() - begun) * 1000, 3));
                IF clock_timestamp() > started + make_interval(secs => deadline_s) THEN
                    RAISE EXCEPTION 'could not lock % within % s: held by %', source, deadline_s, holder
                        USING ERRCODE = 'lock_not_available',
                              HINT = 'end that transaction and run the same command again: it goes on where it stopped';
                END IF;
                later := later || pending[slot];
                attempts[slot] := attempts[slot] + 1;
                later_attempts := later_attempts || attempts[slot];
                -- 100 ms, 200 ms, ... up to 2 s, with some chance in it so that two patterns do not march in step.
                later_try := later_try || clock_timestamp() + make_interval(
                    secs => least(2.0, 0.1 * power(2, least(attempts[slot], 6) - 1)) * (0.75 + random() / 2));
            END IF;
        END LOOP;
        pending := later; next_try := later_try; attempts := later_attempts;
        IF cardinality(pending) > 0 THEN
            PERFORM pg_sleep_until((SELECT min(t) FROM unnest(next_try) AS t));
        END IF;
    END LOOP;
END
$procedure$;

REVOKE ALL ON PROCEDURE pgtrickle._each_source(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgtrickle._buffer_of(oid), pgtrickle._holder_of(oid[], interval), pgtrickle._lock_tree(oid), pgtrickle._lock_source(oid, integer) FROM PUBLIC;
