"""Faults of what a node has only so much of: connections, room on a disk."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from harness.errors import BadInputError, EnvironmentMissingError
from harness.faults.undoing import insist, start
from harness.postgres.identity import child_environment, server_user
from harness.postgres.server import Server
from harness.postgres.server_node import ServerNode

# Without it Citus hides shards from pg_class; to a plain server it means nothing.
_SHOW_SHARDS = "SET citus.show_shards_for_app_name_prefixes = '*'"
# Mounts in its own namespace, does as it is told, and goes with its stdin: nothing of it can outlive the process that
# holds that. Who is root outside is nobody inside, and may write nothing there: so the helper fills and empties.
_HOLDER = """
mount -t tmpfs -o size="$1",mode=700 small_disk /mnt && mkdir -m 700 /mnt/space && echo done || exit
while read -r word; do
  case $word in
    fill) head -c "$1" /dev/zero >> /mnt/ballast 2> /dev/null ;;
    empty) : > /mnt/ballast ;;
  esac
  echo done
done"""


@contextmanager
def connections_used_up(node: ServerNode, dbname: str, *, leave: int = 0) -> Iterator[int]:
    """Every place for a session is taken, those for superusers too: whoever comes is told 53300.

    Runs on that node; sessions that are there go on. A coordinator in this state is not reached by anybody new; a
    worker is still reached over the connections that Citus keeps.
    Leaves: nothing; the sessions are closed, and a node that died meanwhile is started.

    Args:
        node: a server of our own.
        dbname: where the sessions are idle.
        leave: so many places stay free.

    Yields:
        How many sessions it took.
    """
    taken: list[psycopg.Connection[tuple[object, ...]]] = []
    try:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.append(node.connect(dbname))
        for connection in taken[: min(leave, len(taken))]:
            connection.close()
        yield len(taken) - leave
    finally:
        for connection in taken:
            connection.close()
        start(node)
        # A session's place is free only when its process is gone.
        insist(f"{node.name} to have free places", lambda: node.rows("SELECT 1"))


class Disk:
    """A disk that holds only so much, made by `small_disk`.

    Attributes:
        place: an empty directory on it, of the servers' user.
    """

    def __init__(self, holder: subprocess.Popen[bytes]) -> None:
        self._holder = holder
        self.place = Path(f"/proc/{holder.pid}/root/mnt/space")

    def fill(self) -> None:
        """Write to a file of its own until there is no room."""
        self._tell(b"fill\n")

    def empty(self) -> None:
        """Remove what `fill` wrote."""
        self._tell(b"empty\n")

    def _tell(self, word: bytes) -> None:
        if self._holder.stdin is None or self._holder.stdout is None or self._holder.poll() is not None:
            raise EnvironmentMissingError("the small disk is gone", hint="its helper was killed")
        self._holder.stdin.write(word)
        self._holder.stdin.flush()
        self._holder.stdout.readline()


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Disk]:
    """A directory on a disk of its own that holds only so much, for servers of our own; gone at the end.

    A tmpfs in a mount namespace of a helper process, reached by ``/proc/<its id>/root``: the servers' user makes it by
    itself in a user namespace, so it takes neither root nor a mount that others see, and it goes with the helper even
    when this process is killed. Seen to work as root and as an ordinary user, Linux 6.

    Args:
        size_bytes: of the disk.

    Raises:
        EnvironmentMissingError: this system lets nobody have such namespaces (or is no Linux).
    """
    program = shutil.which("unshare")
    if program is None or not Path("/proc/self/root").exists():
        raise EnvironmentMissingError("no small disk can be made here", hint="it takes Linux and the program unshare")
    user = server_user()
    with subprocess.Popen(
        [program, "--user", "--map-root-user", "--mount", "sh", "-c", _HOLDER, "sh", str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=child_environment(Path("/")),
        start_new_session=True,  # Ctrl-C is for us: relations are moved off the disk before it goes
        user=user.uid if user.is_dropped_to else None,
        group=user.gid if user.is_dropped_to else None,
        extra_groups=[] if user.is_dropped_to else None,
    ) as holder:
        try:
            said = holder.stdout.readline() if holder.stdout else b""
            if said != b"done\n":
                complaint = holder.stderr.read().decode(errors="replace").strip() if holder.stderr else ""
                raise EnvironmentMissingError(
                    f"no small disk can be made here: {complaint}",
                    hint="it takes user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)",
                )
            yield Disk(holder)
        finally:
            holder.kill()


@contextmanager
def disk_full(
    node: Server, dbname: str, relations: Sequence[sql.Composable], *, size_bytes: int = 4 << 20
) -> Iterator[Disk]:
    """Relations of a node lie on a disk that is full: what needs a new page of them fails with 53100 (disk_full).

    Runs on that node, in the database: a tablespace on a `small_disk`, the relations moved there, the rest of the disk
    filled. WAL and everything else stay where they are, so no node panics.
    Leaves: the relations where they were, no tablespace, no disk; a node that died meanwhile is started for that. What
    was written during the fault stays.

    Args:
        node: a local server of our own.
        dbname: where.
        relations: names of tables or indexes; on a worker those of shards. They must have room on the disk at first.
        size_bytes: of the disk.

    Yields:
        The disk: when it is told to be empty, there is room.

    Raises:
        EnvironmentMissingError: see `small_disk`.
        psycopg.Error: the relations do not fit.
    """
    space = sql.Identifier(f"small_disk_{node.port}")
    with _moving(node, dbname) as connection:
        former = [(name, _tablespace(connection, name)) for name in relations]
    with small_disk(size_bytes) as disk:

        def put_back() -> None:
            start(node)
            disk.empty()
            with _moving(node, dbname) as connection:
                for name, place in former:
                    connection.execute(sql.SQL("ALTER TABLE {} SET TABLESPACE {}").format(name, sql.Identifier(place)))
            # A database's tablespaces are seen as empty after what was in them is gone for good.
            node.sql("CHECKPOINT", dbname=dbname)
            node.sql(sql.SQL("DROP TABLESPACE IF EXISTS {}").format(space), dbname=dbname)

        try:
            node.sql(
                sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(space, sql.Literal(str(disk.place))),
                dbname=dbname,
            )
            with _moving(node, dbname) as connection:
                for name in relations:
                    connection.execute(sql.SQL("ALTER TABLE {} SET TABLESPACE {}").format(name, space))
            disk.fill()
            yield disk
        finally:
            insist(f"the relations of {node.name} to be where they were", put_back)


def fetch_buffers(node: ServerNode, dbname: str, *, has_citus: bool) -> list[tuple[str, str]]:
    """The change buffers, or shards of such, that hold rows on a node: schema and name; changes nothing.

    Args:
        node: which node.
        dbname: where.
        has_citus: whether some may be shards: Citus hides those from pg_class unless it is told not to.
    """
    query = (
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname = 'pgtrickle_changes' AND c.relname LIKE 'changes\\_%' ORDER BY 1, 2"
    )
    with contextlib.closing(node.connect(dbname, deadline_s=30)) as connection:
        if not has_citus:
            return [(str(schema), str(name)) for schema, name in connection.execute(query)]
        connection.execute(_SHOW_SHARDS)
        # The table that a distributed buffer's shards are of holds no rows itself.
        shells = connection.execute("SELECT logicalrelid::regclass::text FROM pg_catalog.pg_dist_partition").fetchall()
        return [
            (str(schema), str(name))
            for schema, name in connection.execute(query)
            if (f"{schema}.{name}",) not in shells
        ]


@contextmanager
def _moving(node: Server, dbname: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session whose DDL is of no concern to anybody: a table's place is changed, and not the table."""
    with contextlib.closing(node.connect(dbname, deadline_s=30)) as connection:
        connection.execute("SET event_triggers = off")
        connection.execute("SET lock_timeout = '5s'")
        connection.execute(_SHOW_SHARDS)
        yield connection


def _tablespace(connection: psycopg.Connection[tuple[object, ...]], name: sql.Composable) -> str:
    row = connection.execute(
        "SELECT coalesce(t.spcname, 'pg_default') FROM pg_catalog.pg_class c"
        " LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = %s::regclass",
        [name.as_string(connection)],
    ).fetchone()
    if row is None:
        raise BadInputError(f"there is no relation {name.as_string(connection)}", hint="name one of that node's")
    return str(row[0])
