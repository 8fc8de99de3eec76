-- Every buffer is without the transaction column again.
DROP FUNCTION pgtrickle.share_with_workers();
DROP TABLE IF EXISTS pgtrickle.change_seq_anchor;
DROP FUNCTION pgtrickle.is_pending(jsonb, pg_lsn, xid8, integer);
DROP SEQUENCE pgtrickle.change_seq;
