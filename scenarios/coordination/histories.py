"""Nodes that get another history: a copy of a stopped node put back, a standby, another server under an address."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.postgres import Installation, Server
from harness.postgres.configuration import FILE_NAME
from harness.trickle import StreamTables
from harness.trickle.catalog import Refresh
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until

SUMS = "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer"
ROWS = "SELECT id, amount FROM orders WHERE amount % 2 = 0"
PLAIN = "SELECT kind, count(*) AS n FROM kinds GROUP BY kind"
#: Stream tables of a cluster: name, query, placement.
TABLES = (
    ("sums", SUMS, "local"),
    ("everywhere", SUMS, "reference"),
    ("spread", ROWS, "distributed"),
    ("kinds_kept", PLAIN, "distributed"),
)
NAMES = ("sums", "everywhere", "spread", "kinds_kept")


def build(coordinator: Server) -> None:
    """Sources on the workers and on the coordinator, and stream tables over them, filled."""
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int)")
        connection.execute("SELECT create_distributed_table('orders', 'id', shard_count => 4)")
        connection.execute("CREATE TABLE kinds (id int PRIMARY KEY, kind int)")
        connection.execute("INSERT INTO orders SELECT i, i % 7, i FROM generate_series(1, 200) i")
        connection.execute("INSERT INTO kinds SELECT i, i % 3 FROM generate_series(1, 50) i")
        for name, query, placement in TABLES:
            tables.create(name, query, None, "DIFFERENTIAL", placement)


def write(coordinator: Server, first: int) -> None:
    """Rows come, change and go on every shard."""
    coordinator.close()  # a session of before a worker was restarted fails once
    coordinator.sql("INSERT INTO orders SELECT i, i %% 5, i FROM generate_series(%s::int, %s::int + 40) i", [first] * 2)
    coordinator.sql("UPDATE orders SET amount = amount + 1 WHERE id % 3 = 0")
    coordinator.sql("DELETE FROM orders WHERE id % 17 = 5")
    coordinator.sql("INSERT INTO kinds SELECT i, i %% 4 FROM generate_series(%s::int, %s::int + 9) i", [first] * 2)


def refresh_all(coordinator: Server, *, names: tuple[str, ...] = NAMES) -> dict[str, Refresh]:
    """Refresh each once, by a session of its own, and compare it with its query."""
    found = {}
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        for name in names:
            found[name] = tables.refresh(name)
            assert_equal(connection, name)
    return found


def actions(found: dict[str, Refresh]) -> dict[str, str]:
    """What each refresh did."""
    return {name: done.action for name, done in found.items()}


def _copy(source: Path, target: Path) -> None:
    # With owners and modes: the server's own user has to read it.
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)  # noqa: S607


def set_aside(server: Server, place: Path) -> None:
    """Stop a server, copy its data, start it again."""
    server.stop()
    _copy(server.data_dir, place)
    server.start()


def _empty(data: Path) -> None:
    for path in list(data.iterdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def put_back(server: Server, place: Path) -> None:
    """A server gets the data of a copy, and is started with it."""
    if server.is_running:
        server.stop()
    _empty(server.data_dir)
    _copy(place, server.data_dir)
    server.start()


@contextmanager
def replica(primary: Server, installation: Installation) -> Iterator[Server]:
    """A streaming standby of a server, running, that reaches other nodes as the server does."""
    standby = Server.create(installation, name="standby", password=primary.password, settings=dict(primary._settings))
    try:
        data = standby.data_dir
        own = (data / FILE_NAME).read_bytes()
        _empty(data)
        primary.run("pg_basebackup", f"--pgdata={data}", "--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        (data / FILE_NAME).write_bytes(own)
        if (primary.root / ".pgpass").exists():
            subprocess.run(["cp", "-a", str(primary.root / ".pgpass"), str(standby.root)], check=True)  # noqa: S607
        standby._template_password = ""
        standby.start()
        yield standby
    finally:
        standby.destroy()


def wait_until_replayed(primary: Server, standby: Server) -> None:
    """Until a standby has all that its primary has written."""
    position = primary.value("SELECT pg_current_wal_insert_lsn()::text")
    wait_until(
        "the standby to have all",
        lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]),
        deadline_s=20,
    )


def stop_receiving(standby: Server) -> None:
    """A standby gets nothing more of what its primary writes."""
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
    standby.sql("SELECT pg_reload_conf()")
    wait_until(
        "the standby to receive no more",
        lambda: not standby.rows("SELECT FROM pg_stat_wal_receiver"),
        deadline_s=20,
    )


def promote(standby: Server) -> None:
    """A standby becomes a primary."""
    standby.sql("SELECT pg_promote()")
    wait_until("the standby to be writable", lambda: not standby.value("SELECT pg_is_in_recovery()"), deadline_s=20)


def move_to(coordinator: Server, group: int, server: Server) -> None:
    """Citus finds a group at another server from here on."""
    coordinator.sql(
        "SELECT citus_update_node(n.nodeid, %s::text, %s::int) FROM pg_dist_node n WHERE n.groupid = %s",
        [server.host, server.port, group],
    )
