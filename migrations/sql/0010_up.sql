-- Whether the history that a stream table stopped in is still the history (D5). Two questions: is this the database that the catalog was
-- written in, or a dump of it that was restored elsewhere; and does a worker know of the refreshes that the catalog knows of.

CREATE TABLE pgtrickle.database_identity (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    written_by bigint NOT NULL,
    system_identifier bigint NOT NULL,
    database oid NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgtrickle.database_identity IS 'The database that this catalog was written in. Another one has other OIDs and other transaction numbers.';
COMMENT ON COLUMN pgtrickle.database_identity.written_by IS
    'The xmin of this row. A copy of the files has both; whoever restores a dump writes the row by another transaction.';
REVOKE ALL ON TABLE pgtrickle.database_identity FROM PUBLIC;

CREATE FUNCTION pgtrickle._is_own_database() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
SELECT EXISTS (SELECT FROM pgtrickle.database_identity i WHERE i.xmin::text::bigint = i.written_by);
$function$;

CREATE FUNCTION pgtrickle._note_database() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
DELETE FROM pgtrickle.database_identity;
INSERT INTO pgtrickle.database_identity (written_by, system_identifier, database)
SELECT 0, s.system_identifier, d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();
-- The same transaction, or the same savepoint in it.
UPDATE pgtrickle.database_identity i SET written_by = i.xmin::text::bigint;
$function$;
SELECT pgtrickle._note_database();

CREATE FUNCTION pgtrickle.adopt_database() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
-- Where the catalog came from another database: OIDs are found again by name, what was captured there goes, every stream table is marked.
-- Answers why; NULL where nothing is to be done. Anybody may call it: it does what the next refresh needs, once.
#variable_conflict use_column
DECLARE
    here record;
    there record;
    item record;
    reason text;
BEGIN
    IF pgtrickle._is_own_database() THEN
        RETURN NULL;
    END IF;
    LOCK TABLE pgtrickle.database_identity IN SHARE ROW EXCLUSIVE MODE;
    IF pgtrickle._is_own_database() THEN
        RETURN NULL;  -- somebody else was quicker
    END IF;
    SELECT i.* INTO there FROM pgtrickle.database_identity i;
    PERFORM pgtrickle._note_database();
    SELECT i.* INTO here FROM pgtrickle.database_identity i;
    IF NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables) THEN
        RETURN NULL;
    END IF;
    reason := format('the coordinator''s database %s is not the one that it was refreshed in: that was database %s of server %s, this is database %s of'
                     ' server %s, and the catalog came into it as a dump', quote_ident(current_database()), coalesce(there.database::text, 'unknown'),
                     coalesce(there.system_identifier::text, 'unknown'), here.database, here.system_identifier);
    DELETE FROM pgtrickle.st_locks;
    -- Out of each other's way first: a number that is gone may be another table's here.
    UPDATE pgtrickle.pgt_stream_tables t SET pgt_relid = a.away
    FROM (SELECT s.pgt_id, (4294000000 + row_number() OVER (ORDER BY s.pgt_id))::oid AS away FROM pgtrickle.pgt_stream_tables s) a
    WHERE a.pgt_id = t.pgt_id;
    UPDATE pgtrickle.pgt_dependencies d SET source_relid = a.away
    FROM (SELECT s.pgt_id, s.source_relid, (4294000000 + dense_rank() OVER (ORDER BY s.source_relid))::oid AS away FROM pgtrickle.pgt_dependencies s) a
    WHERE a.pgt_id = d.pgt_id AND a.source_relid = d.source_relid;
    UPDATE pgtrickle.pgt_change_tracking k SET source_relid = a.away
    FROM (SELECT s.source_relid, (4294000000 + row_number() OVER (ORDER BY s.source_relid))::oid AS away FROM pgtrickle.pgt_change_tracking s) a
    WHERE a.source_relid = k.source_relid;
    FOR item IN SELECT c.oid, pgtrickle.stable_name(c.oid) AS stable FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)' LOOP
        UPDATE pgtrickle.pgt_dependencies d SET source_relid = item.oid WHERE d.source_stable_name = item.stable;
        UPDATE pgtrickle.pgt_change_tracking k SET source_relid = item.oid WHERE k.source_stable_name = item.stable;
    END LOOP;
    -- Rows that were captured there have that server's transaction numbers. All that they tell is in the tables, and every reader begins anew.
    FOR item IN SELECT b.buffer FROM pgtrickle.pgt_change_tracking k,
                       to_regclass(format('pgtrickle_changes.%I', 'changes_' || k.source_stable_name)) AS b(buffer) WHERE b.buffer IS NOT NULL LOOP
        EXECUTE format('DELETE FROM %s', item.buffer);
    END LOOP;
    UPDATE pgtrickle.pgt_stream_tables t SET pgt_relid = c.oid, st_placement = pgtrickle.placement_of(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = t.pgt_schema AND c.relname = t.pgt_name;
    PERFORM pgtrickle._note_references(t.pgt_id) FROM pgtrickle.pgt_stream_tables t;
    UPDATE pgtrickle.pgt_stream_tables t SET frontier = NULL;
    DELETE FROM pgtrickle.st_history;
    PERFORM pgtrickle._mark(ARRAY(SELECT t.pgt_id FROM pgtrickle.pgt_stream_tables t), reason);
    RETURN reason;
END
$function$;
COMMENT ON FUNCTION pgtrickle.adopt_database() IS 'Make a catalog that came from another database this one''s; NULL: it is.';

-- What the coordinator knows of the workers' history; in the transaction of each refresh, beside the frontier.
CREATE TABLE pgtrickle.st_history (
    pgt_id bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables (pgt_id) ON UPDATE CASCADE ON DELETE CASCADE,
    history text NOT NULL,
    refresh text NOT NULL,
    nodes jsonb NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE pgtrickle.st_history IS 'Of stream tables that read or write on workers: the last refresh, and which server each worker was then.';
COMMENT ON COLUMN pgtrickle.st_history.history IS 'Under which name the workers note it (refresh_marks).';
REVOKE ALL ON TABLE pgtrickle.st_history FROM PUBLIC;

-- One row a stream table that reads or writes on workers; on each worker it is that worker's own, though the table is a reference table, so that
-- every node has it: what matters is whether it comes and goes with the node's other rows.
CREATE TABLE pgtrickle.refresh_marks (
    history text PRIMARY KEY,
    done text,
    begun text,
    started_at timestamptz,
    coordinator_timeline integer,
    coordinator_lsn pg_lsn,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE pgtrickle.refresh_marks IS 'On each worker: the last refreshes that it was asked about. Rows differ from node to node.';
COMMENT ON COLUMN pgtrickle.refresh_marks.done IS 'The last refresh that is known to have been committed.';
COMMENT ON COLUMN pgtrickle.refresh_marks.begun IS 'The last one that was begun.';
COMMENT ON COLUMN pgtrickle.refresh_marks.started_at IS 'When this node had been started then.';
REVOKE ALL ON TABLE pgtrickle.refresh_marks FROM PUBLIC;

CREATE FUNCTION pgtrickle._marks_here() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
-- This node's own rows: its replica, by the name of the shard.
BEGIN
    RETURN (SELECT format('pgtrickle.%I', 'refresh_marks_' || s.shardid) FROM pg_catalog.pg_dist_shard s
            WHERE s.logicalrelid = 'pgtrickle.refresh_marks'::regclass);
END
$function$;

CREATE FUNCTION pgtrickle.note_refresh(of_history text, had text, next text, timeline integer, lsn pg_lsn, is_kept_here boolean, is_forced boolean)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- On a worker. Is the refresh that the coordinator knows as the last one (had) the last one here, too? Then note the one that begins (next; NULL:
-- only look) and answer NULL; else answer what differs, and note nothing unless forced to. Its snapshot is older than what it notes: whoever
-- finds the note later finds all that the refresh read. docs/identity.md has the cases.
DECLARE
    place CONSTANT text := pgtrickle._marks_here();
    started CONSTANT timestamptz := pg_postmaster_start_time();
    mark record;
    wrong text;
BEGIN
    IF to_regclass(place) IS NULL THEN
        -- Citus brings reference tables to a node that was added with the first shard: until then there is nothing on it to be lost.
        RETURN CASE WHEN had IS NULL OR is_forced THEN 'no marks' ELSE 'it knows of no refresh' END;
    END IF;
    EXECUTE format('SELECT m.done, m.begun, m.started_at, m.coordinator_timeline, m.coordinator_lsn, m.noted_at FROM %s m WHERE m.history = $1', place)
    INTO mark USING of_history;
    IF had IS NOT NULL THEN
        wrong := CASE
            WHEN mark.begun IS NULL THEN 'it knows of no refresh'
            WHEN mark.begun = had AND (NOT is_kept_here OR mark.done = had OR mark.started_at = started) THEN NULL
            WHEN mark.begun = had THEN 'it was started again, and whether it kept the last refresh is not known'
            WHEN mark.done IS DISTINCT FROM had
                THEN format('the last refresh that it knows of is another one, of %s', to_char(mark.noted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
            WHEN mark.coordinator_timeline = timeline AND mark.coordinator_lsn <= lsn THEN NULL
            ELSE 'it knows of a refresh that began later than the last one that the coordinator knows of' END;
    END IF;
    IF next IS NOT NULL AND (wrong IS NULL OR is_forced) THEN
        PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '5s', true);
        EXECUTE format('INSERT INTO %s AS m (history, done, begun, started_at, coordinator_timeline, coordinator_lsn) VALUES ($1, $2, $3, $4, $5, $6)'
                       ' ON CONFLICT (history) DO UPDATE SET done = excluded.done, begun = excluded.begun, started_at = excluded.started_at,'
                       ' coordinator_timeline = excluded.coordinator_timeline, coordinator_lsn = excluded.coordinator_lsn,'
                       ' noted_at = clock_timestamp()', place)
        USING of_history, CASE WHEN wrong IS NULL THEN had END, next, started, timeline, lsn;
    END IF;
    RETURN wrong;
END
$function$;
COMMENT ON FUNCTION pgtrickle.note_refresh(text, text, text, integer, pg_lsn, boolean, boolean) IS
    'On a worker: is the last refresh that the coordinator knows of the last one here, too? Notes the next one.';

CREATE FUNCTION pgtrickle.confirm_refresh(of_history text, of_refresh text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- On a worker: the refresh that began was committed.
DECLARE
    place CONSTANT text := pgtrickle._marks_here();
BEGIN
    IF to_regclass(place) IS NOT NULL THEN
        EXECUTE format('UPDATE %s m SET done = m.begun WHERE m.history = $1 AND m.begun = $2', place) USING of_history, of_refresh;
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._forget_marks() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- On the coordinator, and through Citus on all nodes.
BEGIN
    DELETE FROM pgtrickle.refresh_marks m WHERE m.history = OLD.history;
    RETURN NULL;
END
$function$;
CREATE TRIGGER _pgt_forget_marks AFTER DELETE ON pgtrickle.st_history FOR EACH ROW EXECUTE FUNCTION pgtrickle._forget_marks();

REVOKE ALL ON FUNCTION pgtrickle._is_own_database(), pgtrickle._note_database(), pgtrickle._marks_here(), pgtrickle.note_refresh(text, text, text, integer, pg_lsn, boolean, boolean),
    pgtrickle.confirm_refresh(text, text), pgtrickle._forget_marks() FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle.share_with_workers() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Makes what capture and refreshes on a worker need known to every node of a Citus cluster, those added later included. Answers whether there
-- is a cluster. Runs on the coordinator; does no harm twice. A sequence reaches the workers with a table that depends on it (F2),
-- and a reference table is the cheapest one; functions and schemas of before Citus came are handed over one by one.
DECLARE
    item record;
    is_shared boolean;
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
    EXECUTE $query$SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = 'pgtrickle.refresh_marks'::regclass)$query$
    INTO is_shared;
    IF NOT is_shared THEN
        EXECUTE $query$SELECT pg_catalog.create_reference_table('pgtrickle.refresh_marks')$query$;
    END IF;
    FOR item IN EXECUTE $query$
        SELECT p.oid::regprocedure AS function FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'pgtrickle'::regnamespace AND p.proname IN ('_xxh64', 'pg_trickle_hash', 'pg_trickle_hash_multi', 'stable_hash', 'is_pending',
                                                                          '_marks_here', 'note_refresh', 'confirm_refresh')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_object o WHERE o.classid = 'pg_proc'::regclass AND o.objid = p.oid)$query$
    LOOP
        EXECUTE format('SELECT pg_catalog.create_distributed_function(%L::regprocedure)', item.function);
    END LOOP;
    RETURN true;
END
$function$;
SELECT pgtrickle.share_with_workers();
