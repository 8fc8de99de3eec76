"""Nodes that run ``docker/citus-node`` as local processes, each in a directory of its own, as the servers' user."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from psycopg.conninfo import make_conninfo

from harness.errors import ServerStartError, WaitTimeoutError
from harness.postgres import DsnNode, Installation
from harness.postgres.identity import SystemUser, child_environment, run_process, start_process
from harness.postgres.lifetime import OwnedDirectory, kill_server_in, register, unregister
from harness.postgres.ports import HOST, PortLease, lease_port
from harness.postgres.template import give_to
from harness.waiting import wait_until

# A start with initdb takes 1 to 2 s on two cores; the rest is for a machine that does much else.
READY_DEADLINE_S = 40.0
END_DEADLINE_S = 20.0
# What keeps local processes apart and fast; nothing of it is about roles.
LOCAL_SETTINGS: Mapping[str, str] = {
    "POSTGRES_SETTING_LISTEN_ADDRESSES": HOST,
    "POSTGRES_SETTING_FSYNC": "off",
    "POSTGRES_SETTING_DYNAMIC_SHARED_MEMORY_TYPE": "mmap",
    "POSTGRES_SETTING_TIMEZONE": "UTC",
    "POSTGRES_SETTING_LOG_TIMEZONE": "UTC",
    "POSTGRES_SETTING_LOG_CHECKPOINTS": "off",
    "CITUS_SHARD_COUNT": "4",
    # How soon the coordinator's daemon tells the workers of a node that moved; 5 s by default.
    "POSTGRES_SETTING_CITUS__METADATA_SYNC_INTERVAL": "200ms",
    "POSTGRES_SETTING_CITUS__METADATA_SYNC_RETRY_INTERVAL": "100ms",
    # How soon a rebalance begins; 5 s by default.
    "POSTGRES_SETTING_CITUS__BACKGROUND_TASK_QUEUE_INTERVAL": "100ms",
}


class RoleNode:
    """One node: its directory (the volume), its port, and the process of the entry point.

    Attributes:
        name: for messages and the directory.
        root: the directory; ``root / "data"`` is PGDATA.
        environment: what every start gets; a start's own variables win, None takes one away.
    """

    def __init__(self, name: str, program: Path, installation: Installation, user: SystemUser, password: str) -> None:
        self.name = name
        self.password = password
        self._program = program
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0
        self._lease: PortLease = lease_port()
        self._owned = OwnedDirectory.make(f"role-{name}-{secrets.token_hex(3)}", "temporary")
        register(self)
        self.root = self._owned.path
        for part in ("data", "run", "sockets"):
            directory = self.root / part
            directory.mkdir(mode=0o700)
            give_to(directory, user)
        self.log_path = self.root / "log"
        self.environment: dict[str, str] = {
            **LOCAL_SETTINGS,
            "PG_BINDIR": str(installation.bindir),
            "PGDATA": str(self.root / "data"),
            "PGPORT": str(self.port),
            "CITUS_NODE_RUN_DIR": str(self.root / "run"),
            "CITUS_NODE_HOST": HOST,
            "POSTGRES_SETTING_UNIX_SOCKET_DIRECTORIES": str(self.root / "sockets"),
            "POSTGRES_PASSWORD": password,
        }

    @property
    def port(self) -> int:
        return self._lease.port

    @property
    def pid(self) -> int:
        """The entry point's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    def take_new_port(self) -> None:
        """Listen elsewhere from the next start on; the old port stays ours, so that nobody answers there."""
        self._lease = lease_port()
        self.environment["PGPORT"] = str(self.port)

    def _whole_environment(self, variables: Mapping[str, str | None]) -> dict[str, str]:
        wanted: dict[str, str | None] = {**self.environment, **variables}
        given = {name: value for name, value in wanted.items() if value is not None}
        return child_environment(self.root, given)

    def begin(self, *arguments: str, **variables: str | None) -> None:
        """Start the entry point and return at once."""
        assert not self.is_running
        with self.log_path.open("ab") as output:
            self._started_at = output.tell()
            self._process = start_process(
                [self._program, *(arguments or ("run",))],
                self._user,
                cwd=self.root,
                output=output,
                environment=self._whole_environment(variables),
            )

    def start(self, *arguments: str, **variables: str | None) -> None:
        """Start it and wait until it says that it is ready: registered too, if its role asks for it."""
        self.begin(*arguments, **variables)
        self.wait_ready()

    def wait_ready(self) -> None:
        self.wait_said("citus-node: ready")

    def wait_said(self, text: str, *, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait for words in what it said since its last start.

        Raises:
            ServerStartError: it ended without them.
        """

        def has_said() -> bool:
            if text in self.said():
                return True
            if not self.is_running:
                raise ServerStartError(f"{self.name} ended before it said {text!r}:\n{self.said()[-4000:]}")
            return False

        wait_until(f"{self.name} to say {text!r}", has_said, deadline_s=deadline_s, poll_s=0.01)

    def said(self) -> str:
        """All that it and its server said since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._started_at)
            return log.read().decode("utf-8", "replace")

    def own_words(self) -> list[str]:
        """The lines of the entry point itself since its last start, without its name."""
        lead = "citus-node: "
        return [line.removeprefix(lead) for line in self.said().splitlines() if line.startswith(lead)]

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_end(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        process = self._process
        try:
            wait_until(f"the end of {self.name}", lambda: process.poll() is not None, deadline_s=END_DEADLINE_S)
        except WaitTimeoutError as error:
            error.add_note(self.said()[-4000:])
            raise
        return process.returncode

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, as ``docker stop`` does, and wait for its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait_end()

    def refused(self, *arguments: str, **variables: str | None) -> str:
        """Start it with something that it refuses: exit code 2, one line, which is returned; no process is left."""
        self.begin(*arguments, **variables)
        assert self.wait_end() == 2, self.said()
        assert not (self.data_dir / "postmaster.pid").exists()
        words = [line for line in self.own_words() if not line.startswith("making a data directory")]
        assert len(words) == 1, self.said()
        return words[0]

    def health(self) -> tuple[int, str]:
        """Exit code and output of the health check."""
        done = self._run("health")
        return done.returncode, (done.stdout + done.stderr).strip()

    def psql(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("psql", *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = self._whole_environment({})
        return run_process(
            [self._program, *arguments], self._user, cwd=self.root, environment=environment, timeout_s=20
        )

    def dsn(self, *, user: str = "postgres", password: str | None = None, dbname: str = "postgres") -> str:
        return make_conninfo(
            host=HOST,
            port=self.port,
            user=user,
            password=self.password if password is None else password,
            dbname=dbname,
            connect_timeout=5,
        )

    @contextlib.contextmanager
    def session(self, *, user: str = "postgres", password: str | None = None) -> Iterator[DsnNode]:
        """A client of it."""
        node = DsnNode(self.name, self.dsn(user=user, password=password))
        try:
            yield node
        finally:
            node.close()

    def copy_volume(self, data_dir: Path) -> None:
        """Have a copy of a stopped node's data, as a restored backup is."""
        done = run_process(
            ["cp", "-a", f"{data_dir}/.", self.data_dir],
            self._user,
            cwd=self.root,
            environment=child_environment(self.root),
            timeout_s=60,
        )
        assert done.returncode == 0, done.stderr

    def destroy(self) -> None:
        """Kill what is left of it, remove its directory."""
        unregister(self)
        if self._process is not None:
            self._process.kill()
        kill_server_in(self.root)
        if self._process is not None:
            self._process.wait(END_DEADLINE_S)
        self._owned.remove()
        self._lease.release()
