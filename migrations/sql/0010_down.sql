-- What the nodes noted goes, and what the coordinator knows of it.
DROP TABLE pgtrickle.st_history;
DROP FUNCTION pgtrickle._forget_marks();
DROP FUNCTION pgtrickle.confirm_refresh(text, text);
DROP FUNCTION pgtrickle.note_refresh(text, text, text, integer, pg_lsn, boolean, boolean);
DROP FUNCTION pgtrickle._marks_here();
DROP TABLE pgtrickle.refresh_marks;
DROP FUNCTION pgtrickle.adopt_database();
DROP FUNCTION pgtrickle._note_database();
DROP FUNCTION pgtrickle._is_own_database();
DROP TABLE pgtrickle.database_identity;

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
