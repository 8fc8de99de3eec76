-- What stands in the way of stable names, found before the first change. A query, so that it also runs where nothing may be
-- written. Whoever runs it puts a CTE in front: names (relid oid, stable_name text), a row for each existing source.
sources AS (
    SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking
    UNION SELECT source_relid FROM pgtrickle.pgt_dependencies
), named AS (
    SELECT n.relid, n.stable_name, format('%I.%I', s.nspname, c.relname) AS source, c.relowner,
           EXISTS (SELECT FROM pg_catalog.pg_class b JOIN pg_catalog.pg_namespace bn ON bn.oid = b.relnamespace
                   WHERE bn.nspname = 'pgtrickle_changes' AND b.relname = 'changes_' || n.relid) AS is_by_oid
    FROM names n JOIN pg_catalog.pg_class c ON c.oid = n.relid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
)
SELECT 'source_missing' AS code, s.relid::text AS subject,
       format('the catalog names a source with OID %s that no longer exists (stream tables: %s)', s.relid,
              coalesce((SELECT string_agg(format('%I.%I', t.pgt_schema, t.pgt_name), ', ' ORDER BY t.pgt_id)
                        FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)
                        WHERE d.source_relid = s.relid), 'none')) AS message,
       'drop those stream tables, or delete its rows from pgtrickle.pgt_dependencies and pgtrickle.pgt_change_tracking' AS hint
FROM sources s WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relid)
UNION ALL
SELECT 'stable_name_collision', a.source, format('%s and %s have one stable name, %s', a.source, b.source, a.stable_name),
       'rename one of the two tables or its schema'
FROM named a JOIN named b ON a.stable_name = b.stable_name AND a.relid < b.relid
UNION ALL
SELECT 'name_taken', n.source, format('relation pgtrickle_changes.%I is there already, and %s needs that name', r.relname, n.source),
       format('rename or drop pgtrickle_changes.%I', r.relname)
FROM named n
CROSS JOIN LATERAL unnest(ARRAY['changes_' || n.stable_name, 'changes_' || n.stable_name || '_change_id_seq',
                                'idx_changes_' || n.stable_name || '_lsn_pk_cid']) AS w(name)
JOIN pg_catalog.pg_class r ON r.relname = w.name
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace AND rn.nspname = 'pgtrickle_changes'
WHERE n.is_by_oid
UNION ALL
SELECT 'name_taken', n.source, format('function pgtrickle_changes.%I is there already, and %s needs that name', p.proname, n.source),
       format('rename or drop function pgtrickle_changes.%I', p.proname)
FROM named n
CROSS JOIN LATERAL unnest(ARRAY['pg_trickle_cdc_fn_' || n.stable_name, 'pg_trickle_cdc_truncate_fn_' || n.stable_name]) AS w(name)
JOIN pg_catalog.pg_proc p ON p.proname = w.name
JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace AND pn.nspname = 'pgtrickle_changes'
WHERE n.is_by_oid
UNION ALL
SELECT 'name_taken', n.source, format('trigger %I on %s is there already', t.tgname, n.source),
       format('rename or drop trigger %I', t.tgname)
FROM named n
JOIN pg_catalog.pg_trigger t ON t.tgrelid = n.relid
    AND t.tgname IN ('pg_trickle_cdc_' || n.stable_name, 'pg_trickle_cdc_truncate_' || n.stable_name)
WHERE n.is_by_oid
UNION ALL
SELECT 'buffer_missing', n.source, format('%s is tracked, and its change buffer pgtrickle_changes.changes_%s is not there', n.source, n.relid),
       'drop and create its stream tables again, or delete its row from pgtrickle.pgt_change_tracking'
FROM named n JOIN pgtrickle.pgt_change_tracking k ON k.source_relid = n.relid
WHERE NOT n.is_by_oid AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_class b JOIN pg_catalog.pg_namespace bn ON bn.oid = b.relnamespace
    WHERE bn.nspname = 'pgtrickle_changes' AND b.relname = 'changes_' || n.stable_name)
UNION ALL
SELECT 'trigger_missing', n.source, format('%s has a change buffer and no capture trigger pg_trickle_cdc_%s: its changes are not captured',
                                           n.source, n.relid),
       'drop and create its stream tables again'
FROM named n
WHERE n.is_by_oid AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = n.relid AND t.tgname = 'pg_trickle_cdc_' || n.relid)
UNION ALL
SELECT 'wal_mode', n.source, format('%s is captured from the write-ahead log (cdc_mode %s), which needs the extension''s library',
                                    n.source, min(d.cdc_mode)),
       'put it back to trigger capture with the extension first'
FROM named n JOIN pgtrickle.pgt_dependencies d ON d.source_relid = n.relid
WHERE d.cdc_mode <> 'TRIGGER' GROUP BY n.source
UNION ALL
-- A position that this server has not reached yet comes from another one: what was captured since the restore looks consumed.
SELECT 'frontier_ahead', format('%I.%I', t.pgt_schema, t.pgt_name),
       format('the frontier of %I.%I stands at %s for source %s, and this server is at %s only: it was restored from another one, and what was captured since looks consumed',
              t.pgt_schema, t.pgt_name, f.value ->> 'lsn', f.key, w.lsn),
       format('UPDATE pgtrickle.pgt_stream_tables SET frontier = NULL, needs_reinit = true WHERE pgt_id = %s', t.pgt_id)
FROM pgtrickle.pgt_stream_tables t
CROSS JOIN LATERAL (SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END AS lsn) w
CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(t.frontier -> 'sources') = 'object' THEN t.frontier -> 'sources' ELSE '{}' END) f
WHERE (f.value ->> 'lsn')::pg_lsn > w.lsn
UNION ALL
SELECT 'not_owner', n.source, format('role %I does not own %s, and only its owner may rename its triggers', current_user, n.source),
       format('run the chain as %I or as a superuser', pg_catalog.pg_get_userbyid(n.relowner))
FROM named n
WHERE n.is_by_oid AND NOT pg_catalog.pg_has_role(current_user, n.relowner, 'USAGE')
ORDER BY 1, 2, 3
