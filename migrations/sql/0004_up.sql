-- The change sequence, and what a frontier means from here on (D5): the cut is by transaction; lsn and seq_id say where and when.

-- Cached, since no order is needed (F21, F34) and a cached value costs nothing; set here, since Citus refuses to alter it (F3).
CREATE SEQUENCE IF NOT EXISTS pgtrickle.change_seq CACHE 100;

CREATE OR REPLACE FUNCTION pgtrickle.is_pending(frontier_source jsonb, lsn pg_lsn, xid xid8, node integer DEFAULT 0) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- Is a captured row still to be applied? frontier_source is frontier -> 'sources' -> <stable name>: lsn as 0.2 has it, and
    -- "horizons", the oldest transaction that was running on each node (F20), once a refresh has stopped at one.
    -- A row without xid was captured before revision 0004, and all such rows are decided: 0.2's rule holds for them, until
    -- a refresh that stopped at a horizon has taken what they left.
    SELECT CASE WHEN frontier_source IS NULL OR jsonb_typeof(frontier_source) <> 'object' THEN true
                WHEN frontier_source -> 'horizons' ->> node::text IS NULL
                     THEN xid IS NOT NULL OR lsn IS NULL OR lsn > coalesce((frontier_source ->> 'lsn')::pg_lsn, '0/0')
                ELSE xid >= (frontier_source -> 'horizons' ->> node::text)::xid8 AND xid IS NOT NULL END
$function$;
REVOKE ALL ON FUNCTION pgtrickle.is_pending(jsonb, pg_lsn, xid8, integer) FROM PUBLIC;
REVOKE ALL ON SEQUENCE pgtrickle.change_seq FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle.share_with_workers() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Makes what capture on a worker needs known to every node of a Citus cluster, those added later included. Answers whether there
-- is a cluster. Runs on the coordinator; does no harm twice. A sequence reaches the workers with a table that depends on it (F2),
-- and a reference table is the cheapest one; functions and schemas of before Citus came are handed over one by one.
DECLARE
    item record;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
        RETURN false;
    END IF;
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    IF to_regclass('pgtrickle.change_seq_anchor') IS NULL THEN
        -- A key, since a reference table without one stops every logical move of a shard in the cluster, as a buffer would (F16).
        CREATE TABLE pgtrickle.change_seq_anchor (seq_id bigint PRIMARY KEY DEFAULT nextval('pgtrickle.change_seq'));
        COMMENT ON TABLE pgtrickle.change_seq_anchor IS 'Always empty. Citus takes a sequence to the workers with a table that depends on it.';
        REVOKE ALL ON TABLE pgtrickle.change_seq_anchor FROM PUBLIC;
        EXECUTE $query$SELECT pg_catalog.create_reference_table('pgtrickle.change_seq_anchor')$query$;
    END IF;
    FOR item IN EXECUTE $query$
        SELECT p.oid::regprocedure AS function FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'pgtrickle'::regnamespace AND p.proname IN ('_xxh64', 'pg_trickle_hash', 'pg_trickle_hash_multi', 'stable_hash', 'is_pending')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_object o WHERE o.classid = 'pg_proc'::regclass AND o.objid = p.oid)$query$
    LOOP
        EXECUTE format('SELECT pg_catalog.create_distributed_function(%L::regprocedure)', item.function);
    END LOOP;
    RETURN true;
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle.share_with_workers() FROM PUBLIC;
SELECT pgtrickle.share_with_workers();
