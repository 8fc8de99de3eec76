-- Without workers the coordinator holds the shards itself.
SET lock_timeout = '10s';
SELECT NOT pg_catalog.bool_or(groupid = 0 AND nodename = :'host' AND nodeport = :port) IS TRUE AS is_elsewhere,
       NOT pg_catalog.bool_or(groupid > 0) IS TRUE AS is_alone
  FROM pg_catalog.pg_dist_node
\gset
\if :is_elsewhere
SELECT pg_catalog.citus_set_coordinator_host(:'host', :port);
\endif
\if :is_alone
SELECT pg_catalog.citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true)
  FROM pg_catalog.pg_dist_node
 WHERE groupid = 0 AND NOT shouldhaveshards;
\endif
