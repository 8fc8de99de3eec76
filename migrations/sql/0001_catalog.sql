-- pg_trickle 0.2's catalog as a real installation has it (baseline.md). Names of constraints are PostgreSQL's own.

DO $$
BEGIN
    IF to_regclass('pgtrickle.pgt_stream_tables') IS NOT NULL THEN
        RAISE EXCEPTION 'schema pgtrickle already holds stream tables that this chain did not make'
            USING HINT = 'take the installation over with: harness migrate adopt';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS pgtrickle;
CREATE SCHEMA IF NOT EXISTS pgtrickle_changes;
REVOKE ALL ON SCHEMA pgtrickle_changes FROM PUBLIC;

CREATE TABLE pgtrickle.pgt_stream_tables (
    pgt_id bigserial PRIMARY KEY,
    pgt_relid oid NOT NULL UNIQUE,
    pgt_name text NOT NULL,
    pgt_schema text NOT NULL,
    defining_query text NOT NULL,
    original_query text,
    schedule text,
    refresh_mode text NOT NULL DEFAULT 'DIFFERENTIAL' CHECK (refresh_mode IN ('FULL', 'DIFFERENTIAL', 'IMMEDIATE')),
    status text NOT NULL DEFAULT 'INITIALIZING' CHECK (status IN ('INITIALIZING', 'ACTIVE', 'SUSPENDED', 'ERROR')),
    is_populated boolean NOT NULL DEFAULT false,
    data_timestamp timestamptz,
    frontier jsonb,
    last_refresh_at timestamptz,
    consecutive_errors integer NOT NULL DEFAULT 0,
    needs_reinit boolean NOT NULL DEFAULT false,
    auto_threshold double precision,
    last_full_ms double precision,
    functions_used text[],
    topk_limit integer,
    topk_order_by text,
    diamond_consistency text NOT NULL DEFAULT 'none' CHECK (diamond_consistency IN ('none', 'atomic')),
    diamond_schedule_policy text NOT NULL DEFAULT 'fastest' CHECK (diamond_schedule_policy IN ('fastest', 'slowest')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_pgt_status ON pgtrickle.pgt_stream_tables (status);
CREATE UNIQUE INDEX idx_pgt_name ON pgtrickle.pgt_stream_tables (pgt_schema, pgt_name);

CREATE TABLE pgtrickle.pgt_dependencies (
    pgt_id bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables (pgt_id) ON DELETE CASCADE,
    source_relid oid NOT NULL,
    source_type text NOT NULL CHECK (source_type IN ('TABLE', 'STREAM_TABLE', 'VIEW', 'MATVIEW', 'FOREIGN_TABLE')),
    columns_used text[],
    column_snapshot jsonb,
    schema_fingerprint text,
    cdc_mode text NOT NULL DEFAULT 'TRIGGER' CHECK (cdc_mode IN ('TRIGGER', 'TRANSITIONING', 'WAL')),
    slot_name text,
    decoder_confirmed_lsn pg_lsn,
    transition_started_at timestamptz,
    PRIMARY KEY (pgt_id, source_relid)
);
CREATE INDEX idx_deps_source ON pgtrickle.pgt_dependencies (source_relid);

CREATE TABLE pgtrickle.pgt_refresh_history (
    refresh_id bigserial PRIMARY KEY,
    pgt_id bigint NOT NULL,
    data_timestamp timestamptz NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    -- DIFFERENTIAL stands twice in the real one too, and a definition is compared to the letter.
    action text NOT NULL CHECK (action IN ('NO_DATA', 'FULL', 'DIFFERENTIAL', 'DIFFERENTIAL', 'REINITIALIZE', 'SKIP')),
    rows_inserted bigint DEFAULT 0,
    rows_deleted bigint DEFAULT 0,
    delta_row_count bigint DEFAULT 0,
    merge_strategy_used text,
    was_full_fallback boolean NOT NULL DEFAULT false,
    error_message text,
    status text NOT NULL CHECK (status IN ('RUNNING', 'COMPLETED', 'FAILED', 'SKIPPED')),
    initiated_by text CHECK (initiated_by IN ('SCHEDULER', 'MANUAL', 'INITIAL')),
    freshness_deadline timestamptz
);
CREATE INDEX idx_hist_pgt_ts ON pgtrickle.pgt_refresh_history (pgt_id, data_timestamp);

CREATE TABLE pgtrickle.pgt_change_tracking (
    source_relid oid PRIMARY KEY,
    slot_name text NOT NULL,
    last_consumed_lsn pg_lsn,
    tracked_by_pgt_ids bigint[]
);
