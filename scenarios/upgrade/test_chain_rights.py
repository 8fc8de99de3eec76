"""Rights: what a non-superuser may do, nothing for PUBLIC, and capture that trusts nobody's search_path."""

from __future__ import annotations

import secrets

import psycopg
import pytest
from psycopg import sql

from harness.chain import runner
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.errors import PreflightError
from harness.postgres import DsnNode, Node, Server
from scenarios.upgrade.small_installation import SmallInstallation, build_small_installation

# 0001's are 0.2's own: its capture functions run as the writer, who has to be able to call them.
BASELINES_OWN = ["_xxh64", "pg_trickle_hash", "pg_trickle_hash_multi", "parse_duration_seconds"]
# Once, after a dump was restored elsewhere: whoever comes first, a role that may only look too, would read a catalog
# with another database's OIDs.
FOR_ALL = ["adopt_database"]


@pytest.fixture
def installed(database: Node) -> SmallInstallation:
    return build_small_installation(database)


@pytest.fixture
def role(server: Server) -> str:
    name = f"role_{secrets.token_hex(4)}"
    server.create_role(name)
    return name


def test_a_plain_owner_goes_to_0005_and_back(server: Server, role: str) -> None:
    dbname = f"owned_{secrets.token_hex(4)}"
    server.create_database(dbname)
    server.sql(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(dbname), sql.Identifier(role)))
    owner = DsnNode("owner", server.dsn(dbname, user=role))
    try:
        build_small_installation(owner)
        runner.upgrade(owner.dsn(), "0005")
        with owner.connect() as conn:
            before = snapshot_catalog(conn)
            with pytest.raises(PreflightError) as refused:
                runner.upgrade(owner.dsn())
            assert [finding.code for finding in refused.value.findings] == ["needs_superuser"]
            assert compare_catalogs(before, snapshot_catalog(conn)) == ()
            conn.execute("INSERT INTO public.orders VALUES (5000, 1, 1)")
        runner.downgrade(owner.dsn(), "0001")
        owner.sql("INSERT INTO public.orders VALUES (5001, 1, 1)")
    finally:
        owner.close()
        server.drop_database(dbname)


def test_functions_fix_their_search_path_and_give_nothing_to_public(
    database: Node, installed: SmallInstallation
) -> None:
    runner.upgrade(database.dsn())
    loose = database.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p"
        " WHERE p.pronamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace)"
        " AND NOT coalesce(p.proconfig::text LIKE '%%search_path=pg_catalog, pg_temp%%', false)"
    )
    assert loose == []
    public = database.rows(
        "SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " WHERE p.pronamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace) AND a.grantee = 0"
        " ORDER BY 1"
    )
    assert {name for (name,) in public} == {*BASELINES_OWN, *FOR_ALL}
    tables = database.rows(
        "SELECT c.oid::regclass::text FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a"
        " WHERE c.relnamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace)"
        " AND c.relkind IN ('r', 'v') AND a.grantee = 0"
    )
    assert tables == []


def test_a_writer_with_no_right_on_the_buffer_is_captured(
    database: Node, installed: SmallInstallation, server: Server, role: str
) -> None:
    """And neither row security nor the writer's own operators and functions come into it."""
    runner.upgrade(database.dsn())
    name = sql.Identifier(role)
    with database.connect() as conn:
        conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO {}").format(name))
        conn.execute(sql.SQL("CREATE SCHEMA trap AUTHORIZATION {}").format(name))
        conn.execute("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY")
        conn.execute(sql.SQL("CREATE POLICY own ON public.orders TO {} USING (cust < 100)").format(name))
        before = conn.execute("SELECT count(*) FROM pgtrickle_changes.changes_d6ad704b2cddddcd").fetchone()
    writer = DsnNode(
        "writer",
        psycopg.conninfo.make_conninfo(server.dsn(user=role), dbname=database.value("SELECT current_database()")),
    )
    with writer.connect() as conn:
        conn.execute(
            "CREATE FUNCTION trap.pg_current_wal_insert_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;"
            "CREATE FUNCTION trap.differ(text, text) RETURNS boolean LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;"
            "CREATE OPERATOR trap.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.differ)"
        )
        conn.execute("SET search_path = trap, pg_catalog")
        conn.execute("INSERT INTO public.orders VALUES (7000, 1, 1), (7001, 2, 2)")
        conn.execute("UPDATE public.orders SET amt = 9 WHERE id >= 7000")
        conn.execute("DELETE FROM public.orders WHERE id = 7001")
        for forbidden in (
            "SELECT count(*) FROM pgtrickle_changes.changes_d6ad704b2cddddcd",
            "SELECT pgtrickle.install_capture('public.orders'::regclass)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden.encode())
        conn.execute("CREATE TABLE trap.mine (id int, cust int, amt numeric)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(
                "CREATE TRIGGER forged AFTER INSERT ON trap.mine REFERENCING NEW TABLE AS __pgt_new FOR EACH STATEMENT"
                " EXECUTE FUNCTION pgtrickle_changes.pg_trickle_cdc_fn_d6ad704b2cddddcd()"
            )
    writer.close()
    after = database.row("SELECT count(*) FROM pgtrickle_changes.changes_d6ad704b2cddddcd")
    assert before is not None
    assert after[0] - before[0] == 2 + 4 + 1
