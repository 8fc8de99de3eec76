SELECT pg_catalog.count(*) FROM pg_catalog.pg_extension WHERE extname = 'citus';
