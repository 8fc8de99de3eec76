-- The step's functions leave with the revision.
DROP FUNCTION pgtrickle._note_seen();
DROP FUNCTION pgtrickle._do_stable_down(oid);
DROP FUNCTION pgtrickle._todo_stable_down();
DROP FUNCTION pgtrickle._do_stable_up(oid);
DROP FUNCTION pgtrickle._todo_stable_up();
DROP FUNCTION pgtrickle._set_body(name, text, boolean);
DROP FUNCTION pgtrickle._truncate_source(name);
DROP FUNCTION pgtrickle._row_source(oid, name);
DROP FUNCTION pgtrickle._key_hash(oid, text, text);
DROP FUNCTION pgtrickle._columns_of(oid);
