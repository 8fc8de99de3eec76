-- Last, since the loop itself asks for stable names.
DROP FUNCTION pgtrickle.stable_name(oid);
DROP FUNCTION pgtrickle.stable_hash(text);
