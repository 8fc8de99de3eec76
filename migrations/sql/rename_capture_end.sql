-- Revision 0002 leaves without it; from 0006 on it stays.
DROP FUNCTION pgtrickle._rename_capture(oid, text, text, boolean);
