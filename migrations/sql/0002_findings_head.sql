CREATE OR REPLACE FUNCTION pgtrickle._findings() RETURNS TABLE (code text, subject text, message text, hint text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $findings$
WITH names AS (SELECT s.relid, pgtrickle.stable_name(s.relid) AS stable_name FROM (
    SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking
    UNION SELECT source_relid FROM pgtrickle.pgt_dependencies) s
    JOIN pg_class c ON c.oid = s.relid),
