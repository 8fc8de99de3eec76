-- Every source has moved.
ALTER TABLE pgtrickle.pgt_dependencies ALTER COLUMN source_stable_name SET NOT NULL;
ALTER TABLE pgtrickle.pgt_change_tracking ALTER COLUMN source_stable_name SET NOT NULL;
CREATE INDEX IF NOT EXISTS idx_deps_stable_name ON pgtrickle.pgt_dependencies (source_stable_name);
CREATE UNIQUE INDEX IF NOT EXISTS idx_tracking_stable_name ON pgtrickle.pgt_change_tracking (source_stable_name);
DROP FUNCTION pgtrickle._findings();
