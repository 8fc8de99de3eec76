"""One PostgreSQL server of our own: made, started, asked, broken on purpose, and removed without a trace.

Longer than most files here, since the verbs of one object belong together; what they do lies in the modules beside.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import Timeout

from harness.errors import BadInputError, EnvironmentMissingError, PortTakenError
from harness.logs import get_logger
from harness.postgres import configuration, lifetime
from harness.postgres.binaries import readable_by
from harness.postgres.identity import SystemUser, server_user
from harness.postgres.installations import Installation, choose_installation, installation_in
from harness.postgres.log import ServerLog
from harness.postgres.node import CONNECT_TIMEOUT_S
from harness.postgres.passwords import make_password, password_file, read_password_file, write_secret
from harness.postgres.places import SOCKET_PATH_LIMIT_BYTES, sockets_dir
from harness.postgres.ports import HOST, PortLease, is_free, lease_port
from harness.postgres.postmaster import STOP_DEADLINE_S, Postmaster, StopMode
from harness.postgres.programs import run_program
from harness.postgres.server_node import ServerNode
from harness.postgres.template import SUPERUSER, Template, copy_template, fetch_template, make_server_directory

# pg_dump of a large database is the longest program that is run.
RUN_TIMEOUT_S = 600.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_log = get_logger("postgres")


class Server(ServerNode):
    """One PostgreSQL server on this machine, on loopback and a private socket, SCRAM for every role.

    Made by `create`, or found again by `attach`. Servers are copied from one template and so share a system
    identifier (F35).

    Attributes:
        installation: whose binaries it runs.
        root: its directory; everything it has is in it.
        data_dir: the data directory.
        socket_dir: the directory of its socket.
        scratch_dir: an empty directory that programs of `run` may write to.
        log: what it wrote, one file.
        keep: whether its directory stays after the end.
    """

    log: ServerLog

    def __init__(
        self,
        installation: Installation,
        name: str,
        owned: lifetime.OwnedDirectory,
        *,
        user: SystemUser,
        keep: bool,
        socket_dir: Path,
        passwords: dict[str, str],
        settings: Mapping[str, str],
        port: int,
    ) -> None:
        super().__init__(name, passwords)
        self.installation = installation
        self.root = owned.path
        self.data_dir = self.root / "data"
        self.socket_dir = socket_dir
        self.scratch_dir = self.root / "scratch"
        self.log = ServerLog(self.root / "server.log")
        self.keep = keep
        self._owned = owned
        self._user = user
        self._settings = dict(settings)
        self._lease: PortLease | None = None
        self._port = port
        self._is_port_asked = False
        self._postmaster = Postmaster(name, self.root, user)
        self._is_destroyed = False

    # ------------------------------------------------------------------ making

    @classmethod
    def create(
        cls,
        installation: Installation,
        *,
        name: str = "server",
        settings: Mapping[str, str] | None = None,
        keep: bool = False,
        port: int | None = None,
        password: str | None = None,
        template: Template | None = None,
    ) -> Server:
        """Make a server from the cached ``initdb`` template: configured, not started.

        At the first call what killed runs left is swept. The server is destroyed when this process ends.

        Args:
            installation: whose binaries; copied to the cache if the servers' user cannot read them.
            name: for messages and for the directory: small letters, digits, ``_`` and ``-``, at most 32.
            settings: added to ours; a value here wins, except over what keeps servers apart.
            keep: leave the directory at the end, and say where it is.
            port: this one, else the next free one.
            password: the superuser's, for nodes that must know each other's; default: a random one of its own.
            template: the data directory to copy, made with this installation; default: fresh from ``initdb``.

        Raises:
            BadInputError: a name, setting or port that cannot be used.
            UnsupportedVersionError: the installation is not supported.
            PortTakenError: ``port`` is taken.
            DiskFullError: there is no room.
            ServerStartError: initdb failed.
        """
        if not _NAME.fullmatch(name):
            raise BadInputError(f"{name!r} is no name for a server", hint="small letters, digits, _ and -, at most 32")
        if not installation.is_supported:
            choose_installation(major=installation.major)  # refuses it by name
        wanted = dict(settings or {})
        configuration.check_settings(wanted)
        user = server_user()
        installation = readable_by(installation, user)
        lifetime.sweep_once()
        template = template or fetch_template(installation, user)
        lease = lease_port(port)
        try:
            owned = lifetime.OwnedDirectory.make(f"{name}-{secrets.token_hex(4)}", "kept" if keep else "temporary")
        except BaseException:
            lease.release()
            raise
        server = cls(
            installation,
            name,
            owned,
            user=user,
            keep=keep,
            socket_dir=_place_socket_dir(owned.path),
            passwords={SUPERUSER: password or make_password()},
            settings=wanted,
            port=lease.port,
        )
        server._lease = lease
        server._is_port_asked = port is not None
        lifetime.register(server)
        try:
            make_server_directory(server.data_dir, user)
            copy_template(template, server.data_dir, user)
            make_server_directory(server.socket_dir, user)
            make_server_directory(server.scratch_dir, user)
            server._template_password = template.password
            server._write_files()
        except BaseException:
            server.keep = False
            server.destroy()
            raise
        return server

    def _write_files(self) -> None:
        text = configuration.render(self.name, self.port, self.socket_dir, self._settings)
        write_secret(self.data_dir / configuration.FILE_NAME, text, self._user.uid, self._user.gid)
        self._write_passwords()
        self._mark("kept" if self.keep else "temporary")

    def _write_passwords(self) -> None:
        text = password_file(self._passwords, self.port)
        write_secret(self.root / "pgpass", text, self._user.uid, self._user.gid)

    def _mark(self, mode: lifetime.Mode) -> None:
        self._owned.mark(
            mode,
            name=self.name,
            port=self.port,
            bindir=str(self.installation.bindir),
            socket_dir=str(self.socket_dir),
        )

    # ---------------------------------------------------------------- starting

    def start(self, *, wait: bool = True) -> None:
        """Start it; a running one is left alone.

        Args:
            wait: also wait until it is ready; else call `wait_ready` later.

        Raises:
            ServerStartError: it ended or was not ready in time; ``log_tail`` has its last words. A server that was
                never ready before is destroyed then, unless it is to be kept.
        """
        if self.is_running:
            return
        try:
            if not self._was_ready and not is_free(self._port):
                self._move_to_another_port()
            self._started_mark = self.log.mark()
            self._postmaster.launch(self.installation.program("postgres"), self.log.path)
            if wait:
                self.wait_ready()
        except BaseException:
            self._abandon_failed_start()
            raise

    def _abandon_failed_start(self) -> None:
        lifetime.kill_server_in(self.root)
        self._postmaster.reap()
        if not self._was_ready:
            self.destroy()

    def _move_to_another_port(self) -> None:
        # Another user's run, or a program that knows nothing of our locks, was faster between `create` and now.
        if self._is_port_asked:
            raise PortTakenError(
                f"port {self._port} on {self.host} is taken", hint="choose another, or leave the choice to us"
            )
        if self._lease is not None:
            self._lease.release()
        self._lease = lease_port()
        self._port = self._lease.port
        self._write_files()

    def _says_ready(self) -> bool:
        if not self.is_running:
            code = self._postmaster.exit_code
            raise self._start_error(f"ended while it started (exit code {code})", "it wrote nothing about it")
        return self._postmaster.says_ready

    def _kept_hint(self) -> str:
        return f"; its directory is kept: {self.root}" if self.keep else ""

    # ---------------------------------------------------------------- stopping

    def stop(self, mode: StopMode = "fast", *, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop it; a frozen one is thawed first (arguments and errors: see `ServerNode.stop`)."""
        self.close()
        self._postmaster.stop(mode, deadline_s)

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children, as in a crash; `start` then recovers."""
        self.close()
        self._postmaster.kill()

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing answers."""
        self._postmaster.freeze()

    def thaw(self) -> None:
        """SIGCONT to all its processes."""
        self._postmaster.thaw()

    @property
    def pid(self) -> int | None:
        """The postmaster's process; None while it is not running."""
        found = self._postmaster.find()
        return None if found is None else found.pid

    @property
    def is_running(self) -> bool:
        """Whether its postmaster lives (frozen or not)."""
        return self._postmaster.find() is not None

    @property
    def host(self) -> str:
        """The address it listens on, loopback."""
        return HOST

    @property
    def port(self) -> int:
        """Its port, the same after a restart."""
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Loopback and its port: other nodes reach it as we do."""
        return HOST, self._port

    def cut_off(self) -> None:
        """Not possible: local processes share this machine's loopback.

        Raises:
            EnvironmentMissingError: always.
        """
        raise EnvironmentMissingError(
            f"{self.name} is a local process and has no network of its own to be cut off from",
            hint="clusters in containers have one: --cluster containers",
            node=self.name,
        )

    def rejoin(self) -> None:
        """Nothing to do: it was never off the network."""

    def _passwords_changed(self) -> None:
        self._write_passwords()

    # ------------------------------------------------------------------ asking

    def run(
        self,
        program: str,
        *arguments: str | Path,
        dbname: str | None = None,
        user: str | None = None,
        input: str | None = None,  # noqa: A002 - subprocess calls it so
        check: bool = True,
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of its own installation against it, such as pg_dump, psql or pgbench.

        It runs as the servers' user in `scratch_dir`, and finds the server through ``PG*`` variables and a password
        file: no password is in its arguments or its environment.

        Args:
            program: its name.
            arguments: its arguments.
            dbname: the database; default ``postgres``.
            user: the role; default the superuser.
            input: what it reads from stdin.
            check: whether a failure raises.
            timeout_s: how long it may take, in seconds.

        Raises:
            BinariesNotFoundError: the installation has no such program.
            ServerError: it failed; the message has the last line it wrote.
            WaitTimeoutError: it took too long, and was killed.
        """
        return run_program(
            self.installation.program(program),
            *arguments,
            node=self.name,
            user=self._user,
            cwd=self.scratch_dir,
            variables={
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": user or SUPERUSER,
                "PGDATABASE": dbname or "postgres",
                "PGPASSFILE": str(self.root / "pgpass"),
                "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S),
            },
            text_input=input,
            check=check,
            timeout_s=timeout_s,
        )

    # ------------------------------------------------------------------ ending

    def detach(self) -> None:
        """Let it outlive this process; `attach` finds it again by its directory."""
        self.close()
        self._mark("detached")
        self._is_destroyed = True  # by nobody here any more
        lifetime.unregister(self)
        self._owned.release()
        if self._lease is not None:
            self._lease.release()
        self._postmaster.let_go()

    @classmethod
    def attach(cls, root: Path) -> Server:
        """Find a detached server again, running or not, and own it: it is destroyed when this process ends.

        Args:
            root: its directory.

        Raises:
            BadInputError: there is no detached server, or another process owns it.
        """
        marker = lifetime.read_marker(root)
        if marker.get("mode") not in ("detached", "kept"):
            raise BadInputError(f"{root} holds no server that was left behind", hint="name the directory of one")
        try:
            owned = lifetime.OwnedDirectory.take_over(root)
        except Timeout:
            raise BadInputError(f"{root} belongs to a process that still runs", hint="end that first") from None
        server = cls(
            installation_in(Path(str(marker["bindir"]))),
            str(marker["name"]),
            owned,
            user=server_user(),
            keep=False,
            socket_dir=Path(str(marker["socket_dir"])),
            passwords=read_password_file((root / "pgpass").read_text(encoding="utf-8")),
            settings={},
            port=int(str(marker["port"])),
        )
        server._was_ready = True
        lifetime.register(server)
        return server

    def destroy(self) -> None:
        """Stop it and remove its directory; one that is kept is stopped, and where it is goes to the log."""
        if self._is_destroyed:
            return
        self.close()
        self._postmaster.end(orderly=self.keep)
        if self.keep:
            _log.warning("kept", server=self.name, directory=str(self.root))
            self._owned.release()
        else:
            if self.socket_dir.parent != self.root:
                shutil.rmtree(self.socket_dir, ignore_errors=True)
            self._owned.remove()
        if self._lease is not None:
            self._lease.release()
        # Only now: what was interrupted or failed before is tried again at this process's end.
        self._is_destroyed = True
        lifetime.unregister(self)

    def facts(self) -> dict[str, str]:
        """Its port, process, directory and configuration."""
        found = {"port": str(self.port), "pid": str(self.pid), "data_dir": str(self.data_dir)}
        with contextlib.suppress(OSError):
            found["configuration"] = (self.data_dir / configuration.FILE_NAME).read_text(encoding="utf-8")
        return found

    def discard(self) -> None:
        """`destroy`, also of one that was to be kept: what there is to see in it was told."""
        self.keep = False
        self.destroy()

    def __repr__(self) -> str:
        return f"<Server {self.name} on port {self.port} in {self.root}>"


def _place_socket_dir(root: Path) -> Path:
    # A socket's file is called .s.PGSQL.<port>, at most 14 bytes, and lies in this directory.
    below = root / "socket"
    if len(str(below).encode()) + 1 + len(".s.PGSQL.65535") <= SOCKET_PATH_LIMIT_BYTES:
        return below
    return sockets_dir() / root.name


@contextlib.contextmanager
def temporary_server(
    installation: Installation | None = None,
    *,
    name: str = "server",
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
    port: int | None = None,
) -> Iterator[Server]:
    """A running server for a block, destroyed after it; arguments and errors as for `Server.create`."""
    server = Server.create(installation or choose_installation(), name=name, settings=settings, keep=keep, port=port)
    try:
        server.start()
        yield server
    finally:
        server.destroy()
