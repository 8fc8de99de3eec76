-- The first that the server does not know, or whose value it did not take.
SELECT wanted.name, CASE WHEN settings.source = 'default' THEN 'refused' ELSE 'missing' END
  FROM pg_catalog.string_to_table(:'names', ' ') AS wanted(name)
  LEFT JOIN pg_catalog.pg_settings AS settings ON pg_catalog.lower(settings.name) = wanted.name
 WHERE wanted.name <> ''
   AND (pg_catalog.current_setting(wanted.name, true) IS NULL OR settings.source = 'default')
 LIMIT 1;
