"""DDL on a captured source at head: capture follows in the same transaction, and no write or DDL fails for it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.postgres import Node
from harness.rehearsal.baseline_objects import install_source
from harness.rehearsal.tables import TableName
from harness.trickle.names import stable_name
from scenarios.upgrade.small_installation import SmallInstallation, build_small_installation, write_changes

Connection = psycopg.Connection[TupleRow]


@pytest.fixture
def installed(database: Node) -> SmallInstallation:
    found = build_small_installation(database)
    runner.upgrade(database.dsn())
    return found


def _buffer(conn: Connection, table: str) -> str:
    row = conn.execute(
        "SELECT 'changes_' || source_stable_name FROM pgtrickle.pgt_change_tracking WHERE source_relid = %s::regclass",
        (table,),
    ).fetchone()
    assert row is not None, f"{table} is not tracked"
    return str(row[0])


def _last_row(conn: Connection, table: str) -> dict[str, object]:
    """The last captured row of a source, without what is NULL."""
    row = conn.execute(
        psycopg.sql.SQL(
            "SELECT to_jsonb(b) - 'change_id' - 'lsn' - 'xid' FROM pgtrickle_changes.{} b ORDER BY lsn DESC LIMIT 1"
        ).format(psycopg.sql.Identifier(_buffer(conn, table)))
    ).fetchone()
    assert row is not None
    return {name: value for name, value in row[0].items() if value is not None}


def _needs_reinit(conn: Connection) -> bool:
    row = conn.execute("SELECT needs_reinit FROM pgtrickle.pgt_stream_tables").fetchone()
    assert row is not None
    return bool(row[0])


def test_added_renamed_and_dropped_columns_are_followed(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("ALTER TABLE public.orders ADD COLUMN \"NEW.col\" text DEFAULT 'd', ADD COLUMN tg_op int")
        conn.execute("INSERT INTO public.orders (id, amt, tg_op) VALUES (9001, 1, 7)")
        assert _last_row(conn, "public.orders") == {
            "action": "I",
            "new_id": 9001,
            "new_amt": 1,
            "new_NEW.col": "d",
            "new_tg_op": 7,
        }
        conn.execute("ALTER TABLE public.orders RENAME COLUMN amt TO amount")
        assert _last_row(conn, "public.orders")["new_amount"] == 1, "a captured value moves with its column"
        conn.execute("ALTER TABLE public.orders DROP COLUMN tg_op")
        conn.execute("DELETE FROM public.orders WHERE id = 9001")
        assert _last_row(conn, "public.orders") == {
            "action": "D",
            "old_id": 9001,
            "old_amount": 1,
            "old_NEW.col": "d",
        }
        assert not _needs_reinit(conn)


def test_ddl_and_write_in_one_transaction(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn, conn.transaction():
        conn.execute("ALTER TABLE public.orders ADD COLUMN extra int")
        conn.execute("INSERT INTO public.orders (id, extra) VALUES (9002, 5)")
        conn.execute("ALTER TABLE public.orders RENAME COLUMN extra TO more")
        conn.execute("UPDATE public.orders SET more = 6 WHERE id = 9002")
        assert _last_row(conn, "public.orders") == {"action": "I", "new_id": 9002, "new_more": 6}


def test_a_rolled_back_change_leaves_capture_as_it_was(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        with conn.transaction(force_rollback=True):
            conn.execute("ALTER TABLE public.orders DROP COLUMN amt CASCADE")
        conn.execute("INSERT INTO public.orders (id, amt) VALUES (9003, 3)")
        assert _last_row(conn, "public.orders") == {"action": "I", "new_id": 9003, "new_amt": 3}


def test_a_changed_type_asks_for_a_rebuild(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("ALTER TABLE public.orders ALTER COLUMN amt TYPE text USING 'v' || amt")
        conn.execute("INSERT INTO public.orders (id, amt) VALUES (9004, 'four')")
        assert _last_row(conn, "public.orders") == {"action": "I", "new_id": 9004, "new_amt": "four"}
        assert _needs_reinit(conn)


@pytest.mark.parametrize(
    ("ddl", "now"),
    [
        ("ALTER TABLE public.orders RENAME TO \"Or.ders 'x'\"", "public.\"Or.ders 'x'\""),
        ('CREATE SCHEMA "Ärger"; ALTER TABLE public.orders SET SCHEMA "Ärger"', '"Ärger".orders'),
        ("CREATE SCHEMA a; ALTER TABLE public.orders SET SCHEMA a; ALTER SCHEMA a RENAME TO b", "b.orders"),
    ],
    ids=["table", "schema", "name of the schema"],
)
def test_a_new_name_takes_buffer_and_frontier_along(
    database: Node, installed: SmallInstallation, ddl: str, now: str
) -> None:
    with database.connect() as conn:
        before = conn.execute("SELECT 'pgtrickle_changes.changes_d6ad704b2cddddcd'::regclass::oid").fetchone()
        conn.execute(ddl.encode())
        stable = _buffer(conn, now).removeprefix("changes_")
        assert stable != "d6ad704b2cddddcd"
        assert (
            conn.execute("SELECT to_regclass('pgtrickle_changes.changes_' || %s)::oid", (stable,)).fetchone() == before
        )
        frontier = conn.execute(
            "SELECT frontier -> 'sources' ? %s, d.source_stable_name = %s FROM pgtrickle.pgt_stream_tables"
            " JOIN pgtrickle.pgt_dependencies d USING (pgt_id)",
            (stable, stable),
        ).fetchone()
        assert frontier == (True, True)
        conn.execute(b"INSERT INTO " + now.encode() + b" (id, amt) VALUES (9005, 5)")
        assert _last_row(conn, now) == {"action": "I", "new_id": 9005, "new_amt": 5}
    # And the way down finds it under its new name.
    runner.downgrade(database.dsn(), "0001")
    runner.upgrade(database.dsn())


def test_partitions_come_and_go(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE public.parts_3 PARTITION OF public.parts FOR VALUES FROM ('2027-01-01') TO (MAXVALUE)"
        )
        conn.execute("INSERT INTO public.parts_3 VALUES (9006, '2027-02-02')")
        assert _last_row(conn, "public.parts") == {"action": "I", "new_id": 9006, "new_at": "2027-02-02"}
        conn.execute("ALTER TABLE public.parts DETACH PARTITION public.parts_3")
        conn.execute("INSERT INTO public.parts_3 VALUES (9007, '2027-02-02')")
        assert _last_row(conn, "public.parts")["new_id"] == 9006, "a detached partition is captured no longer"
        conn.execute(
            "ALTER TABLE public.parts ATTACH PARTITION public.parts_3 FOR VALUES FROM ('2027-01-01') TO (MAXVALUE)"
        )
        conn.execute("INSERT INTO public.parts VALUES (9008, '2027-02-03')")
        assert _last_row(conn, "public.parts")["new_id"] == 9008


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE public.parts DETACH PARTITION public.parts_2",
        "DROP TABLE public.parts_2",
        """CREATE TABLE public.other (id int NOT NULL, at date NOT NULL);
        INSERT INTO public.other VALUES (1, '2028-01-01');
        ALTER TABLE public.parts ATTACH PARTITION public.other FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')""",
    ],
    ids=["detach", "drop", "attach"],
)
def test_rows_that_a_partition_brings_or_takes_ask_for_a_rebuild(
    database: Node, installed: SmallInstallation, ddl: str
) -> None:
    with database.connect() as conn:
        conn.execute(
            "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source_relid, source_type, source_stable_name)"
            " SELECT %s, source_relid, 'TABLE', source_stable_name FROM pgtrickle.pgt_change_tracking"
            " WHERE source_relid = 'public.parts'::regclass",
            (installed.pgt_id,),
        )
        assert not _needs_reinit(conn)
        conn.execute(ddl.encode())
        assert _needs_reinit(conn)


