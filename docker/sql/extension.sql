SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS citus;
SELECT CASE WHEN extension.extversion = available.default_version THEN 'same' ELSE 'differs' END
  FROM pg_catalog.pg_extension AS extension
  JOIN pg_catalog.pg_available_extensions AS available ON available.name = extension.extname
 WHERE extension.extname = 'citus';
