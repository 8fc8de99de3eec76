"""One node of a cluster in containers: the verbs of a server, done with Docker."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg

from harness.clusters.container_image import TEMPLATE_DIR, ContainerTemplate
from harness.clusters.container_runtime import Runtime, docker_errors, passing_over_missing
from harness.errors import ServerGoneError, ServerStartError, WaitTimeoutError
from harness.logs import get_logger
from harness.postgres import addresses, configuration, lifetime
from harness.postgres.log import BEGINNING, Log, LogMark
from harness.postgres.postmaster import STOP_DEADLINE_S, StopMode
from harness.postgres.server_node import ServerNode
from harness.postgres.template import SUPERUSER
from harness.waiting import wait_until

if TYPE_CHECKING:
    from docker.models.containers import Container
    from testcontainers.core.network import Network

# Inside its container a server has the whole machine: the port that everybody expects.
PORT = 5432
_INPUT_DIR = "/harness/in"
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# A published port appears within milliseconds of the start.
_PORT_DEADLINE_S = 10.0
# Removing takes 0.1 s; a daemon that removes others' at the same time needs longer.
_GONE_DEADLINE_S = 30.0

# Runs at every start, as the image's user postgres; the first fills the volume. Secrets come as files, never as
# variables or arguments, which `docker inspect` shows.
_START = f"""
set -eu
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "$PGDATA" && mkdir -p "$PGDATA" && cp -a {TEMPLATE_DIR}/data/. "$PGDATA/"
fi
cp {_INPUT_DIR}/{configuration.FILE_NAME} "$PGDATA/{configuration.FILE_NAME}"
cp {_INPUT_DIR}/pgpass "$PGPASSFILE"
exec postgres -D "$PGDATA"
"""

_log = get_logger("clusters")


class ContainerLog(Log):
    """What a container wrote on its standard error, over all its starts."""

    def __init__(self, container: Container, name: str) -> None:
        self._container = container
        self.where = f"docker logs {name}"
        self._last = b""

    def _read(self) -> bytes:
        try:
            self._last = self._container.logs(stdout=False, stderr=True)
        except Exception as error:  # what was read before is better than nothing, such as after its removal
            _log.debug("log not read", where=self.where, error=str(error))
        return self._last

    def mark(self) -> LogMark:
        """The present end."""
        return LogMark(len(self._read()))

    def since(self, mark: LogMark = BEGINNING) -> str:
        """All that was written after ``mark``."""
        return self._read()[mark.offset_bytes :].decode("utf-8", errors="replace")


class ContainerNode(ServerNode):
    """A PostgreSQL server in a container, reached through a port that is published on loopback.

    Its host port changes whenever it is started or rejoins; its `address` in the cluster's network never does.

    Attributes:
        hostname: its name in the network, which no other run's node has.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        network: Network,
        template: ContainerTemplate,
        *,
        volume: str,
        password: str,
    ) -> None:
        super().__init__(name, {SUPERUSER: password}, template_password=template.password)
        self._runtime = runtime
        self._network = network
        self._template = template
        self.hostname = f"{runtime.run}-{name}"
        self._volume = volume
        self._container: Container | None = None
        self._configuration = ""
        self._is_cut_off = False
        self._is_destroyed = False
        lifetime.register(self)
        addresses.announce(self.address, lambda: (self.host, self.port))

    def create(self, settings: Mapping[str, str], node_passwords: str) -> None:
        """Make its container and start it: testcontainers does both at once.

        Args:
            settings: for the configuration file, after ours.
            node_passwords: the password file of the server itself, for connections to the other nodes.
        """
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an optional extra

        configuration.check_settings(settings)
        template, place = self._template, self._template.data_volume
        self._configuration = configuration.render(self.name, PORT, None, settings)
        with docker_errors(f"{self.name} could not be made", self.name):
            made = (
                DockerContainer(template.image_id)
                .with_name(self.hostname)
                .with_command(["-c", _START])
                .with_env("PGDATA", f"{place}/node")
                .with_env("PGPASSFILE", f"{place}/pgpass")
                .with_network(self._network)
                .with_network_aliases(self.hostname)
                .with_volume_mapping(self._volume, place, "rw")
                .with_volume_mapping(template.volume, TEMPLATE_DIR, "ro")
                .with_copy_into_container(self._configuration.encode(), f"{_INPUT_DIR}/{configuration.FILE_NAME}")
                .with_copy_into_container(node_passwords.encode(), f"{_INPUT_DIR}/pgpass")
                .with_kwargs(
                    entrypoint=["sh"],
                    user="postgres",
                    hostname=self.hostname,
                    labels=dict(self._runtime.labels),
                    healthcheck={"test": ["NONE"]},
                    log_config={"Type": "json-file", "Config": {}},
                )
            )
            # Docker's client takes pairs; testcontainers has no word for an address (containers.md).
            made.ports[f"{PORT}/tcp"] = (self._runtime.publish, None)  # type: ignore[assignment]
            try:
                made.start()
            finally:
                if made._container is not None:  # noqa: SLF001 - there even if its start failed
                    self._container = made.get_wrapped_container()
                    self.log = ContainerLog(self._container, self.hostname)
                made.get_docker_client().client.close()
                if self._is_destroyed:
                    # Somebody did not wait for us, such as an impatient second Ctrl-C.
                    self._is_destroyed = False
                    self.destroy()

    # ----------------------------------------------------------- where it is

    @property
    def host(self) -> str:
        """Where published ports are reached: loopback, unless the daemon is elsewhere."""
        return self._runtime.host

    @property
    def port(self) -> int:
        """Its port on the host, as long as it runs and is on the network.

        Raises:
            ServerGoneError: it has none now.
        """
        if self._is_cut_off:
            raise ServerGoneError(f"{self.name} is cut off from the network", hint="rejoin() it first", node=self.name)
        # Asked each time, 3 ms: who starts it from outside gives it another port, and the old one to somebody else.
        state, ports = self._inspect()
        bindings = ports.get(f"{PORT}/tcp") or []
        if not bindings:
            raise ServerGoneError(f"{self.name} has no port: it is {state}", hint="start() it first", node=self.name)
        return int(bindings[0]["HostPort"])

    def _inspect(self) -> tuple[str, Mapping[str, Any]]:
        """Its state in Docker's words, and its ports."""
        container = self._there()
        with docker_errors(f"{self.name} cannot be looked at", self.name):
            container.reload()
        return str(container.status), container.attrs["NetworkSettings"]["Ports"] or {}

    def _there(self) -> Container:
        if self._container is None or self._is_destroyed:
            raise ServerGoneError(f"{self.name} is gone", hint="start another cluster", node=self.name)
        return self._container

    @property
    def address(self) -> tuple[str, int]:
        """Its name in the network, never an address: those may be swapped by a restart (containers.md)."""
        return self.hostname, PORT

    def _where(self) -> str:
        return f"(container {self.hostname})"

    @property
    def is_running(self) -> bool:
        """Whether its container runs (frozen or not)."""
        return not self._is_destroyed and self._container is not None and self._inspect()[0] in ("running", "paused")

    # ------------------------------------------------------------- the verbs

    def start(self, *, wait: bool = True) -> None:
        """Start it; a running one is left alone.

        Args:
            wait: also wait until it is ready; else call `wait_ready` later.

        Raises:
            ServerStartError: it ended or was not ready in time; ``log_tail`` has its last words.
        """
        if self.is_running:
            return
        self._started_mark = self.log.mark()
        with docker_errors(f"{self.name} could not be started", self.name):
            self._there().start()
        if wait:
            self.wait_ready()

    def _says_ready(self) -> bool:
        state, ports = self._inspect()
        if state not in ("running", "paused", "created"):
            code = self._there().attrs["State"]["ExitCode"]
            raise self._start_error(f"ended while it started (exit code {code})", "it wrote nothing about it")
        if not self.log.search("database system is ready to accept connections", self._started_mark):
            return False
        return self._is_cut_off or bool(ports.get(f"{PORT}/tcp"))

    def _greet(self, deadline_s: float) -> None:
        if self._is_cut_off:
            return  # its own word has to do

        def tried() -> bool:
            try:
                super(ContainerNode, self)._greet(deadline_s)
            except psycopg.OperationalError as error:
                if error.sqlstate is not None:
                    raise
                return False  # the port is not open yet: Docker opens it beside the start
            return True

        wait_until(f"the port of {self.name}", tried, deadline_s=deadline_s)

    def stop(self, mode: StopMode = "fast", *, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop it; a frozen one is thawed first (arguments and errors: see `ServerNode.stop`)."""
        self.close()
        if not self.is_running:
            return
        self.thaw()
        self._signal(_STOP_SIGNALS[mode])
        self._wait_ended(deadline_s)

    def kill(self) -> None:
        """SIGKILL to all its processes, as in a crash; `start` then recovers."""
        self.close()
        if not self.is_running:
            return
        self.thaw()  # Docker kills no paused container
        self._signal(signal.SIGKILL)
        self._wait_ended(_GONE_DEADLINE_S)

    def _signal(self, number: signal.Signals) -> None:
        with docker_errors(f"{number.name} could not be sent to {self.name}", self.name):
            self._there().kill(signal=number.name)

    def _wait_ended(self, deadline_s: float) -> None:
        try:
            wait_until(f"the end of {self.name}", lambda: not self.is_running, deadline_s=deadline_s, poll_s=0.005)
        except WaitTimeoutError as error:
            error.node = self.name
            error.hint = "kill() it: cut off, or beside a frozen node, Citus' maintenance daemon may not heed a stop"
            raise

    def freeze(self) -> None:
        """Pause all its processes: connections stay open and nothing answers."""
        if self._inspect()[0] == "running":
            with docker_errors(f"{self.name} could not be frozen", self.name):
                self._there().pause()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        if self._inspect()[0] == "paused":
            with docker_errors(f"{self.name} could not be thawed", self.name):
                self._there().unpause()

    def cut_off(self) -> None:
        """Take it off the cluster's network: it runs on, nobody reaches it, this process neither."""
        if self._is_cut_off:
            return
        self.close()
        with docker_errors(f"{self.name} could not be cut off", self.name):
            self._network._unwrap_network.disconnect(self._there())  # noqa: SLF001 - testcontainers has no verb for it
        self._is_cut_off = True

    def rejoin(self) -> None:
        """Put it back on the network, under the same name; on the host it gets another port."""
        if not self._is_cut_off:
            return
        with docker_errors(f"{self.name} could not rejoin", self.name):
            # Without its alias nobody would find it again (containers.md).
            self._network.connect(str(self._there().id), network_aliases=[self.hostname])
        self._is_cut_off = False
        if self.is_running:
            wait_until(
                f"the port of {self.name}",
                lambda: self._inspect()[1].get(f"{PORT}/tcp"),
                deadline_s=_PORT_DEADLINE_S,
                poll_s=0.002,
            )

    def write_node_passwords(self, text: str) -> None:
        """Replace the password file that libpq inside the server reads."""
        from testcontainers.core.transferable import build_transfer_tar  # noqa: PLC0415 - an optional extra

        container = self._there()
        with docker_errors(f"passwords could not be given to {self.name}", self.name):
            container.put_archive("/", build_transfer_tar(text.encode(), f"{_INPUT_DIR}/pgpass"))
            done = container.exec_run(
                ["sh", "-c", f'umask 077; cp {_INPUT_DIR}/pgpass "$PGPASSFILE.new"; mv "$PGPASSFILE.new" "$PGPASSFILE"']
            )
        if done.exit_code != 0:
            raise ServerStartError(f"passwords could not be given to {self.name}: {done.output!r}", node=self.name)

    def facts(self) -> dict[str, str]:
        """Its container, image, state and configuration."""
        return {
            "container": self.hostname,
            "image": self._template.image,
            "image_id": self._template.image_id,
            "state": "gone" if self._is_destroyed else self._inspect()[0],
            "configuration": self._configuration,
        }

    def destroy(self) -> None:
        """Remove the container; its volume goes with the cluster."""
        if self._is_destroyed:
            return
        self.close()
        addresses.forget(self.address)
        with docker_errors(f"{self.name} could not be removed", self.name):
            if self._container is not None:
                container = self._container
                passing_over_missing(lambda: container.remove(force=True, v=True))
        self._is_destroyed = True
        lifetime.unregister(self)

    def __repr__(self) -> str:
        return f"<ContainerNode {self.name}: {self.hostname}>"