def test_a_dropped_source_takes_its_capture_along(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("DROP TABLE public.orders")
        assert conn.execute("SELECT to_regclass('pgtrickle_changes.changes_d6ad704b2cddddcd')").fetchone() == (None,)
        assert conn.execute("SELECT status, needs_reinit FROM pgtrickle.pgt_stream_tables").fetchone() == (
            "ERROR",
            True,
        )
        assert conn.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (2,)


def test_a_dropped_stream_table_is_forgotten(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("DROP TABLE public.by_cust")
        assert conn.execute("SELECT count(*) FROM pgtrickle.pgt_stream_tables").fetchone() == (0,)
        assert conn.execute("SELECT to_regclass('pgtrickle_changes.changes_d6ad704b2cddddcd')").fetchone() == (None,)
        assert conn.execute("SELECT pgtrickle.remove_capture('public.orders'::regclass)").fetchone() == (False,)
        conn.execute("INSERT INTO public.orders (id) VALUES (9009)")


def test_ddl_that_capture_cannot_follow_succeeds_and_says_so(database: Node, installed: SmallInstallation) -> None:
    """Two columns whose buffer columns would have one name: 63 bytes cut to 59 behind the prefix."""
    with database.connect() as conn:
        warnings: list[str] = []
        conn.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.message_primary or ""))
        conn.execute(f"ALTER TABLE public.orders ADD COLUMN {'c' * 60}1 int, ADD COLUMN {'c' * 60}2 int".encode())
        assert any("no longer captures" in warning for warning in warnings)
        conn.execute("INSERT INTO public.orders (id) VALUES (9010)")
        assert conn.execute("SELECT status, needs_reinit FROM pgtrickle.pgt_stream_tables").fetchone() == (
            "ERROR",
            True,
        )


