"""What the plugin's fixtures hand out: made when it is first asked for, removed however the run ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from harness.clusters import Cluster, Provider, RunningCluster, choose_provider, prove_topology
from harness.clusters.databases import DatabaseCluster
from harness.errors import EnvironmentMissingError, HarnessError, RefusedError, UnsupportedVersionError
from harness.postgres import Node, Server, choose_installation
from harness.pytest_plugin.options import TrickleOptions
from harness.settings import load_citus_settings, load_settings

if TYPE_CHECKING:
    from harness.trickle import StreamTables

_PROVIDER = pytest.StashKey["Provider | HarnessError"]()


class MakeCitusCluster(Protocol):
    """What the fixture `citus_cluster_factory` gives."""

    def __call__(self, *, workers: int | None = None, settings: Mapping[str, str] | None = None) -> RunningCluster:
        """Start a cluster, proven, and removed after the test.

        Args:
            workers: how many; None: as the run's options say.
            settings: beside those of the run's options; these win.
        """


# ------------------------------------------------------------------------------------------------ what is missing


def _outcome(error: HarnessError, options: TrickleOptions) -> BaseException:
    """What becomes of a test: skipped for what this machine lacks, failed where nothing may be missing.

    The reason of a skip is typed, so that a report can count it.
    """
    reason = error.message + (f" ({error.hint})" if error.hint else "")
    if not isinstance(error, EnvironmentMissingError | UnsupportedVersionError):
        return pytest.fail.Exception(reason, pytrace=False)
    if options.require:
        return pytest.fail.Exception(f"environment: {reason} [trickle_require is set]", pytrace=False)
    if load_settings().require_citus:
        return pytest.fail.Exception(f"environment: {reason} [HARNESS_REQUIRE_CITUS is set]", pytrace=False)
    return pytest.skip.Exception(f"environment: {reason}")


@contextlib.contextmanager
def _told(options: TrickleOptions) -> Iterator[None]:
    """What this machine lacks is a typed skip; what somebody can mend is a failure with a hint and no traceback."""
    try:
        yield
    except (EnvironmentMissingError, RefusedError) as error:
        raise _outcome(error, options) from None


def _provider(options: TrickleOptions, config: pytest.Config) -> Provider:
    """Who makes this run's clusters; looked for once."""
    if options.cluster == "none":
        pytest.skip("not applicable: trickle_cluster is none, this run has no cluster")
    if _PROVIDER not in config.stash:
        try:
            config.stash[_PROVIDER] = choose_provider(None if options.cluster == "auto" else options.cluster)
        except HarnessError as error:
            config.stash[_PROVIDER] = error
    found = config.stash[_PROVIDER]
    if isinstance(found, HarnessError):
        raise found
    return found


def _worker_count(options: TrickleOptions) -> int:
    return load_citus_settings().workers if options.workers is None else options.workers


# ------------------------------------------------------------------------------------------------- how a run ends


def _prepare(config: pytest.Config) -> None:
    """Before the first server: from here on a SIGTERM tears down as Ctrl-C does."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return  # somebody else's handler stays

    def end(number: int, _frame: Any) -> NoReturn:
        pytest.exit(f"signal {number}", returncode=128 + number)

    signal.signal(signal.SIGTERM, end)

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    config.add_cleanup(restore)


# ---------------------------------------------------------------------------------------------------- plain servers


@contextlib.contextmanager
def server(options: TrickleOptions, config: pytest.Config) -> Iterator[Server]:
    """A running server, destroyed at the end."""
    with _told(options):
        _prepare(config)
        made = Server.create(choose_installation(), name="tests", settings=options.settings)
    try:
        made.start()
        yield made
    finally:
        made.destroy()


# --------------------------------------------------------------------------------------------------------- clusters


@contextlib.contextmanager
def cluster(options: TrickleOptions, config: pytest.Config) -> Iterator[DatabaseCluster]:
    """The shared cluster, proven; destroyed at the end, or, where it is somebody else's, left without a trace."""
    made: DatabaseCluster
    with _told(options):
        _prepare(config)
        provider = _provider(options, config)
        workers = _worker_count(options)
        if provider.can_start:
            made = provider.start(workers=workers, settings=options.settings)
        elif options.settings:
            pytest.fail("trickle_settings cannot be given to an existing cluster", pytrace=False)
        else:
            made = provider.connect(workers=workers)
    with made:
        prove_topology(made)
        yield made


@contextlib.contextmanager
def database_of_cluster(cluster: DatabaseCluster) -> Iterator[Cluster]:
    """A new database on all nodes, proven, dropped at the end."""
    with cluster.temporary_database() as view:
        prove_topology(view)
        yield view


@contextlib.contextmanager
def cluster_factory(options: TrickleOptions, config: pytest.Config) -> Iterator[MakeCitusCluster]:
    """Makes clusters that may be broken; all are destroyed at the end."""
    with _told(options):
        _prepare(config)
        provider = _provider(options, config)
    if not provider.can_start:
        pytest.skip("not applicable: trickle_cluster names an existing cluster, which is not broken")
    with contextlib.ExitStack() as stack:

        def make(*, workers: int | None = None, settings: Mapping[str, str] | None = None) -> RunningCluster:
            wanted = {**(options.settings or {}), **(settings or {})}
            made = provider.start(workers=_worker_count(options) if workers is None else workers, settings=wanted)
            stack.callback(made.destroy)
            prove_topology(made)
            return made

        yield make


# ---------------------------------------------------------------------------------------------------- stream tables


def migrate(place: Node | Cluster) -> Cluster:
    """Take a database to the end of the chain; one of a plain server becomes a cluster without workers."""
    from harness.chain import runner  # noqa: PLC0415 - half a second of imports, for those who migrate

    view = place if isinstance(place, Cluster) else Cluster(place.name, place, ())
    runner.upgrade(view.coordinator.dsn())
    return view


@contextlib.contextmanager
def stream_tables_of(place: Cluster) -> Iterator[StreamTables]:
    """Its stream tables, on a connection that is closed at the end."""
    from harness.trickle import StreamTables  # noqa: PLC0415 - it brings a SQL parser

    with contextlib.closing(place.coordinator.connect()) as connection, StreamTables(connection) as made:
        yield made
