"""What pg_trickle 0.2.0 makes for a source and for a stream table, composed here in SQL (baseline.md).

A demonstration and the tests need an installation as 0.2.0 left it, without its library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.types.json import Jsonb

from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_table, fetch_tables

Query = sql.SQL | sql.Composed


@dataclass(frozen=True)
class StreamTableSpec:
    """A stream table to make.

    Attributes:
        table: its storage table.
        select: the select list of its defining query, without ``SELECT``.
        rest: the defining query from ``FROM`` on.
        sources: what it reads; a stream table among them is told apart by itself.
        row_key: the output columns whose hash is the row id; empty for a single group or for rows without a key.
        is_aggregate: it groups, so it keeps ``__pgt_count``.
        refresh_mode: ``DIFFERENTIAL`` or ``FULL``.
        topk: ORDER BY text and limit, where only the first rows are kept.
    """

    table: TableName
    select: Query
    rest: Query
    sources: tuple[TableName, ...]
    row_key: tuple[str, ...] = ()
    is_aggregate: bool = False
    refresh_mode: str = "DIFFERENTIAL"
    topk: tuple[Query, int] | None = None

    @property
    def query(self) -> sql.Composed:
        """The defining query."""
        return sql.SQL("SELECT {} {}").format(self.select, self.rest)

    @property
    def contents_query(self) -> sql.Composed:
        """What a full refresh stores beside the row id: the query, counted where it groups, cut where it is a top-k."""
        counted = self.select + sql.SQL(", COUNT(*) AS __pgt_count") if self.is_aggregate else self.select
        query = sql.SQL("SELECT {} {}").format(counted, self.rest)
        if self.topk is None:
            return query
        return sql.SQL("{} ORDER BY {} LIMIT {}").format(query, self.topk[0], sql.Literal(self.topk[1]))


@dataclass(frozen=True)
class StreamTable:
    """A stream table as it was made: its id in the catalog and what it was made from."""

    pgt_id: int
    spec: StreamTableSpec


def _hash_expression(items: Sequence[sql.Composable]) -> sql.Composed:
    """The hash of one value, or of several, as 0.2.0's triggers and refreshes write it."""
    if len(items) == 1:
        return sql.SQL("pgtrickle.pg_trickle_hash({}::text)").format(items[0])
    texts = sql.SQL(", ").join([sql.SQL("{}::text").format(item) for item in items])
    return sql.SQL("pgtrickle.pg_trickle_hash_multi(ARRAY[{}])").format(texts)


def _row_id_expression(spec: StreamTableSpec) -> sql.Composable:
    if spec.row_key:
        return _hash_expression([sql.Identifier("sub", column) for column in spec.row_key])
    if spec.is_aggregate:
        return sql.SQL("pgtrickle.pg_trickle_hash('__singleton_group')")
    return sql.SQL("pgtrickle.pg_trickle_hash(row_to_json(sub)::text || '/' || row_number() OVER ()::text)")


def _images(prefix: str, source: SourceTable) -> list[sql.Identifier]:
    """``new_x`` or ``old_x`` of every captured column, uncut as 0.2.0 writes them: the server cuts them itself."""
    return [sql.Identifier(prefix + column.name) for column in source.captured]


def _capture_body(source: SourceTable) -> sql.Composed:
    """The row trigger's function: one buffer row a changed row, an UPDATE with both images."""
    names = [column.name for column in source.captured]
    hashed = source.key or tuple(names)
    comma = sql.SQL("")

    def record_hash(record: sql.SQL) -> sql.Composable:
        items = [sql.SQL("{}.{}").format(record, sql.Identifier(name)) for name in hashed]
        return _hash_expression(items) if items else sql.SQL("0")

    def listed(items: Sequence[sql.Composable]) -> sql.Composed:
        return comma.join([sql.SQL(", {}").format(item) for item in items])

    new, old = sql.SQL("NEW"), sql.SQL("OLD")
    new_values = listed([sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in names])
    old_values = listed([sql.SQL("OLD.{}").format(sql.Identifier(name)) for name in names])
    return sql.SQL("""
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pgtrickle_changes.changes_{oid} (lsn, action, pk_hash{new_names})
        VALUES (pg_current_wal_insert_lsn(), 'I', {new_hash}{new_values});
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO pgtrickle_changes.changes_{oid} (lsn, action, pk_hash{new_names}{old_names})
        VALUES (pg_current_wal_insert_lsn(), 'U', {new_hash}{new_values}{old_values});
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO pgtrickle_changes.changes_{oid} (lsn, action, pk_hash{old_names})
        VALUES (pg_current_wal_insert_lsn(), 'D', {old_hash}{old_values});
        RETURN OLD;
    END IF;
    RETURN NULL;
END;
""").format(
        oid=sql.Literal(source.relid),
        new_names=listed(_images("new_", source)),
        old_names=listed(_images("old_", source)),
        new_values=new_values,
        old_values=old_values,
        new_hash=record_hash(new),
        old_hash=record_hash(old),
    )


