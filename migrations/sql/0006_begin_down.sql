-- Below this revision the changes of a table that is not local cannot be captured, and 0.2 knows no stream table that is not local.
DO $$
DECLARE
    names text;
BEGIN
    SELECT string_agg(DISTINCT d.source_relid::regclass::text || ' (' || d.source_placement || ')', ', ') INTO names
    FROM pgtrickle.pgt_dependencies d WHERE d.source_placement <> 'local';
    IF names IS NOT NULL THEN
        RAISE EXCEPTION 'going down would lose the capture of %', names USING HINT = 'drop their stream tables first', ERRCODE = 'object_in_use';
    END IF;
    SELECT string_agg(format('%I.%I (%s)', t.pgt_schema, t.pgt_name, t.st_placement), ', ') INTO names
    FROM pgtrickle.pgt_stream_tables t WHERE t.st_placement <> 'local';
    IF names IS NOT NULL THEN
        RAISE EXCEPTION 'going down would strand the stream tables %', names USING HINT = 'drop them first', ERRCODE = 'object_in_use';
    END IF;
END
$$;
