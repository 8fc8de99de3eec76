-- Placement: where a source and a stream table live (plan P1.3, P5.1).

CREATE OR REPLACE FUNCTION pgtrickle.placement_of(relation oid) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
-- local, reference or distributed. Citus keeps single-shard tables under 'n' too, with a colocation group of their own, and
-- tables that it merely manages on the coordinator without one. Without Citus everything is local.
DECLARE
    placement text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
        RETURN 'local';
    END IF;
    EXECUTE $query$
        SELECT CASE WHEN p.partmethod <> 'n' THEN 'distributed'
                    WHEN p.repmodel = 't' THEN 'reference'
                    WHEN p.colocationid = 0 THEN 'local'
                    ELSE 'distributed' END
        FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1$query$ INTO placement USING relation;
    RETURN coalesce(placement, 'local');
END
$function$;
REVOKE ALL ON FUNCTION pgtrickle.placement_of(oid) FROM PUBLIC;

ALTER TABLE pgtrickle.pgt_dependencies ADD COLUMN source_placement text NOT NULL DEFAULT 'local'
    CHECK (source_placement IN ('local', 'reference', 'distributed'));
ALTER TABLE pgtrickle.pgt_stream_tables ADD COLUMN st_placement text NOT NULL DEFAULT 'local'
    CHECK (st_placement IN ('local', 'reference', 'distributed'));

UPDATE pgtrickle.pgt_dependencies d SET source_placement = pgtrickle.placement_of(d.source_relid)
WHERE pgtrickle.placement_of(d.source_relid) <> 'local';
UPDATE pgtrickle.pgt_stream_tables t SET st_placement = pgtrickle.placement_of(t.pgt_relid)
WHERE pgtrickle.placement_of(t.pgt_relid) <> 'local';
