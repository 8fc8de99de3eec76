-- Beside the server_id that Citus keeps there: which cluster this node belongs to, whatever its addresses.
UPDATE pg_catalog.pg_dist_node_metadata
   SET metadata = metadata || pg_catalog.jsonb_build_object('citus_node', pg_catalog.jsonb_build_object(
       'cluster', :'cluster', 'coordinator', :'coordinator', 'node', :'node'));
