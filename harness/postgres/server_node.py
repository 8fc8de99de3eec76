"""A server that belongs to a run, wherever it runs: what can be asked of it, changed in it, and done to it."""

from __future__ import annotations

import abc
import contextlib
import re
import time
from collections.abc import Iterator

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.errors import BadInputError, ServerStartError, WaitTimeoutError
from harness.logs import get_logger, redact
from harness.postgres.administered import AdministeredNode
from harness.postgres.alter_system import change_setting
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.log import Log, LogMark
from harness.postgres.node import CONNECT_TIMEOUT_S
from harness.postgres.passwords import make_password, scram_verifier
from harness.postgres.postmaster import STOP_DEADLINE_S, StopMode
from harness.postgres.template import SUPERUSER
from harness.settings import load_settings
from harness.waiting import wait_until

# What a server that does not start says of the reason: of its configuration in a line of the level LOG.
_COMPLAINT = re.compile(r"\b(FATAL|PANIC|ERROR):|LOG: .*(invalid value for|unrecognized configuration) parameter")

_log = get_logger("postgres")


class ServerNode(AdministeredNode):
    """A server of our own on which we are superuser: `Server` is a local process, a container is another kind.

    Attributes:
        superuser: the role that everything here uses unless told otherwise.
        log: what it wrote.
    """

    superuser = SUPERUSER
    log: Log

    def __init__(self, name: str, passwords: dict[str, str], *, template_password: str = "") -> None:
        super().__init__(name)
        self._passwords = passwords
        # The superuser's until the first start gave it one that no other server has; empty once it has.
        self._template_password = template_password
        self._was_ready = False
        self._started_mark = LogMark(0)

    # ----------------------------------------------------------- where it is

    @property
    @abc.abstractmethod
    def host(self) -> str:
        """The address that this process reaches it at."""

    @property
    @abc.abstractmethod
    def port(self) -> int:
        """The port that this process reaches it at."""

    @property
    @abc.abstractmethod
    def is_running(self) -> bool:
        """Whether its postmaster lives (frozen or not)."""

    # ------------------------------------------------------------- the verbs

    @abc.abstractmethod
    def start(self, *, wait: bool = True) -> None:
        """Start it; a running one is left alone.

        Args:
            wait: also wait until it is ready; else call `wait_ready` later.

        Raises:
            ServerStartError: it ended or was not ready in time; ``log_tail`` has its last words.
        """

    @abc.abstractmethod
    def stop(self, mode: StopMode = "fast", *, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop it; a frozen one is thawed first.

        Args:
            mode: ``smart`` waits for clients, ``fast`` ends their sessions, ``immediate`` leaves recovery to the next
                start.
            deadline_s: how long that may take, in seconds.

        Raises:
            WaitTimeoutError: it still runs.
        """

    @abc.abstractmethod
    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children, as in a crash; `start` then recovers."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open and nothing answers."""

    @abc.abstractmethod
    def thaw(self) -> None:
        """Let a frozen server go on."""

    @abc.abstractmethod
    def cut_off(self) -> None:
        """Take it off the network: it runs on, nobody reaches it, and it reaches nobody.

        Raises:
            EnvironmentMissingError: it has no network of its own.
        """

    @abc.abstractmethod
    def rejoin(self) -> None:
        """Put it back on the network, under the same `address`."""

    @abc.abstractmethod
    def destroy(self) -> None:
        """Stop it and remove all that it has."""

    def discard(self) -> None:
        """`destroy`, of a server that nobody wants to look at any more."""
        self.destroy()

    @abc.abstractmethod
    def facts(self) -> dict[str, str]:
        """What somebody who looks at a failure wants to know of it; no password."""

    def restart(self) -> None:
        """Stop it fast and start it again."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen inside the block, thawed after it in any case."""
        self.freeze()
        try:
            yield
        finally:
            if self.is_running:
                self.thaw()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Cut off inside the block, back on the network after it in any case."""
        self.cut_off()
        try:
            yield
        finally:
            self.rejoin()

    # ----------------------------------------------------------------- ready

    @abc.abstractmethod
    def _says_ready(self) -> bool:
        """Whether it says of itself that it accepts connections.

        Raises:
            ServerStartError: it ended while it started.
        """

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
            self._greet(max(1.0, until_s - (time.monotonic() - started)))
        except (WaitTimeoutError, psycopg.OperationalError) as error:
            elapsed_s = time.monotonic() - started
            raise self._start_error(f"did not become ready within {elapsed_s:.1f} s", str(error)) from error
        self._was_ready = True

    def _start_error(self, what: str, why: str) -> ServerStartError:
        tail = self.log.tail(self._started_mark)
        complaints = [line for line in tail.splitlines() if _COMPLAINT.search(line)]
        return ServerStartError(
            f"{self.name} {self._where()} {what}",
            hint=redact((complaints[0] if complaints else why).strip()) + self._kept_hint(),
            node=self.name,
            log_tail=tail,
        )

    def _where(self) -> str:
        """Where it is, in words that follow its name."""
        return f"on port {self.port}"

    def _kept_hint(self) -> str:
        """What else to look at after a failed start; nothing by default."""
        return ""

    def _greet(self, deadline_s: float) -> None:
        # A real question over the protocol. The first one also gives it a password that no other server has: whoever
        # reaches a wrong server, on a port that changed hands, is refused instead of answered.
        with self._first_connection(self._template_password or self.password, deadline_s) as connection:
            if not self._template_password:
                connection.execute("SELECT 1")
                return
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(SUPERUSER), sql.Literal(scram_verifier(self.password))
                )
            )
        self._template_password = ""

    # ---------------------------------------------------------------- asking

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

    def _first_connection(self, password: str, deadline_s: float) -> DeadlineConnection:
        connection = DeadlineConnection.connect(
            self._conninfo("postgres", SUPERUSER, password),
            autocommit=True,
            connect_timeout=max(2, round(deadline_s)),
        )
        connection.deadline_s = deadline_s
        return connection

    # -------------------------------------------------------------- changing

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
        self._passwords_changed()

    def _passwords_changed(self) -> None:
        """A role more: who keeps a password file writes it."""
