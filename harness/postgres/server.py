"""One PostgreSQL server of our own: made, started, asked, broken on purpose, and removed without a trace.

Longer than most files here, since the verbs of one object belong together; what they do lies in the modules beside.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from filelock import Timeout
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.errors import BadInputError, PortTakenError, ServerStartError, WaitTimeoutError
from harness.logs import get_logger, redact
from harness.postgres import configuration, lifetime
from harness.postgres.alter_system import change_setting
from harness.postgres.binaries import readable_by
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.identity import SystemUser, server_user
from harness.postgres.installations import Installation, choose_installation, installation_in
from harness.postgres.log import LogMark, ServerLog
from harness.postgres.node import CONNECT_TIMEOUT_S, Node
from harness.postgres.passwords import make_password, password_file, read_password_file, scram_verifier, write_secret
from harness.postgres.places import SOCKET_PATH_LIMIT_BYTES, sockets_dir
from harness.postgres.ports import HOST, PortLease, is_free, lease_port
from harness.postgres.postmaster import STOP_DEADLINE_S, Postmaster, StopMode
from harness.postgres.programs import run_program
from harness.postgres.template import SUPERUSER, Template, copy_template, fetch_template, make_server_directory
from harness.settings import load_settings
from harness.waiting import wait_until

# pg_dump of a large database is the longest program that is run.
RUN_TIMEOUT_S = 600.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_log = get_logger("postgres")


class Server(Node):
    """One PostgreSQL server on this machine, on loopback and a private socket, SCRAM for every role.

    Made by `create`, or found again by `attach`. Servers are copied from one template and so share a system
    identifier (F35).

    Attributes:
        installation: whose binaries it runs.
        root: its directory; everything it has is in it.
        data_dir: the data directory.
        socket_dir: the directory of its socket.
        scratch_dir: an empty directory that programs of `run` may write to.
        host: the address it listens on.
        superuser: the role that everything here uses unless told otherwise.
        password: the superuser's password: never print it.
        log: what it wrote.
        keep: whether its directory stays after the end.
    """

    host = HOST
    superuser = SUPERUSER

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
        super().__init__(name)
        self.installation = installation
        self.root = owned.path
        self.data_dir = self.root / "data"
        self.socket_dir = socket_dir
        self.scratch_dir = self.root / "scratch"
        self.log = ServerLog(self.root / "server.log")
        self.keep = keep
        self._owned = owned
        self._user = user
        self._passwords = passwords
        self._settings = dict(settings)
        self._lease: PortLease | None = None
        self._port = port
        self._is_port_asked = False
        self._postmaster = Postmaster(name, self.root, user)
        self._started_mark = LogMark(0)
        self._was_ready = False
        self._has_own_password = False
        self._is_destroyed = False
        self._template_password = ""

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

    def wait_ready(self, deadline_s: float | None = None) -> None:
        """Wait until it answers a query over the protocol.

        Args:
            deadline_s: in seconds; default ``HARNESS_START_TIMEOUT_S``.

        Raises:
            ServerStartError: it ended, or did not answer in time; ``log_tail`` has its last words.
        """
        until_s = load_settings().start_timeout_s if deadline_s is None else deadline_s
        started = time.monotonic()
        try:
            # The server's own word first, which costs it nothing; each refused connection would be a line in its log.
            wait_until(f"{self.name} to be ready", self._says_ready, deadline_s=until_s, poll_s=0.001, poll_max_s=0.02)
            left_s = max(1.0, until_s - (time.monotonic() - started))
            self._greet(left_s)
        except (WaitTimeoutError, psycopg.OperationalError) as error:
            elapsed_s = time.monotonic() - started
            raise self._start_error(f"did not become ready within {elapsed_s:.1f} s", str(error)) from error
        self._was_ready = True

    def _says_ready(self) -> bool:
        if not self.is_running:
            code = self._postmaster.exit_code
            raise self._start_error(f"ended while it started (exit code {code})", "it wrote nothing about it")
        return self._postmaster.says_ready

    def _start_error(self, what: str, why: str) -> ServerStartError:
        tail = self.log.tail(self._started_mark)
        complaints = [line for line in tail.splitlines() if re.search(r"\b(FATAL|PANIC|ERROR):", line)]
        kept = f"; its directory is kept: {self.root}" if self.keep else ""
        return ServerStartError(
            f"{self.name} on port {self.port} {what}",
            hint=redact((complaints[0] if complaints else why).strip()) + kept,
            node=self.name,
            log_tail=tail,
        )

    def _greet(self, deadline_s: float) -> None:
        # A real question over the protocol. The first one also gives it a password that no other server has: whoever
        # reaches a wrong server, on a port that changed hands, is refused instead of answered.
        password = self._passwords[SUPERUSER] if self._has_own_password else self._template_password
        with DeadlineConnection.connect(
            self._conninfo("postgres", SUPERUSER, password),
            autocommit=True,
            connect_timeout=max(2, round(deadline_s)),
        ) as connection:
            connection.deadline_s = deadline_s
            if self._has_own_password:
                connection.execute("SELECT 1")
                return
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(SUPERUSER), sql.Literal(scram_verifier(self._passwords[SUPERUSER]))
                )
            )
        self._has_own_password = True

    # ---------------------------------------------------------------- stopping

    def stop(self, mode: StopMode = "fast", *, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop it; a frozen one is thawed first.

        Args:
            mode: ``smart`` waits for clients, ``fast`` ends their sessions, ``immediate`` leaves recovery to the next
                start.
            deadline_s: how long that may take, in seconds.

        Raises:
            WaitTimeoutError: it still runs.
        """
        self.close()
        self._postmaster.stop(mode, deadline_s)

    def restart(self) -> None:
        """Stop it fast and start it again, on the same port."""
        self.stop()
        self.start()

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

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen inside the block, thawed after it in any case."""
        self.freeze()
        try:
            yield
        finally:
            if self.is_running:
                self.thaw()

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
    def port(self) -> int:
        """Its port, the same after a restart."""
        return self._port

    # ------------------------------------------------------------------ asking

    @property
    def password(self) -> str:
        """The superuser's password: never print it."""
        return self._passwords[SUPERUSER]

    def _conninfo(self, dbname: str, user: str, password: str) -> str:
        # Neither TLS nor Kerberos is asked for on loopback: each would cost a round trip or a look at the network.
        return make_conninfo(
            "",
            host=self.host,
            port=self.port,
            dbname=dbname,
            user=user,
            password=password,
            connect_timeout=CONNECT_TIMEOUT_S,
            gssencmode="disable",
            sslmode="disable",
        )

    def dsn(self, dbname: str | None = None, *, user: str | None = None) -> str:
        """How to reach it, as libpq reads it, with the password: never print it.

        Args:
            dbname: default ``postgres``.
            user: the superuser, or a role made by `create_role`.

        Raises:
            BadInputError: the password of ``user`` is not known here.
        """
        role = user or SUPERUSER
        if role not in self._passwords:
            raise BadInputError(f"the password of role {role!r} is not known", hint="make it with create_role")
        return self._conninfo(dbname or "postgres", role, self._passwords[role])

    def show(self, setting: str) -> str:
        """The value in force of a setting, as SHOW writes it."""
        return str(self.value("SELECT pg_catalog.current_setting(%s)", [setting]))

    def set(self, setting: str, value: str) -> bool:
        """Change a setting for good (ALTER SYSTEM), reload, and wait until it is in force for every new session.

        Args:
            setting: its name.
            value: as in the configuration file; a list is separated by commas.

        Returns:
            True if it needs a restart to be in force.

        Raises:
            BadInputError: there is no such setting, or it does not take this value.
        """
        needs_restart = change_setting(self, setting, value)
        if needs_restart:
            _log.info("setting needs a restart", server=self.name, setting=setting)
        return needs_restart

    def create_role(self, role: str, *, superuser: bool = False, replication: bool = False) -> None:
        """Make a role that can log in, with a random password that `dsn` and `run` know from then on."""
        password = make_password()
        self.sql(
            sql.SQL("CREATE ROLE {} LOGIN {} {} PASSWORD {}").format(
                sql.Identifier(role),
                sql.SQL("SUPERUSER" if superuser else "NOSUPERUSER"),
                sql.SQL("REPLICATION" if replication else "NOREPLICATION"),
                sql.Literal(scram_verifier(password)),
            )
        )
        self._passwords[role] = password
        self._write_passwords()

    def create_database(self, dbname: str, *, template: str | None = None) -> None:
        """Make a database, empty or as a copy of ``template``."""
        of = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self.sql(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(dbname), of))

    def drop_database(self, dbname: str) -> None:
        """Drop a database if it is there, ending the sessions in it."""
        self.sql(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname)))

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
        server._was_ready = server._has_own_password = True
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
