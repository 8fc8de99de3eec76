-- Every source has row triggers again.
DROP EVENT TRIGGER pg_trickle_drop_tracker;
DROP EVENT TRIGGER pg_trickle_ddl_tracker;
DROP FUNCTION pgtrickle._on_sql_drop();
DROP FUNCTION pgtrickle._on_ddl_end();
DROP FUNCTION pgtrickle._give_up_capture(oid, text);
DROP FUNCTION pgtrickle.remove_capture(oid);
DROP FUNCTION pgtrickle.install_capture(oid);
DROP FUNCTION pgtrickle.resync_capture(oid);
DROP FUNCTION pgtrickle._sync_columns(oid, text, jsonb);
DROP FUNCTION pgtrickle._set_function(oid, text);
DROP FUNCTION pgtrickle._set_triggers(oid, text, boolean);
DROP FUNCTION pgtrickle._statement_source(oid, name);
DROP FUNCTION pgtrickle._source_columns(oid);
DROP FUNCTION pgtrickle._rename_capture(oid, text, text);
ALTER TABLE pgtrickle.pgt_change_tracking DROP COLUMN captured_columns;
