-- The two views of 0.2.0; they call pgtrickle.parse_duration_seconds.

CREATE VIEW pgtrickle.stream_tables_info AS
SELECT st.*,
       now() - st.data_timestamp AS staleness,
       CASE WHEN st.schedule IS NOT NULL AND st.schedule !~ '[\s@]'
            THEN extract(epoch FROM now() - st.data_timestamp) > pgtrickle.parse_duration_seconds(st.schedule)
            ELSE NULL::boolean END AS stale,
       CASE WHEN st.topk_limit IS NOT NULL THEN true ELSE false END AS is_topk
FROM pgtrickle.pgt_stream_tables st;

CREATE VIEW pgtrickle.pg_stat_stream_tables AS
SELECT st.pgt_id, st.pgt_schema, st.pgt_name, st.status, st.refresh_mode, st.is_populated, st.data_timestamp, st.schedule,
       now() - st.data_timestamp AS staleness,
       CASE WHEN st.schedule IS NOT NULL AND st.data_timestamp IS NOT NULL AND st.schedule !~ '[\s@]'
            THEN extract(epoch FROM now() - st.data_timestamp) > pgtrickle.parse_duration_seconds(st.schedule)
            ELSE NULL::boolean END AS stale,
       st.consecutive_errors, st.needs_reinit, st.last_refresh_at,
       coalesce(stats.total_refreshes, 0) AS total_refreshes,
       coalesce(stats.successful_refreshes, 0) AS successful_refreshes,
       coalesce(stats.failed_refreshes, 0) AS failed_refreshes,
       coalesce(stats.total_rows_inserted, 0) AS total_rows_inserted,
       coalesce(stats.total_rows_deleted, 0) AS total_rows_deleted,
       stats.avg_duration_ms, stats.last_action, stats.last_status
FROM pgtrickle.pgt_stream_tables st
LEFT JOIN LATERAL (
    SELECT count(*)::bigint AS total_refreshes,
           count(*) FILTER (WHERE h.status = 'COMPLETED')::bigint AS successful_refreshes,
           count(*) FILTER (WHERE h.status = 'FAILED')::bigint AS failed_refreshes,
           coalesce(sum(h.rows_inserted), 0)::bigint AS total_rows_inserted,
           coalesce(sum(h.rows_deleted), 0)::bigint AS total_rows_deleted,
           (avg(extract(epoch FROM h.end_time - h.start_time) * 1000) FILTER (WHERE h.end_time IS NOT NULL))::float8 AS avg_duration_ms,
           (SELECT l.action FROM pgtrickle.pgt_refresh_history l WHERE l.pgt_id = st.pgt_id
            ORDER BY l.refresh_id DESC LIMIT 1) AS last_action,
           (SELECT l.status FROM pgtrickle.pgt_refresh_history l WHERE l.pgt_id = st.pgt_id
            ORDER BY l.refresh_id DESC LIMIT 1) AS last_status
    FROM pgtrickle.pgt_refresh_history h
    WHERE h.pgt_id = st.pgt_id
) stats ON true;
