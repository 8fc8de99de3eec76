-- What each stream table's query names, as PostgreSQL's own dependencies have it: so that DDL on what it uses is told from DDL on
-- what it does not use, and new names are followed.

ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN reinit_reason text;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.reinit_reason IS 'Why it has to be filled anew; goes with needs_reinit.';
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN plan_epoch bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN pgtrickle.pgt_stream_tables.plan_epoch IS
    'Counts what changed in the things that its query names: a plan that was made at another count is stale.';

CREATE TABLE pgtrickle.st_references (
    pgt_id bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables (pgt_id) ON UPDATE CASCADE ON DELETE CASCADE,
    classid oid NOT NULL,
    objid oid NOT NULL,
    objsubid integer NOT NULL DEFAULT 0,
    schema_name text NOT NULL,
    object_name text NOT NULL,
    column_name text,
    fingerprint text NOT NULL,
    PRIMARY KEY (pgt_id, classid, objid, objsubid)
);
CREATE INDEX st_references_object ON pgtrickle.st_references (objid);
COMMENT ON TABLE pgtrickle.st_references IS
    'Relations, columns, functions and types that a stream table''s query names, by itself or behind views, as they were when last looked at.';
COMMENT ON COLUMN pgtrickle.st_references.objsubid IS 'Number of the column; 0: the object itself; -1: its rows as a whole.';
COMMENT ON COLUMN pgtrickle.st_references.fingerprint IS 'What the query''s result depends on, but for its name.';
REVOKE ALL ON TABLE pgtrickle.st_references FROM PUBLIC;

CREATE FUNCTION pgtrickle._identify(classid oid, objid oid, objsubid integer, OUT schema_name text, OUT object_name text, OUT column_name text,
                                    OUT fingerprint text)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- What an object is called now, and what of it a query's result depends on. NULL where it is gone.
#variable_conflict use_variable
BEGIN
    IF classid = 'pg_class'::regclass AND objsubid = 0 THEN
        SELECT n.nspname, c.relname, concat_ws(' ', c.relkind, c.relam, CASE WHEN c.relrowsecurity THEN 'policies' END,
                   CASE WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) THEN 'children' END,
                   -- A stream table's row id is nobody else's.
                   (SELECT 'key ' || i.indkey::text FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
                    AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) AND a.attname LIKE '\_\_pgt\_%')),
                   (SELECT md5(r.ev_action::text) FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '1' AND c.relkind = 'v'))
        INTO schema_name, object_name, fingerprint
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = objid;
    ELSIF classid = 'pg_class'::regclass AND objsubid < 0 THEN
        SELECT n.nspname, c.relname, (SELECT md5(string_agg(a.attname || ' ' || a.atttypid, ',' ORDER BY a.attnum)) FROM pg_attribute a
                                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
        INTO schema_name, object_name, fingerprint
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = objid;
    ELSIF classid = 'pg_class'::regclass THEN
        SELECT n.nspname, c.relname, a.attname,
               concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attcollation, a.attnotnull, a.attgenerated,
                         (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''))
        INTO schema_name, object_name, column_name, fingerprint
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE a.attrelid = objid AND a.attnum = objsubid AND NOT a.attisdropped;
    ELSIF classid = 'pg_proc'::regclass THEN
        SELECT n.nspname, p.proname,
               md5(concat_ws('|', p.prosrc, p.probin, p.prosqlbody::text, p.prolang, p.provolatile, p.proisstrict, p.proretset, p.prorettype,
                             p.proconfig::text, (SELECT concat_ws(' ', g.aggtransfn, g.aggfinalfn, g.agginitval) FROM pg_aggregate g
                                                 WHERE g.aggfnoid = p.oid)))
        INTO schema_name, object_name, fingerprint
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = objid;
    ELSIF classid = 'pg_type'::regclass THEN
        SELECT n.nspname, t.typname,
               coalesce((SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), t.typtype::text)
        INTO schema_name, object_name, fingerprint
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = objid;
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._begin_probe() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- What is made from here on is undone with the subtransaction: no hook looks at it, and Citus takes none of it to the workers. (A
-- temporary view would do, too, but whoever has touched one cannot PREPARE TRANSACTION.)
BEGIN
    PERFORM set_config('pgtrickle.probing', 'on', true);
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    END IF;
END
$function$;

CREATE FUNCTION pgtrickle._probe(wanted bigint, query text, columns text DEFAULT '') RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- A view of a stream table's query, to be looked at and undone.
DECLARE
    name CONSTANT text := format('pgtrickle.%I', '__pgt_probe_' || pg_backend_pid() || '_' || wanted);
BEGIN
    EXECUTE format('CREATE VIEW %s%s AS %s', name, columns, query);
    RETURN name::regclass;
END
$function$;

