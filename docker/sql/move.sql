SET lock_timeout = '10s';
SELECT pg_catalog.citus_update_node(nodeid, :'host', :port::int)
  FROM pg_catalog.pg_dist_node
 WHERE groupid = :group AND noderole = 'primary';
