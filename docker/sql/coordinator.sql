-- See look_at_coordinator in lib/cluster.sh.
SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') AS has_citus
\gset
\if :has_citus
SELECT local.groupid, known.metadata ->> 'server_id',
       (SELECT pg_catalog.concat(nodename, ':', nodeport) FROM pg_catalog.pg_dist_node
         WHERE groupid = 0 AND noderole = 'primary'),
       (SELECT pg_catalog.concat(nodename, ':', nodeport) FROM pg_catalog.pg_dist_node
         WHERE groupid = :group AND groupid > 0 AND noderole = 'primary'),
       mine.groupid, mine.isactive AND mine.hasmetadata AND mine.metadatasynced
  FROM pg_catalog.pg_dist_local_group AS local
 CROSS JOIN pg_catalog.pg_dist_node_metadata AS known
  LEFT JOIN pg_catalog.pg_dist_node AS mine ON mine.nodename = :'host' AND mine.nodeport = :port;
\else
\echo none
\endif
