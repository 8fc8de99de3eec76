-- Below the baseline there is nothing: stream tables would lose their definitions, so none may be left.

DO $$
DECLARE
    names text;
BEGIN
    SELECT string_agg(format('%I.%I', pgt_schema, pgt_name), ', ' ORDER BY pgt_schema, pgt_name)
    INTO names FROM pgtrickle.pgt_stream_tables;
    IF names IS NOT NULL THEN
        RAISE EXCEPTION 'going below the baseline would forget the stream tables %', names
            USING HINT = 'drop them first, or stay at revision 0001', ERRCODE = 'object_in_use';
    END IF;
END
$$;

DROP VIEW pgtrickle.pg_stat_stream_tables;
DROP VIEW pgtrickle.stream_tables_info;
DROP TABLE pgtrickle.pgt_change_tracking, pgtrickle.pgt_refresh_history, pgtrickle.pgt_dependencies, pgtrickle.pgt_stream_tables;
DROP FUNCTION pgtrickle.parse_duration_seconds(text);
DROP FUNCTION pgtrickle.pg_trickle_hash_multi(text[]);
DROP FUNCTION pgtrickle.pg_trickle_hash(text);
DROP FUNCTION pgtrickle._xxh64(bytea, bigint);
-- pgtrickle itself stays: Alembic's version table lives there. A buffer that is left makes this fail, as it should.
DROP SCHEMA pgtrickle_changes;
