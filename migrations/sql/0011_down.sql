-- Capture looks its shard up in every session again.

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
        RETURN pgtrickle._distributed_source(buffer, lists.new_names, lists.new_values, lists.old_names, lists.old_values);
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
