"""Who makes clusters on this machine: local processes, containers, or somebody else's cluster; chosen in one place."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping
from typing import Literal

from harness.clusters.databases import DatabaseCluster
from harness.clusters.existing import existing_cluster
from harness.clusters.local import LocalCluster, local_cluster
from harness.clusters.running import RunningCluster
from harness.clusters.topology import read_topology
from harness.clusters.versions import choose_citus_installation
from harness.errors import BadInputError, CitusMissingError, EnvironmentMissingError, RefusedError
from harness.logs import get_logger
from harness.postgres.installations import Installation
from harness.settings import load_settings

Kind = Literal["local", "containers", "existing"]

_log = get_logger("clusters")


class Provider(abc.ABC):
    """Makes clusters of one kind.

    Attributes:
        kind: ``local``, ``containers`` or ``existing``.
        postgres_version, citus_version: what its clusters run, such as ``18.6`` and ``14.0-1``.
    """

    kind: Kind
    postgres_version: str
    citus_version: str

    @property
    def can_start(self) -> bool:
        """Whether it starts clusters of our own, which may be broken."""
        return True

    @property
    def label(self) -> str:
        """What its clusters are made of, for people."""
        return {"local": "local processes", "containers": "containers", "existing": "an existing cluster"}[self.kind]

    @abc.abstractmethod
    def start(
        self, *, workers: int | None = None, settings: Mapping[str, str] | None = None, name: str | None = None
    ) -> RunningCluster:
        """Start a cluster of our own (arguments and errors: see `local_cluster` and `container_cluster`).

        Raises:
            RefusedError: it is one that somebody else runs.
        """

    def connect(self, *, workers: int = 2) -> DatabaseCluster:
        """A cluster to make databases on: one that is started, or the existing one.

        Args:
            workers: how many to start; an existing cluster has those that it has.
        """
        return self.start(workers=workers, name="shared")


class LocalProvider(Provider):
    """Clusters of local processes.

    Args:
        installation: whose binaries.
    """

    kind = "local"

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.postgres_version = installation.version
        self.citus_version = installation.citus_version or ""

    def start(
        self, *, workers: int | None = None, settings: Mapping[str, str] | None = None, name: str | None = None
    ) -> LocalCluster:
        """Start a cluster of local processes (see `local_cluster`)."""
        return local_cluster(workers=workers, settings=settings, name=name, installation=self.installation)


class ContainerProvider(Provider):
    """Clusters in containers; the image's template is made at once, since only it knows the versions.

    Raises:
        EnvironmentMissingError: no Docker, or no image; says why in one line.
    """

    kind = "containers"

    def __init__(self) -> None:
        # Docker's client takes 0.1 s to import: only who wants containers pays.
        from harness.clusters.container_image import fetch_container_template  # noqa: PLC0415
        from harness.clusters.container_runtime import open_runtime  # noqa: PLC0415

        runtime = open_runtime()
        with contextlib.closing(runtime.client):
            template = fetch_container_template(runtime)
        self.postgres_version = template.postgres_version
        self.citus_version = template.citus_version

    def start(
        self, *, workers: int | None = None, settings: Mapping[str, str] | None = None, name: str | None = None
    ) -> RunningCluster:
        """Start a cluster in containers (see `container_cluster`)."""
        from harness.clusters.containers import container_cluster  # noqa: PLC0415

        return container_cluster(workers=workers, settings=settings, name=name)


class ExistingProvider(Provider):
    """The cluster behind a DSN: databases can be made on it, nothing of it is stopped or changed.

    Args:
        dsn: the coordinator's.

    Raises:
        RefusedError: what `existing_cluster` refuses.
    """

    kind = "existing"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with existing_cluster(dsn) as found:
            self.postgres_version = found.coordinator.show("server_version").partition(" ")[0]
            self.citus_version = read_topology(found.coordinator).citus_version or ""

    @property
    def can_start(self) -> bool:
        """No: it is somebody else's."""
        return False

    def start(
        self, *, workers: int | None = None, settings: Mapping[str, str] | None = None, name: str | None = None
    ) -> RunningCluster:
        """Refused.

        Raises:
            RefusedError: always.
        """
        raise RefusedError(
            "no cluster is started beside an existing one, and an existing one is not broken",
            hint="--cluster local or --cluster containers",
        )

    def connect(self, *, workers: int = 2) -> DatabaseCluster:
        """The existing cluster.

        Raises:
            EnvironmentMissingError: it has fewer workers than are needed.
        """
        found = existing_cluster(self._dsn)
        if len(found.workers) < workers:
            found.close()
            raise EnvironmentMissingError(f"{found.name} has {len(found.workers)} workers, {workers} are needed")
        return found


def choose_provider(wanted: str | None = None) -> Provider:
    """Who makes clusters here.

    Args:
        wanted: ``local``, ``containers`` or the DSN of an existing coordinator; None: ``HARNESS_CLUSTER``, else local
            processes where Citus is installed, else containers where Docker and the image are there.

    Raises:
        BadInputError: a word that is none of these.
        CitusMissingError: nothing of it can be had here; says of each way why.
        EnvironmentMissingError: what was asked for by name cannot be had here.
        RefusedError: the existing cluster is none that can be used.
    """
    asked = wanted or load_settings().cluster or ""
    if asked == "local":
        return LocalProvider(choose_citus_installation())
    if asked == "containers":
        return ContainerProvider()
    if asked:
        if "=" not in asked and "://" not in asked:
            # What has an @ may be a DSN without its beginning, and hold a password.
            shown = "what was given" if "@" in asked else repr(asked)
            raise BadInputError(
                f"{shown} says nothing of a cluster", hint="local, containers, or the DSN of an existing coordinator"
            )
        return ExistingProvider(asked)
    try:
        return LocalProvider(choose_citus_installation())
    except (EnvironmentMissingError, RefusedError) as error:
        local = error
    try:
        provider = ContainerProvider()
    except (EnvironmentMissingError, RefusedError) as error:
        raise CitusMissingError(
            f"{local.message}; {error.message}", hint="; ".join(filter(None, (local.hint, error.hint)))
        ) from None
    _log.info("clusters in containers", because=local.message)
    return provider
