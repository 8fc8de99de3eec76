-- The loop and its helpers leave with the revision that used them.
DROP PROCEDURE pgtrickle._each_source(text);
DROP FUNCTION pgtrickle._lock_source(oid, integer);
DROP FUNCTION pgtrickle._lock_tree(oid);
DROP FUNCTION pgtrickle._holder_of(oid[], interval);
DROP FUNCTION pgtrickle._buffer_of(oid);
