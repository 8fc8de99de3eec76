"""What capture by hand needs beside itself: sequences that every node knows, functions that look something up."""

from __future__ import annotations

from typing import LiteralString

import psycopg
from psycopg import sql

from harness.bench.tables import Connection
from harness.citus.catalog import has_citus

# One value fetched and logged each time; what the engine has (0004); more than any statement here needs.
CACHES = (1, 100, 10_000)

_NEXT_OF_COORDINATOR: LiteralString = """
CREATE FUNCTION bench.next_of_coordinator() RETURNS bigint LANGUAGE plpgsql AS $function$
-- The plan's one sequence, which only the coordinator has (F2), over a connection that this session keeps.
DECLARE
    found bigint;
BEGIN
    IF public.dblink_get_connections() IS NULL THEN
        PERFORM public.dblink_connect('bench', (
            SELECT format('host=%s port=%s dbname=%L user=%L sslmode=disable',
                          n.nodename, n.nodeport, current_database(), current_user)
            FROM pg_catalog.pg_dist_node n WHERE n.groupid = 0));
    END IF;
    SELECT r.value INTO found FROM public.dblink('bench', $$SELECT nextval('bench.plan_seq')$$) AS r (value bigint);
    RETURN found;
END
$function$"""


_BUFFER_SHARD: LiteralString = """
CREATE FUNCTION bench.buffer_shard(buffer text, shard name) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
-- As the engine had it from 0006 to 0010: the buffer's shard that is colocated with a source's, once a session (F15).
DECLARE
    known CONSTANT text := 'bench.' || buffer || '_' || substring(shard FROM '_([0-9]+)$');
    found text := nullif(current_setting(known, true), '');
BEGIN
    IF found IS NULL OR to_regclass('pgtrickle_changes.' || found) IS NULL THEN
        SELECT $1 || '_' || b.shardid INTO STRICT found FROM pg_catalog.pg_dist_shard s
        JOIN pg_catalog.pg_dist_shard b ON b.logicalrelid = ('pgtrickle_changes.' || $1)::regclass
            AND b.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
        WHERE s.shardid = substring($2 FROM '_([0-9]+)$')::bigint;
        PERFORM set_config(known, found, false);
    END IF;
    RETURN found;
END
$function$"""


def make_helpers(connection: Connection) -> str:
    """Make the schema ``bench`` with the sequences and, on Citus, what finds shards and what asks the coordinator.

    Args:
        connection: to the coordinator or the one server, autocommit.

    Returns:
        Why the coordinator's sequence cannot be asked for by dblink; empty if it can, and on one server.
    """
    is_citus = has_citus(connection)
    connection.execute("CREATE SCHEMA IF NOT EXISTS bench")
    for cache in CACHES:
        sequence = sql.Identifier("bench", f"seq_{cache}")
        connection.execute(sql.SQL("CREATE SEQUENCE {} CACHE {}").format(sequence, sql.Literal(cache)))
        if is_citus:
            # It goes to the workers with a table that depends on it (F2).
            anchor = sql.Identifier("bench", f"anchor_{cache}")
            connection.execute(
                sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY DEFAULT pg_catalog.nextval({}))").format(
                    anchor, sql.Literal(sequence.as_string(connection))
                )
            )
            connection.execute("SELECT create_reference_table(%s)", [anchor.as_string(connection)])
    if not is_citus:
        return ""
    connection.execute(_BUFFER_SHARD)
    connection.execute("SELECT create_distributed_function('bench.buffer_shard(text, name)')")
    connection.execute("CREATE SEQUENCE bench.plan_seq")
    try:
        connection.execute("CREATE EXTENSION dblink SCHEMA public")
    except psycopg.errors.FeatureNotSupported as error:
        return f"dblink is not installed: {error.diag.message_primary}"
    connection.execute(_NEXT_OF_COORDINATOR)
    connection.execute("SELECT create_distributed_function('bench.next_of_coordinator()')")
    return ""