_TRUNCATE_BODY = sql.SQL("""
BEGIN
    INSERT INTO pgtrickle_changes.changes_{oid} (lsn, action) VALUES (pg_current_wal_lsn(), 'T');
    RETURN NULL;
END;
""")


def source_objects_query(conn: Connection, source: SourceTable) -> sql.Composed:
    """The statements that make a source's buffer, index, functions, triggers and its row in ``pgt_change_tracking``.

    Args:
        conn: for quoting only; nothing runs.
        source: the table to capture.
    """
    pairs = [
        sql.SQL(", {} {type}, {} {type}").format(
            sql.Identifier("new_" + column.name),
            sql.Identifier("old_" + column.name),
            # format_type has quoted it already: it is the server's own text for a type
            type=sql.SQL(column.type_name),
        )
        for column in source.captured
    ]
    oid = sql.Literal(source.relid)
    return sql.SQL("""
CREATE TABLE pgtrickle_changes.changes_{oid}
    (change_id bigserial, lsn pg_lsn NOT NULL, action char(1) NOT NULL, pk_hash bigint{pairs});
CREATE INDEX idx_changes_{oid}_lsn_pk_cid ON pgtrickle_changes.changes_{oid} (lsn, pk_hash, change_id) INCLUDE (action);
CREATE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_{oid}() RETURNS trigger LANGUAGE plpgsql AS {capture};
CREATE TRIGGER pg_trickle_cdc_{oid} AFTER INSERT OR DELETE OR UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_{oid}();
CREATE FUNCTION pgtrickle_changes.pg_trickle_cdc_truncate_fn_{oid}() RETURNS trigger LANGUAGE plpgsql AS {truncate};
CREATE TRIGGER pg_trickle_cdc_truncate_{oid} AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle_changes.pg_trickle_cdc_truncate_fn_{oid}();
INSERT INTO pgtrickle.pgt_change_tracking (source_relid, slot_name, tracked_by_pgt_ids)
    VALUES ({oid}, {slot}, '{{}}');
""").format(
        oid=oid,
        pairs=sql.SQL("").join(pairs),
        table=source.table.identifier,
        capture=sql.Literal(_capture_body(source).as_string(conn)),
        truncate=sql.Literal(_TRUNCATE_BODY.format(oid=oid).as_string(conn)),
        slot=sql.Literal(f"pg_trickle_cdc_{source.relid}"),
    )


def install_source(conn: Connection, table: TableName) -> SourceTable:
    """Capture a table's changes as 0.2.0 does; from here on each write leaves a row in its buffer.

    Args:
        conn: a database at revision 0001, in autocommit; its role owns the table.
        table: the table.

    Returns:
        The table as it was captured.

    Raises:
        BadInputError: there is no such table.
    """
    return install_sources(conn, [fetch_table(conn, table).relid])[0]


def install_sources(conn: Connection, relids: Sequence[int]) -> tuple[SourceTable, ...]:
    """The same for many tables by OID, a hundred to a transaction: 1,000 in one would hold too many locks."""
    sources = fetch_tables(conn, relids)
    for start in range(0, len(sources), 100):
        with conn.transaction():
            for source in sources[start : start + 100]:
                conn.execute(source_objects_query(conn, source))
    return sources


def column_snapshot(conn: Connection, relid: int) -> tuple[list[dict[str, object]], str]:
    """A source's columns as ``pgt_dependencies`` keeps them, and the SHA-256 that 0.2.0 makes of their compact JSON."""
    rows = conn.execute(
        "SELECT attname::text, attnum::int, atttypid::bigint FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [relid],
    ).fetchall()
    entries: list[dict[str, object]] = [
        {"name": name, "ordinal": number, "type_oid": oid} for name, number, oid in rows
    ]
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return entries, hashlib.sha256(text.encode()).hexdigest()


def _register(conn: Connection, spec: StreamTableSpec) -> int:
    relid = fetch_table(conn, spec.table).relid
    row = conn.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query, schedule,"
        " refresh_mode, functions_used, topk_limit, topk_order_by)"
        " VALUES (%s, %s, %s, %s, '1m', %s, '{}', %s, %s) RETURNING pgt_id",
        [
            relid,
            spec.table.name,
            spec.table.schema,
            spec.query.as_string(conn),
            spec.refresh_mode,
            spec.topk[1] if spec.topk else None,
            spec.topk[0].as_string(conn) if spec.topk else None,
        ],
    ).fetchone()
    assert row is not None  # noqa: S101 - INSERT .. RETURNING of one row
    return int(row[0])


