-- Puts what a capture function is made of now into those that are there.
DO $$
-- Every distributed source's function anew; who is in the middle of a statement ends it with the one before.
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT k.source_relid, k.source_stable_name FROM pgtrickle.pgt_change_tracking k JOIN pg_class c ON c.oid = k.source_relid
        WHERE pgtrickle.placement_of(k.source_relid) = 'distributed' AND pgtrickle._is_of_its_kind(k.source_relid)
        ORDER BY k.source_relid
    LOOP
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
        PERFORM pgtrickle._set_function(item.source_relid, item.source_stable_name);
    END LOOP;
END
$$;
