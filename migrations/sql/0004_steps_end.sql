-- The step's functions leave with the revision.
DROP FUNCTION pgtrickle._do_xid_down(oid);
DROP FUNCTION pgtrickle._do_xid_up(oid);
DROP FUNCTION pgtrickle._todo_xid_down();
DROP FUNCTION pgtrickle._todo_xid_up();
DROP FUNCTION pgtrickle._has_xid(oid);
