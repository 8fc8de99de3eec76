-- The step's functions leave with the revision.
DROP FUNCTION pgtrickle._do_capture_down(oid);
DROP FUNCTION pgtrickle._before_capture_down(oid);
DROP FUNCTION pgtrickle._hash_keys(oid, text);
DROP FUNCTION pgtrickle._number_from_here(text);
DROP FUNCTION pgtrickle._number_rows(text);
DROP FUNCTION pgtrickle._todo_capture_down();
DROP FUNCTION pgtrickle._buffered_columns(oid, text);
DROP FUNCTION pgtrickle._do_capture_up(oid);
DROP FUNCTION pgtrickle._todo_capture_up();