def _depend(conn: Connection, pgt_id: int, source: SourceTable) -> None:
    """One row of ``pgt_dependencies``, and the stream table's id where its source is captured."""
    is_stream_table = conn.execute(
        "SELECT 1 FROM pgtrickle.pgt_stream_tables WHERE pgt_relid = %s", [source.relid]
    ).fetchone()
    if is_stream_table:
        conn.execute(
            "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source_relid, source_type)"
            " VALUES (%s, %s, 'STREAM_TABLE')",
            [pgt_id, source.relid],
        )
        return
    snapshot, fingerprint = column_snapshot(conn, source.relid)
    conn.execute(
        "INSERT INTO pgtrickle.pgt_dependencies"
        " (pgt_id, source_relid, source_type, columns_used, column_snapshot, schema_fingerprint)"
        " VALUES (%s, %s, 'TABLE', %s, %s, %s)",
        [pgt_id, source.relid, [column.name for column in source.captured], Jsonb(snapshot), fingerprint],
    )
    conn.execute(
        "UPDATE pgtrickle.pgt_change_tracking SET tracked_by_pgt_ids = array_append(tracked_by_pgt_ids, %s)"
        " WHERE source_relid = %s",
        [pgt_id, source.relid],
    )


def create_stream_table(conn: Connection, spec: StreamTableSpec) -> StreamTable:
    """Make the storage table and its rows in the catalog; its sources are captured already.

    As after 0.2.0's own creation the table is filled and ``ACTIVE``, and its frontier is NULL until the first refresh.

    Args:
        conn: a database at revision 0001, in autocommit.
        spec: what to make.
    """
    columns = sql.SQL(
        "CREATE TABLE {table} AS SELECT NULL::bigint AS __pgt_row_id, sub.* FROM ({query}) sub WITH NO DATA"
    )
    with conn.transaction():
        conn.execute(columns.format(table=spec.table.identifier, query=spec.contents_query))
        if spec.is_aggregate:
            conn.execute(
                sql.SQL(
                    "ALTER TABLE {} ALTER COLUMN __pgt_count SET NOT NULL, ALTER COLUMN __pgt_count SET DEFAULT 0"
                ).format(spec.table.identifier)
            )
        conn.execute(sql.SQL("CREATE UNIQUE INDEX ON {} (__pgt_row_id)").format(spec.table.identifier))
        if spec.is_aggregate and spec.row_key:
            group = sql.SQL(", ").join([sql.Identifier(column) for column in spec.row_key])
            conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(spec.table.identifier, group))
        pgt_id = _register(conn, spec)
        for table in spec.sources:
            _depend(conn, pgt_id, fetch_table(conn, table))
        made = StreamTable(pgt_id, spec)
        _fill(conn, made)
    return made


def _fill(conn: Connection, stream_table: StreamTable) -> None:
    spec = stream_table.spec
    conn.execute(sql.SQL("TRUNCATE {}").format(spec.table.identifier))
    conn.execute(
        sql.SQL("INSERT INTO {} SELECT {} AS __pgt_row_id, sub.* FROM ({}) sub").format(
            spec.table.identifier, _row_id_expression(spec), spec.contents_query
        )
    )
    conn.execute(
        "UPDATE pgtrickle.pgt_stream_tables SET data_timestamp = now(), is_populated = true, last_refresh_at = now(),"
        " consecutive_errors = 0, status = 'ACTIVE', needs_reinit = false, updated_at = now() WHERE pgt_id = %s",
        [stream_table.pgt_id],
    )


def refresh_full(conn: Connection, stream_table: StreamTable) -> None:
    """A full refresh as 0.2.0 leaves it: contents, and a frontier at the WAL's insert position for each source.

    Only right while nobody else writes, as 0.2.0's own.

    Args:
        conn: in autocommit.
        stream_table: as it was made.
    """
    with conn.transaction():
        _fill(conn, stream_table)
        conn.execute(
            """
UPDATE pgtrickle.pgt_stream_tables st
   SET frontier = jsonb_build_object(
         'sources', coalesce((
             SELECT jsonb_object_agg(d.source_relid::text, jsonb_build_object('lsn', w.lsn, 'snapshot_ts', w.stamp))
               FROM pgtrickle.pgt_dependencies d WHERE d.pgt_id = st.pgt_id AND d.source_type = 'TABLE'), '{}'),
         'data_timestamp', w.stamp)
  FROM (SELECT pg_current_wal_insert_lsn()::text AS lsn, floor(extract(epoch FROM now()))::bigint || 'Z' AS stamp) w
 WHERE st.pgt_id = %s
""",
            [stream_table.pgt_id],
        )
