SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid = :group AND noderole = 'primary' AND isactive);
