DROP FUNCTION pgtrickle._branched_source(oid, name, text, text, text, text);
DROP FUNCTION pgtrickle._shard_branches(oid, name, text, text, text, text);
DROP FUNCTION pgtrickle._branch_tree(text[], text[]);
