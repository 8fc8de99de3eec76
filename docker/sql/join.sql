-- With its first worker the coordinator gets no new shards; those that it has stay where they are.
BEGIN;
SET LOCAL lock_timeout = '10s';
SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid > 0) AS is_first
\gset
SELECT pg_catalog.citus_add_node(:'host', :port);
\if :is_first
SELECT pg_catalog.citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false)
  FROM pg_catalog.pg_dist_node
 WHERE groupid = 0;
\endif
COMMIT;