def test_other_tables_are_left_alone(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE public.free (a int); ALTER TABLE public.free ADD COLUMN b int; DROP TABLE public.free"
        )
        write_changes(conn)


def test_install_capture_refuses_what_is_no_table(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("CREATE VIEW public.look AS SELECT 1 AS one")
        with pytest.raises(psycopg.errors.WrongObjectType, match="look"):
            conn.execute("SELECT pgtrickle.install_capture('public.look'::regclass)")
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT pgtrickle.install_capture(1)")
        with pytest.raises(psycopg.errors.ObjectInUse, match="by_cust"):
            conn.execute("SELECT pgtrickle.remove_capture('public.orders'::regclass)")


def test_install_capture_and_go_down_with_it(database: Node, installed: SmallInstallation) -> None:
    """A source that was never named by OID gets 0.2's objects on the way down, and captures there."""
    with database.connect() as conn:
        conn.execute('CREATE TABLE public.late ("K" int, v text, PRIMARY KEY ("K", v))')
        conn.execute("SELECT pgtrickle.install_capture('public.late'::regclass)")
        conn.execute("INSERT INTO public.late VALUES (1, 'a'); UPDATE public.late SET v = 'b'")
        runner.downgrade(database.dsn(), "0001")
        conn.execute("UPDATE public.late SET v = 'c'")
        row = conn.execute("SELECT 'public.late'::regclass::oid::text").fetchone()
        assert row is not None
        found = conn.execute(
            psycopg.sql.SQL(
                'SELECT action, "old_K", old_v, "new_K", new_v,'
                " pk_hash = pgtrickle.pg_trickle_hash_multi("
                'ARRAY[coalesce("new_K", "old_K")::text, coalesce(new_v, old_v)])'
                " FROM pgtrickle_changes.{} ORDER BY change_id"
            ).format(psycopg.sql.Identifier(f"changes_{row[0]}"))
        ).fetchall()
        assert found == [
            ("I", None, None, 1, "a", True),
            ("D", 1, "a", None, None, True),
            ("I", None, None, 1, "b", True),
            ("U", 1, "b", 1, "c", True),
        ]


def test_index_of_captured_rows_goes_on_the_way_up_and_comes_back(database: Node, installed: SmallInstallation) -> None:
    """0.2's refresh reads by it; here each captured row would pay for it and nobody read by it."""
    definitions = (
        "SELECT indexdef FROM pg_catalog.pg_indexes"
        " WHERE schemaname = 'pgtrickle_changes' AND indexname ~ '_lsn_pk_cid$' ORDER BY 1"
    )
    with database.connect() as conn:
        assert conn.execute(definitions).fetchall() == []
        runner.downgrade(database.dsn(), "0005")
        back = [row[0] for row in conn.execute(definitions)]
        assert len(back) == len(installed.sources)
        assert all(one.endswith("(lsn, pk_hash, change_id) INCLUDE (action)") for one in back)
        runner.upgrade(database.dsn())
        assert conn.execute(definitions).fetchall() == []


def _old(conn: Connection) -> psycopg.sql.Identifier:
    """The buffer of ``late`` as 0.2 names it."""
    row = conn.execute("SELECT 'public.late'::regclass::oid::text").fetchone()
    assert row is not None
    return psycopg.sql.Identifier("pgtrickle_changes", f"changes_{row[0]}")


def test_rows_captured_without_a_number_get_one_on_the_way_down(database: Node, installed: SmallInstallation) -> None:
    """In the order of their changes, wherever they lie in the buffer; those that come after it go on counting."""
    with database.connect() as conn:
        conn.execute("CREATE TABLE public.late (k int PRIMARY KEY, v int)")
        conn.execute("SELECT pgtrickle.install_capture('public.late'::regclass)")
        conn.execute("CREATE ROLE other_owner_of_numbers")
        buffer = psycopg.sql.Identifier("pgtrickle_changes", f"changes_{stable_name('public', 'late')}")
        conn.execute("INSERT INTO public.late SELECT i, 0 FROM generate_series(1, 2000) i")
        numbers = psycopg.sql.SQL("SELECT count(*), count(change_id) FROM {}").format(buffer)
        assert conn.execute(numbers).fetchone() == (2000, 0), "drawing one costs a writer more than a tenth"
        # Free space at the buffer's beginning: what is captured now lies before what was captured earlier.
        conn.execute(psycopg.sql.SQL("DELETE FROM {} WHERE new_k < 1900").format(buffer))
        conn.execute(psycopg.sql.SQL("VACUUM {}").format(buffer))
        for value in (1, 2, 3):
            conn.execute("UPDATE public.late SET v = %s WHERE k = 1950", [value])
        physical = [row[0] for row in conn.execute(psycopg.sql.SQL("SELECT lsn FROM {}").format(buffer))]
        assert physical != sorted(physical)
        # Whoever made the stream table owns the buffer, and somebody else may run the chain.
        conn.execute(psycopg.sql.SQL("ALTER TABLE {} OWNER TO other_owner_of_numbers").format(buffer))
        runner.downgrade(database.dsn(), "0001")
        conn.execute(psycopg.sql.SQL("ALTER TABLE {} OWNER TO CURRENT_USER").format(_old(conn)))
        conn.execute("DROP ROLE other_owner_of_numbers")
        conn.execute("UPDATE public.late SET v = 4 WHERE k = 1950")
        old = _old(conn)
        in_order = psycopg.sql.SQL(
            "SELECT array_agg(lsn ORDER BY change_id) = array_agg(lsn ORDER BY lsn), min(change_id), max(change_id),"
            " count(DISTINCT change_id), count(*) FROM {}"
        )
        assert conn.execute(in_order.format(old)).fetchone() == (True, 1, 108, 108, 108)
        images = psycopg.sql.SQL("SELECT old_v, new_v FROM {} WHERE 1950 IN (old_k, new_k) ORDER BY change_id")
        changed = [(None, 0), (0, None), (None, 1), (1, None), (None, 2), (2, None), (None, 3), (3, 4)]
        assert conn.execute(images.format(old)).fetchall() == changed
        runner.upgrade(database.dsn())
        conn.execute("UPDATE public.late SET v = 5 WHERE k = 1950")
        assert conn.execute(in_order.format(buffer)).fetchone() == (True, 1, 110, 110, 110), "it keeps them"


def _net(conn: Connection, table: str) -> list[tuple[object, ...]]:
    """What the captured rows of a table sum up to, without what cancels out."""
    return conn.execute(
        psycopg.sql.SQL(
            "SELECT coalesce(new_id, old_id), coalesce(new_at, old_at)::text FROM pgtrickle_changes.{} GROUP BY 1, 2"
            " HAVING sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) <> 0 ORDER BY 1, 2"
        ).format(psycopg.sql.Identifier(_buffer(conn, table)))
    ).fetchall()


def test_a_source_that_is_a_partition_is_captured_through_its_parent(database: Node) -> None:
    """Rows come to it by statements on its parent, which is captured too: each buffer has each of its rows once."""
    build_small_installation(database)
    part = TableName("public", "parts_2")
    with database.connect() as conn:
        install_source(conn, part)
        runner.upgrade(database.dsn())
        for table in ("public.parts", "public.parts_2"):
            conn.execute(
                psycopg.sql.SQL("TRUNCATE pgtrickle_changes.{}").format(psycopg.sql.Identifier(_buffer(conn, table)))
            )
        conn.execute("INSERT INTO public.parts VALUES (8001, '2026-02-01'), (8002, '2026-09-01')")
        conn.execute("INSERT INTO public.parts_2 VALUES (8003, '2026-09-02')")
        conn.execute("UPDATE public.parts SET at = '2026-10-01' WHERE id IN (8001, 8002)")
        assert _net(conn, "public.parts_2") == [(8001, "2026-10-01"), (8002, "2026-10-01"), (8003, "2026-09-02")]
        assert _net(conn, "public.parts") == _net(conn, "public.parts_2")
        conn.execute("UPDATE public.parts SET at = '2026-02-02' WHERE id = 8001")
        conn.execute("DELETE FROM public.parts WHERE id = 8003")
        assert _net(conn, "public.parts_2") == [(8002, "2026-10-01")]
        before = snapshot_catalog(conn)
        runner.downgrade(database.dsn(), "0001")
        conn.execute("INSERT INTO public.parts VALUES (8004, '2026-09-04')")
        runner.upgrade(database.dsn())
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()
        assert _net(conn, "public.parts_2") == [(8002, "2026-10-01"), (8004, "2026-09-04")]


def test_a_source_that_becomes_a_partition_goes_on_being_captured(database: Node, installed: SmallInstallation) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE public.alone (id int NOT NULL, at date NOT NULL)")
        conn.execute("SELECT pgtrickle.install_capture('public.alone'::regclass)")
        conn.execute(
            "ALTER TABLE public.parts ATTACH PARTITION public.alone FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)"
        )
        conn.execute("INSERT INTO public.parts VALUES (8010, '2031-01-01')")
        assert _net(conn, "public.alone") == [(8010, "2031-01-01")]
        conn.execute("ALTER TABLE public.parts DETACH PARTITION public.alone")
        conn.execute("INSERT INTO public.alone VALUES (8011, '2031-01-02')")
        assert _net(conn, "public.alone") == [(8010, "2031-01-01"), (8011, "2031-01-02")]
