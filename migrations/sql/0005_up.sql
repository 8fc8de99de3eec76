-- Leases (D8): the plan's columns, and a holder, a deadline and a fencing token.

CREATE SEQUENCE pgtrickle.fencing_token_seq;
CREATE TABLE pgtrickle.st_locks (
    pgt_id bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables (pgt_id) ON DELETE CASCADE,
    locked_by integer NOT NULL,
    locked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    holder text NOT NULL,
    deadline timestamptz NOT NULL,
    fencing_token bigint NOT NULL DEFAULT nextval('pgtrickle.fencing_token_seq'),
    CHECK (deadline > locked_at)
);
ALTER SEQUENCE pgtrickle.fencing_token_seq OWNED BY pgtrickle.st_locks.fencing_token;
COMMENT ON TABLE pgtrickle.st_locks IS 'Who may refresh a stream table, and until when.';
COMMENT ON COLUMN pgtrickle.st_locks.locked_by IS 'Process id of the session that took the lease.';
COMMENT ON COLUMN pgtrickle.st_locks.fencing_token IS 'Grows with every lease; a refresh commits only while its own is still here.';
REVOKE ALL ON TABLE pgtrickle.st_locks FROM PUBLIC;
REVOKE ALL ON SEQUENCE pgtrickle.fencing_token_seq FROM PUBLIC;
