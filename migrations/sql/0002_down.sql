-- Every source has its old names again.
DROP INDEX IF EXISTS pgtrickle.idx_tracking_stable_name;
DROP INDEX IF EXISTS pgtrickle.idx_deps_stable_name;
ALTER TABLE pgtrickle.pgt_change_tracking DROP COLUMN source_stable_name;
ALTER TABLE pgtrickle.pgt_dependencies DROP COLUMN source_stable_name;
DROP TABLE pgtrickle.chain_notes;
