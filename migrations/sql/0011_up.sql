-- Capture on a shard without dynamic SQL: the function knows each shard's buffer shard, so its plans are kept.

CREATE FUNCTION pgtrickle._branch_tree(names text[], bodies text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- Finds the trigger's table among sorted names by halves: each comparison costs a writer's statement half a microsecond.
DECLARE
    half CONSTANT integer := cardinality(names) / 2;
BEGIN
    IF half = 0 THEN
        RETURN format(E'IF TG_TABLE_NAME = %L THEN\n%sRETURN NULL;\nEND IF;\n', names[1], bodies[1]);
    END IF;
    RETURN format(E'IF TG_TABLE_NAME < %L THEN\n%sELSE\n%sEND IF;\n', names[half + 1],
                  pgtrickle._branch_tree(names[:half], bodies[:half]), pgtrickle._branch_tree(names[half + 1:], bodies[half + 1:]));
END
$function$;

CREATE FUNCTION pgtrickle._shard_branches(relid oid, buffer name, new_names text, new_values text, old_names text, old_values text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- What a capture function does for each shard that there is now. Empty where it would be longer than 64 kB: a session reads the whole of it
-- for each shard that it writes.
DECLARE
    names text[];
    bodies text[];
    found text;
BEGIN
    EXECUTE $query$
        SELECT array_agg(b.name ORDER BY b.name), array_agg(b.body ORDER BY b.name) FROM (
            SELECT (SELECT p[cardinality(p)] FROM parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid)) AS p) COLLATE "C" AS name, format($branch$
IF TG_OP <> 'INSERT' THEN
    INSERT INTO pgtrickle_changes.%1$I (seq_id, action%4$s) SELECT __pgt.seq, 'D'%5$s FROM __pgt_old AS o;
END IF;
IF TG_OP <> 'DELETE' THEN
    INSERT INTO pgtrickle_changes.%1$I (seq_id, action%2$s) SELECT __pgt.seq, 'I'%3$s FROM __pgt_new AS n;
END IF;
$branch$, $2 || '_' || b.shardid, $3, $4, $5, $6) AS body
            FROM pg_catalog.pg_dist_shard s
            JOIN pg_catalog.pg_dist_shard b ON b.logicalrelid = to_regclass(format('pgtrickle_changes.%I', $2))
                AND b.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
            WHERE s.logicalrelid = ANY ($1)) AS b$query$
    INTO names, bodies USING pgtrickle._captured_relations(relid), buffer, new_names, new_values, old_names, old_values;
    found := pgtrickle._branch_tree(names, bodies);
    RETURN CASE WHEN octet_length(found) <= 65536 THEN found ELSE '' END;
END
$function$;

CREATE FUNCTION pgtrickle._branched_source(relid oid, buffer name, new_names text, new_values text, old_names text, old_values text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body for a distributed source, which runs on a worker for a shard (F13, F15, F34). A shard that came since (split, isolated), or
-- whose table has another name by now, is looked up, as before. Its one variable is named with its block: no column of a source can be
-- taken for it.
DECLARE
    branches CONSTANT text := pgtrickle._shard_branches(relid, buffer, new_names, new_values, old_names, old_values);
BEGIN
    IF branches = '' OR branches IS NULL THEN
        RETURN pgtrickle._distributed_source(buffer, new_names, new_values, old_names, old_values);
    END IF;
    RETURN format($body$
<<__pgt>>
DECLARE
    seq CONSTANT pg_catalog.int8 := pg_catalog.nextval('pgtrickle.change_seq');
BEGIN
%1$s
    IF TG_OP <> 'INSERT' THEN
        EXECUTE pg_catalog.format(%2$L, pgtrickle._buffer_shard(%4$L, TG_TABLE_NAME)) USING __pgt.seq;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE pg_catalog.format(%3$L, pgtrickle._buffer_shard(%4$L, TG_TABLE_NAME)) USING __pgt.seq;
    END IF;
    RETURN NULL;
END;
$body$, branches,
        format('INSERT INTO pgtrickle_changes.%%I (seq_id, action%s) SELECT $1, ''D''%s FROM __pgt_old AS o',
               replace(old_names, '%', '%%'), replace(old_values, '%', '%%')),
        format('INSERT INTO pgtrickle_changes.%%I (seq_id, action%s) SELECT $1, ''I''%s FROM __pgt_new AS n',
               replace(new_names, '%', '%%'), replace(new_values, '%', '%%')), buffer);
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle._branch_tree(text[], text[]), pgtrickle._shard_branches(oid, name, text, text, text, text),
    pgtrickle._branched_source(oid, name, text, text, text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgtrickle._statement_source(relid oid, buffer name, placement text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- The body of the function behind a source's statement triggers. It declares nothing whose name could be a column's.
DECLARE
    shard_key CONSTANT name := pgtrickle._shard_key(relid);
    lists record;
BEGIN
    IF pgtrickle._is_partition(relid) THEN
        RETURN pgtrickle._row_capture_source(relid, buffer);
    END IF;
    SELECT * INTO lists FROM pgtrickle._captured_lists(relid, 'n', 'o');
    IF placement = 'distributed' THEN
        IF shard_key IS NOT NULL THEN
            lists.new_names := lists.new_names || ', shard_key';
            lists.old_names := lists.old_names || ', shard_key';
            lists.new_values := lists.new_values || format(', n.%I', shard_key);
            lists.old_values := lists.old_values || format(', o.%I', shard_key);
        END IF;
        RETURN pgtrickle._branched_source(relid, buffer, lists.new_names, lists.new_values, lists.old_names, lists.old_values);
    END IF;
    RETURN format($body$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action) VALUES (pg_catalog.pg_current_wal_insert_lsn(), 'T');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%3$s) SELECT pg_catalog.pg_current_wal_insert_lsn(), 'D'%5$s FROM __pgt_old AS o;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO pgtrickle_changes.%1$I (lsn, action%2$s) SELECT pg_catalog.pg_current_wal_insert_lsn(), 'I'%4$s FROM __pgt_new AS n;
    END IF;
    RETURN NULL;
END;
$body$, buffer, lists.new_names, lists.old_names, lists.new_values, lists.old_values);
END
$function$;