CREATE FUNCTION pgtrickle._references_of(probe oid) RETURNS jsonb
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
    -- The objects behind a view: those that its rule names and those behind the views that it reads. A row as a whole is all columns.
    WITH RECURSIVE rules(rule, relid, tree) AS (
        SELECT r.oid, r.ev_class, r.ev_action::text FROM pg_rewrite r WHERE r.ev_class = probe AND r.ev_type = '1'
        UNION
        SELECT r.oid, r.ev_class, r.ev_action::text FROM rules u
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = u.rule AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid <> u.relid
        JOIN pg_rewrite r ON r.ev_class = d.refobjid AND r.ev_type = '1'
        JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v'
    ), named AS (
        SELECT d.refclassid AS classid, d.refobjid AS objid, d.refobjsubid AS objsubid, u.tree ~ ':varattno 0 ' AS has_whole_rows
        FROM rules u JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = u.rule
        WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
          AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid = u.relid)
        UNION
        SELECT 'pg_proc'::regclass, o.oprcode::oid, 0, false
        FROM rules u JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = u.rule
        JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    ), objects AS (
        SELECT n.classid, n.objid, n.objsubid FROM named n
        UNION SELECT n.classid, n.objid, 0 FROM named n
        UNION SELECT n.classid, n.objid, -1 FROM named n WHERE n.has_whole_rows AND n.classid = 'pg_class'::regclass
        UNION SELECT n.classid, n.objid, a.attnum FROM named n JOIN pg_attribute a
              ON n.has_whole_rows AND n.classid = 'pg_class'::regclass AND a.attrelid = n.objid AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT coalesce(jsonb_agg(jsonb_build_array(o.classid::bigint, o.objid::bigint, o.objsubid)), '[]') FROM objects o
$function$;

CREATE FUNCTION pgtrickle._note_references(wanted bigint) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- Writes down what a stream table's query names. Answers false where PostgreSQL does not understand the query now: then what was known stays.
#variable_conflict use_column
DECLARE
    query CONSTANT text := (SELECT t.defining_query FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = wanted);
    probe regclass;
    found jsonb;
BEGIN
    BEGIN
        PERFORM pgtrickle._begin_probe();
        probe := pgtrickle._probe(wanted, query);
        found := pgtrickle._references_of(probe);  -- a statement of its own sees the view
        RAISE EXCEPTION USING ERRCODE = 'PTU00';
    EXCEPTION
        WHEN SQLSTATE 'PTU00' THEN NULL;
        WHEN OTHERS THEN RETURN false;
    END;
    DELETE FROM pgtrickle.st_references r WHERE r.pgt_id = wanted;
    INSERT INTO pgtrickle.st_references (pgt_id, classid, objid, objsubid, schema_name, object_name, column_name, fingerprint)
    SELECT wanted, (o ->> 0)::oid, (o ->> 1)::oid, (o ->> 2)::integer, i.schema_name, i.object_name, i.column_name, i.fingerprint
    FROM jsonb_array_elements(found) AS o,
         LATERAL pgtrickle._identify((o ->> 0)::oid, (o ->> 1)::oid, (o ->> 2)::integer) AS i
    WHERE i.object_name IS NOT NULL;
    RETURN true;
END
$function$;

CREATE FUNCTION pgtrickle._on_query() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM pgtrickle._note_references(NEW.pgt_id);
    RETURN NULL;
END
$function$;
CREATE TRIGGER _pgt_note_references AFTER INSERT OR UPDATE OF defining_query ON pgtrickle.pgt_stream_tables
    FOR EACH ROW EXECUTE FUNCTION pgtrickle._on_query();

CREATE FUNCTION pgtrickle._on_filled() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    NEW.reinit_reason := NULL;
    RETURN NEW;
END
$function$;
CREATE TRIGGER _pgt_forget_reason BEFORE UPDATE OF needs_reinit ON pgtrickle.pgt_stream_tables
    FOR EACH ROW WHEN (NOT NEW.needs_reinit AND NEW.reinit_reason IS NOT NULL) EXECUTE FUNCTION pgtrickle._on_filled();

CREATE FUNCTION pgtrickle._mark(readers bigint[], reason text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
    -- Their next refresh plans anew and fills them anew. What came first is why.
    UPDATE pgtrickle.pgt_stream_tables t
    SET needs_reinit = true, reinit_reason = CASE WHEN t.needs_reinit THEN coalesce(t.reinit_reason, reason) ELSE reason END, plan_epoch = t.plan_epoch + 1, updated_at = now() WHERE t.pgt_id = ANY (readers)
$function$;

CREATE FUNCTION pgtrickle._fail(readers bigint[], reason text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
    -- They are wrong, and no refresh by itself mends that: somebody has to look.
    UPDATE pgtrickle.pgt_stream_tables t
    SET status = 'ERROR', suspended_reason = reason, needs_reinit = true, reinit_reason = reason, plan_epoch = t.plan_epoch + 1,
        updated_at = now()
    WHERE t.pgt_id = ANY (readers)
$function$;

CREATE FUNCTION pgtrickle._readers(relid oid) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT ARRAY(SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = relid)
$function$;

REVOKE ALL ON FUNCTION pgtrickle._identify(oid, oid, integer), pgtrickle._begin_probe(), pgtrickle._probe(bigint, text, text),
    pgtrickle._references_of(oid), pgtrickle._note_references(bigint), pgtrickle._on_query(), pgtrickle._on_filled(),
    pgtrickle._mark(bigint[], text), pgtrickle._fail(bigint[], text), pgtrickle._readers(oid) FROM PUBLIC;

SELECT pgtrickle._note_references(t.pgt_id) FROM pgtrickle.pgt_stream_tables t;
