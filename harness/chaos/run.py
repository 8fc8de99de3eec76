"""A chaos run from the start of its servers to its verdict."""

from __future__ import annotations

import os
import platform
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from psycopg import sql

from harness.chain.runner import upgrade
from harness.chaos.board import Board, recoveries
from harness.chaos.clients import client_faults, through
from harness.chaos.ddl import Changes
from harness.chaos.guarded import guard_verbs
from harness.chaos.lanes import LanePlayer, fault_maker, scheduler_maker
from harness.chaos.ledger import Account, Ledger, Outcome
from harness.chaos.model import Judged, Lane, Options, Plan, RunResult, Tell
from harness.chaos.plan import make_plan
from harness.chaos.refreshers import Refresher, SchedulerProcess
from harness.chaos.settle import Settled, settle
from harness.chaos.shop import KEPT, make_kept, make_sources
from harness.chaos.writers import Gates, Writer
from harness.clusters import prove_topology
from harness.clusters.providers import Provider, choose_provider
from harness.errors import CitusMissingError, HarnessError, UnsupportedVersionError
from harness.faults import Site, linked
from harness.faults.proxy import Proxy
from harness.postgres import choose_installation
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.server import Server
from harness.postgres.template import SUPERUSER
from harness.settings import load_settings
from harness.trickle import StreamTables

WORKERS = 2
WRITERS = 4
REFRESHERS = 2
DBNAME = "chaos"
# What runs on the servers of a run beside our own settings.
_SETTINGS: Mapping[str, str] = {
    # What a lost coordinator left prepared is resolved within a run, as a minute would be within an hour.
    "citus.recover_2pc_interval": "2s",
}
# The default is 0, and a prepared transaction is one of the faults.
_PLAIN_SETTINGS: Mapping[str, str] = {"max_prepared_transactions": "10"}
# A harness that froze for longer than that loses its lease: the plan freezes the scheduler for up to 2.5 s.
_LOCK_TIMEOUT = "2s"
_ACTOR_DEADLINE_S = 120.0
_REMOVE = "Server.attach(Path('{root}')).destroy()"
# How clients wait for a server that is gone: those that come to a frozen one give up after 2 s.
_CONNECT_TIMEOUT_S = 2


@dataclass(frozen=True)
class Place:
    """Servers of a run's own.

    Attributes:
        site: the nodes and the database.
        facts: versions and the machine.
        missing: why it is no cluster; empty if it is one.
    """

    site: Site
    facts: Mapping[str, str]
    missing: str = ""


def choose_maker(options: Options) -> tuple[Provider | None, str]:
    """Who makes the cluster, or why there is none.

    Raises:
        EnvironmentMissingError: what was named, or is required (HARNESS_REQUIRE_CITUS), is not to be had.
        RefusedError: an existing cluster, which is not broken.
    """
    if options.is_plain:
        return None, "asked for with --plain"
    try:
        provider = choose_provider(options.cluster)
    except (CitusMissingError, UnsupportedVersionError) as error:
        settings = load_settings()
        if options.cluster or settings.cluster or settings.require_citus:
            raise
        return None, f"environment: {error.message}"
    if not provider.can_start:
        provider.start()  # says why not
    return provider, ""


