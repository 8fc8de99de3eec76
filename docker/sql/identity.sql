-- See read_identity in lib/cluster.sh.
SELECT local.groupid, known.metadata ->> 'server_id', known.metadata #>> '{citus_node,cluster}',
       known.metadata #>> '{citus_node,coordinator}', known.metadata #>> '{citus_node,node}',
       (SELECT pg_catalog.concat(nodename, ':', nodeport) FROM pg_catalog.pg_dist_node
         WHERE groupid = 0 AND noderole = 'primary'),
       pg_catalog.pg_postmaster_start_time()
  FROM pg_catalog.pg_dist_local_group AS local, pg_catalog.pg_dist_node_metadata AS known;
