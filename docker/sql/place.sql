SELECT EXISTS (
    SELECT FROM pg_catalog.pg_dist_node JOIN pg_catalog.pg_dist_local_group USING (groupid)
     WHERE groupid > 0 AND nodename = :'host' AND nodeport = :port);