def _facts(postgres_version: str, citus_version: str, where: str) -> dict[str, str]:
    return {
        "PostgreSQL": postgres_version,
        "Citus": citus_version,
        "cluster": where,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count() or 1),
        "Python": platform.python_version(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def open_place(provider: Provider | None, missing: str, *, keep: bool = False) -> Iterator[Place]:
    """Servers for one run, with an empty database; destroyed after the block unless they are kept."""
    if provider is None:
        installation = choose_installation()
        server = Server.create(installation, name="chaos", settings=_PLAIN_SETTINGS)
        with ExitStack() as stack:
            stack.callback(server.detach if keep else server.destroy)
            server.start()
            server.create_database(DBNAME)
            facts = _facts(installation.version, "none", "none: one server")
            yield Place(Site.of_server(server, DBNAME), facts, missing)
        return
    with ExitStack() as stack:
        cluster = provider.start(workers=WORKERS, settings=_SETTINGS, name="chaos")
        detach = getattr(cluster, "detach", None)
        stack.callback(detach if keep and detach is not None else cluster.destroy)
        prove_topology(cluster, workers=WORKERS)
        cluster.create_database(DBNAME)
        facts = _facts(provider.postgres_version, provider.citus_version, f"1+{WORKERS}, {provider.label}")
        yield Place(Site.of_cluster(cluster, DBNAME), facts, missing)


def run_chaos(options: Options, tell: Tell = lambda _words: None) -> Iterator[RunResult]:
    """Run a seed after the other, each on servers of its own: what one broke cannot make the next one fail.

    Args:
        options: what was asked for.
        tell: told what is going on, in words.

    Yields:
        Each run's result, when it has ended.

    Raises:
        BadInputError: what was asked for cannot be.
        EnvironmentMissingError, ServerError: there are no servers to be had.
    """
    options.check()
    provider, missing = choose_maker(options)
    for seed in range(options.seed, options.seed + options.runs):
        yield _run(replace(options, seed=seed), provider, missing, tell)


def _run(options: Options, provider: Provider | None, missing: str, tell: Tell) -> RunResult:
    started = time.monotonic()
    tell(f"seed {options.seed}: starting the servers")
    plan = make_plan(options.seed, options.seconds, has_citus=provider is not None)
    with open_place(provider, missing, keep=options.keep) as place:
        board, ledger = Board(), Ledger()
        with ExitStack() as stack:
            guard_verbs(place.site.nodes)
            site = prepare(stack, place.site, plan)
            start_s = time.monotonic() - started
            tell(f"seed {options.seed}: {options.seconds:g} s, {len(plan.steps)} steps planned")
            writers = act(site, plan, board, ledger)
        tell(f"seed {options.seed}: settling")
        settling = time.monotonic()
        settled = _settled(place.site, board, ledger)
        kept = _describe_kept(place.site) if options.keep else ""
        result = _result(plan, board, ledger, settled)
        errors = sum((writer.errors for writer in writers), Counter[str]())
        return replace(
            result,
            elapsed_s=time.monotonic() - started,
            start_s=start_s,
            settle_s=time.monotonic() - settling,
            retried=sum(writer.retried for writer in writers),
            write_errors=dict(sorted(errors.items())),
            facts=place.facts,
            missing=place.missing,
            kept=kept,
        )


def prepare(stack: ExitStack, site: Site, plan: Plan) -> Site:
    """Tables, stream tables, proxies; the site with its links."""
    dsn = site.coordinator.dsn(site.dbname)
    upgrade(dsn)
    with site.coordinator.connect(site.dbname, deadline_s=60) as connection:
        make_sources(connection, has_citus=site.has_citus)
        with StreamTables(connection) as tables:
            for kept in KEPT:
                make_kept(tables, kept, has_citus=site.has_citus)
    site.coordinator.sql(
        sql.SQL("ALTER DATABASE {} SET pgtrickle.lock_timeout = {}").format(
            sql.Identifier(site.dbname), sql.Literal(_LOCK_TIMEOUT)
        )
    )
    if site.has_citus:
        # A worker that did not answer gets its metadata again at once: until then Citus refuses DDL (55000). No setting
        # of a file: Citus hides these two from pg_settings.
        site.coordinator.sql("ALTER SYSTEM SET citus.metadata_sync_interval = '2s'")
        site.coordinator.sql("ALTER SYSTEM SET citus.metadata_sync_retry_interval = '500ms'")
        site.coordinator.sql("SELECT pg_catalog.pg_reload_conf()")
    if not plan.has_links:
        return site
    links = {worker.name: stack.enter_context(linked(site, worker)) for worker in site.workers}
    return replace(site, links=links)


def act(site: Site, plan: Plan, board: Board, ledger: Ledger) -> list[Writer]:
    """All actors at once, until the time is up; they have ended when this returns."""
    proxy = Proxy((site.coordinator.host, site.coordinator.port))
    direct = site.coordinator.dsn(site.dbname)
    by_proxy = through(proxy, direct)
    gates = Gates()

    def connect(dsn: str) -> DeadlineConnection:
        return DeadlineConnection.connect(dsn, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)

    # Half of those who come to the coordinator come through the proxy; on a cluster half of the writers use workers.
    entries = [by_proxy, direct, *(worker.dsn(site.dbname) for worker in site.workers), direct, by_proxy][:WRITERS]
    writers = [
        Writer(
            number,
            WRITERS,
            lambda dsn=dsn: connect(dsn),  # type: ignore[misc]
            is_local=dsn in (direct, by_proxy),
            chance=random.Random(f"chaos {plan.seed} writer {number}"),  # noqa: S311
            board=board,
            ledger=ledger,
            gates=gates,
        )
        for number, dsn in enumerate(entries)
    ]
    refreshers = [
        Refresher(
            number,
            lambda dsn=dsn: connect(dsn),  # type: ignore[misc]
            chance=random.Random(f"chaos {plan.seed} refresher {number}"),  # noqa: S311
            board=board,
        )
        for number, dsn in enumerate((by_proxy, direct)[:REFRESHERS])
    ]
    scheduler = SchedulerProcess(by_proxy, board)
    changes = Changes(lambda: connect(direct), has_citus=site.has_citus, board=board, ledger=ledger, gates=gates)
    faults = fault_maker(site, client_faults(proxy))
    makers = {
        Lane.FAULT: faults,
        Lane.SHAPE: faults,
        Lane.DDL: changes.maker(),
        Lane.SCHEDULER: scheduler_maker(scheduler),
    }
    players = [
        LanePlayer(lane, [step for step in plan.steps if step.lane is lane], make, board)
        for lane, make in makers.items()
    ]
    try:
        scheduler.start()
        board.began = time.monotonic()
        actors = [*writers, *refreshers, *players]
        for actor in actors:
            actor.start()
        board.stopping.wait(plan.seconds)
        board.stopping.set()
        # Faults first: who waits for a frozen node ends once it is thawed.
        for actor in reversed(actors):
            actor.join(timeout=_ACTOR_DEADLINE_S)
            if actor.is_alive():
                board.trouble("leftover", actor.name, f"it still works {_ACTOR_DEADLINE_S:.0f} s after the end")
    finally:
        board.stopping.set()
        scheduler.stop()
        proxy.close()
    return writers


def _settled(site: Site, board: Board, ledger: Ledger) -> Settled | None:
    try:
        return settle(site, board, ledger)
    except HarnessError as error:
        board.trouble("unhealthy", site.coordinator.name, f"{type(error).__name__}: {error.message}")
    except Exception as error:
        board.bug("the verdict", error)
    return None


def _describe_kept(site: Site) -> str:
    """Where everything is, and how it is taken away: nobody else knows of it any more."""
    lines = [f"database {site.dbname}"]
    for node in site.nodes:
        if isinstance(node, Server):
            lines.append(
                f"{node.name}: PGPASSFILE={node.root / 'pgpass'} psql -h {node.host} -p {node.port} -U {SUPERUSER}"
            )
            remove = f'python -c "from pathlib import Path; from harness.postgres import Server; {_REMOVE}"'
            lines.append(f"  take it away: {remove.format(root=node.root)}")
        else:
            lines.append(f"{node.name}: {node.host}:{node.port}")
    return "\n".join(lines)


def _result(plan: Plan, board: Board, ledger: Ledger, settled: Settled | None) -> RunResult:
    account = settled.account if settled is not None else Account((), 0, 0)
    return RunResult(
        plan=plan,
        done=tuple(sorted(board.done, key=lambda done: done.at_s)),
        acknowledged=ledger.count(Outcome.ACKNOWLEDGED),
        unknown=ledger.count(Outcome.UNKNOWN),
        unknown_committed=account.unknown_committed,
        rolled_back=ledger.count(Outcome.ROLLED_BACK),
        row_count=account.row_count,
        troubles=(*board.troubles, *account.troubles),
        stream_tables=settled.judged if settled is not None else (Judged("all", None, False, "not looked at"),),
        refreshes=dict(sorted(board.refreshes.items())),
        refresh_failures=dict(sorted(board.failures.items())),
        recoveries=recoveries(board),
        examples=dict(sorted(board.examples.items())),
        notes=tuple(board.notes),
    )
