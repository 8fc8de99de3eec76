"""IMMEDIATE stream tables: their triggers call the extension's library, so without it they become DIFFERENTIAL."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from harness.chain.connection import Connection
from harness.chain.runner import migrations_path
from harness.errors import Finding

# Names of both images, and the type. A domain gives way to the type below it, as revision 0006 has it: a row leaves
# one image empty, which a domain that is NOT NULL would refuse, and with it the writer's statement.
_BUFFERED_COLUMNS = """
WITH RECURSIVE below AS (
    SELECT a.attnum, a.attname, a.atttypid AS type, a.atttypmod AS typmod FROM pg_attribute a
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    UNION ALL
    SELECT b.attnum, b.attname, t.typbasetype, t.typtypmod FROM below b JOIN pg_type t ON t.oid = b.type
    WHERE t.typtype = 'd')
SELECT ('new_' || b.attname)::name, ('old_' || b.attname)::name, format_type(b.type, b.typmod)
FROM below b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd' ORDER BY b.attnum
"""


def fetch_immediate(connection: Connection) -> tuple[tuple[int, str], ...]:
    """Id and qualified name of each IMMEDIATE stream table."""
    rows = connection.execute(
        "SELECT pgt_id, format('%I.%I', pgt_schema, pgt_name) FROM pgtrickle.pgt_stream_tables"
        " WHERE refresh_mode = 'IMMEDIATE' ORDER BY 1"
    ).fetchall()
    return tuple((int(pgt_id), str(name)) for pgt_id, name in rows)


def find_half_captured(connection: Connection) -> tuple[Finding, ...]:
    """Sources of IMMEDIATE stream tables with a buffer that no trigger fills: they would be taken for captured ones."""
    rows = connection.execute(
        "SELECT DISTINCT c.oid::regclass::text, b.oid::regclass::text FROM pgtrickle.pgt_stream_tables s"
        " JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = s.pgt_id JOIN pg_class c ON c.oid = d.source_relid"
        " JOIN pg_class b ON b.oid = to_regclass('pgtrickle_changes.changes_' || c.oid)"
        " WHERE s.refresh_mode = 'IMMEDIATE' AND c.relkind IN ('r', 'p') AND NOT EXISTS ("
        "   SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'pg_trickle_cdc_' || c.oid)"
        " ORDER BY 1"
    ).fetchall()
    return tuple(
        Finding(
            "buffer_without_trigger",
            source,
            f"{source} has a change buffer, {buffer}, and no trigger that fills it",
            f"if no stream table needs what is in it: DROP TABLE {buffer}, and adopt again",
        )
        for source, buffer in rows
    )


def _drop_triggers(connection: Connection, pgt_id: int) -> None:
    """The eight triggers on each source, and their functions (baseline.md, IMMEDIATE)."""
    triggers = connection.execute(
        "SELECT t.tgname, n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE NOT t.tgisinternal AND t.tgparentid = 0"
        " AND t.tgname ~ ('^pgt_ivm_(before|after)_[a-z]+_' || %s || '$')",
        (str(pgt_id),),
    ).fetchall()
    for trigger, schema, table in triggers:
        connection.execute(
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger), sql.Identifier(schema, table))
        )
    functions = connection.execute(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'pgtrickle'::regnamespace AND p.pronargs = 0"
        " AND p.proname ~ ('^pgt_ivm_(before|after_[a-z]+)_fn_' || %s || '_[0-9]+$')",
        (str(pgt_id),),
    ).fetchall()
    for (function,) in functions:
        connection.execute(sql.SQL("DROP FUNCTION pgtrickle.{}()").format(sql.Identifier(function)))


def _capture(connection: Connection, relid: int) -> None:
    """A buffer and row triggers as 0.2 makes them, for a source that has none."""
    row = connection.execute(
        "SELECT n.nspname, c.relname, to_regclass(format('pgtrickle_changes.%%I', 'changes_' || c.oid)) IS NULL"
        " FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        (relid,),
    ).fetchone()
    if row is None or not row[2]:
        return
    source = sql.Identifier(row[0], row[1])
    buffer = sql.Identifier("pgtrickle_changes", f"changes_{relid}")
    columns = connection.execute(_BUFFERED_COLUMNS, (relid,)).fetchall()
    pairs = [
        # The type is the server's own text (format_type).
        sql.SQL(", {} {}, {} {}").format(sql.Identifier(new), sql.SQL(kind), sql.Identifier(old), sql.SQL(kind))
        for new, old, kind in columns
    ]
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (change_id bigserial, lsn pg_lsn NOT NULL, action character(1) NOT NULL, pk_hash bigint{})"
        ).format(buffer, sql.Composed(pairs))
    )
    connection.execute(
        sql.SQL("CREATE INDEX {} ON {} (lsn, pk_hash, change_id) INCLUDE (action)").format(
            sql.Identifier(f"idx_changes_{relid}_lsn_pk_cid"), buffer
        )
    )
    for name, body, event in (
        ("", sql.SQL("pgtrickle._row_source({}, {})"), sql.SQL("INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW")),
        ("truncate_", sql.SQL("pgtrickle._truncate_source({1})"), sql.SQL("TRUNCATE ON {} FOR EACH STATEMENT")),
    ):
        function = f"pg_trickle_cdc_{name}fn_{relid}"
        made = body.format(sql.Literal(relid), sql.Literal(f"changes_{relid}"))
        connection.execute(sql.SQL("SELECT pgtrickle._set_body({}, {}, false)").format(sql.Literal(function), made))
        connection.execute(
            sql.SQL("CREATE TRIGGER {} AFTER {} EXECUTE FUNCTION {}()").format(
                sql.Identifier(f"pg_trickle_cdc_{name}{relid}"),
                event.format(source),
                sql.Identifier("pgtrickle_changes", function),
            )
        )


def _track(connection: Connection, relid: int, pgt_id: int) -> None:
    """The stream table among those that read this source's buffer."""
    connection.execute(
        "INSERT INTO pgtrickle.pgt_change_tracking AS t (source_relid, slot_name, tracked_by_pgt_ids)"
        " VALUES (%(relid)s::oid, 'pg_trickle_cdc_' || %(relid)s::text, ARRAY[%(pgt_id)s::bigint])"
        " ON CONFLICT (source_relid) DO UPDATE"
        " SET tracked_by_pgt_ids = array_append(t.tracked_by_pgt_ids, %(pgt_id)s::bigint)"
        " WHERE t.tracked_by_pgt_ids IS NULL OR %(pgt_id)s::bigint <> ALL (t.tracked_by_pgt_ids)",
        {"relid": relid, "pgt_id": pgt_id},
    )


