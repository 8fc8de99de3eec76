-- Below this revision the changes of a table that is not local cannot be captured, and 0.2 knows no stream table that is not local.
DO $$
DECLARE
    names text;
BEGIN
    SELECT string_agg(s.relid::regclass::text || ' (' || s.placement || ')', ', ' ORDER BY s.relid) INTO names
    FROM (SELECT d.source_relid AS relid, d.source_placement AS placement FROM pgtrickle.pgt_dependencies d
          UNION SELECT k.source_relid, pgtrickle.placement_of(k.source_relid) FROM pgtrickle.pgt_change_tracking k) s
    WHERE s.placement <> 'local';
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
