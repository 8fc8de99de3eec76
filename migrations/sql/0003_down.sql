-- Placements are told by Citus itself, so nothing is lost with these columns.
ALTER TABLE pgtrickle.pgt_stream_tables DROP COLUMN st_placement;
ALTER TABLE pgtrickle.pgt_dependencies DROP COLUMN source_placement;
DROP FUNCTION pgtrickle.placement_of(oid);