def convert(connection: Connection) -> tuple[str, ...]:
    """Make each IMMEDIATE stream table DIFFERENTIAL, in the caller's transaction.

    Its sources get a change buffer and row triggers, its own triggers go, and it is rebuilt at its first refresh
    (frontier NULL, ``needs_reinit``): so nothing that was written meanwhile is missed.

    Returns:
        Their names.
    """
    found = fetch_immediate(connection)
    if not found:
        return ()
    for pgt_id, _name in found:
        _drop_triggers(connection, pgt_id)
    capture_sources(connection, [pgt_id for pgt_id, _ in found])
    connection.execute(
        "UPDATE pgtrickle.pgt_stream_tables"
        " SET refresh_mode = 'DIFFERENTIAL', frontier = NULL, needs_reinit = true, updated_at = now()"
        " WHERE pgt_id = ANY (%s)",
        ([pgt_id for pgt_id, _ in found],),
    )
    return tuple(name for _, name in found)


def capture_sources(connection: Connection, pgt_ids: Sequence[int]) -> None:
    """Give the sources of these stream tables a buffer and triggers as 0.2 makes them, where they have none.

    In the caller's transaction, which locks each such source; the stream tables are noted as readers of the buffers.
    """
    files = migrations_path() / "sql"
    # The generator of 0.2's capture functions; it leaves again below. Its other functions speak of columns that
    # come later.
    connection.execute("SET LOCAL check_function_bodies = off")
    connection.execute((files / "0002_steps.sql").read_text(encoding="utf-8").encode())
    sources = connection.execute(
        "SELECT d.source_relid::bigint, d.pgt_id FROM pgtrickle.pgt_dependencies d"
        " JOIN pg_class c ON c.oid = d.source_relid"
        " WHERE d.pgt_id = ANY (%s) AND c.relkind IN ('r', 'p') ORDER BY d.pgt_id, d.source_relid",
        (list(pgt_ids),),
    ).fetchall()
    for relid, pgt_id in sources:
        _capture(connection, relid)
        _track(connection, relid, pgt_id)
    connection.execute((files / "0002_steps_end.sql").read_text(encoding="utf-8").encode())
    connection.execute("SET LOCAL check_function_bodies = on")
