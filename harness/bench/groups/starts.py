"""From nothing to a usable server, and to a distributed table on 1+2; what is started is gone after each round."""

from __future__ import annotations

import time
from contextlib import ExitStack

from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Check, Gathered, GroupResult, Measurement, Profile, Tell
from harness.bench.statistics import median_interval
from harness.bench.supply import Supply
from harness.clusters.providers import Provider
from harness.postgres import Installation, choose_installation, temporary_server

NAME = "starts"
TITLE = "From nothing to a usable server or cluster"
_ROUNDS = {Profile.SMOKE: 3, Profile.STANDARD: 7, Profile.FULL: 20}
_ROWS = 100
_WORKERS = 2


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Start a server and, where there is Citus, a cluster, by turns; stopping them is not timed."""
    begun = time.monotonic()
    gathered = Gathered()
    with ExitStack() as stack:
        starter = _Starter(stack, gathered)
        installation = choose_installation()
        contestants = [
            Contestant("server", lambda: starter.start_server(installation), after=stack.close),
        ]
        if (provider := supply.provider) is not None:
            contestants.append(Contestant("cluster 1+2", lambda: starter.start_cluster(provider), after=stack.close))
        tell(f"{_ROUNDS[profile]} rounds")
        # The first of each fills the templates' cache.
        found = measure(contestants, rounds=_ROUNDS[profile], warmups=1)
    gathered.measurements += found
    if len(found) == 2:
        gathered.ratios.append(ratio(found[1], found[0]))
    else:
        gathered.notes.append(f"No cluster was started: {supply.missing}.")
    gathered.notes.append("From nothing to a query that is answered: " + ", ".join(map(_describe, found)) + ".")
    return gathered.result(NAME, TITLE, time.monotonic() - begun)


class _Starter:
    """Starts what the stack stops, and looks at each once whether it works."""

    def __init__(self, stack: ExitStack, gathered: Gathered) -> None:
        self._stack = stack
        self._gathered = gathered
        self._looked_at: set[str] = set()

    def start_server(self, installation: Installation) -> None:
        """To a query that is answered."""
        server = self._stack.enter_context(temporary_server(installation, name="bench-start"))
        self._look("server", server.value("SELECT count(*) FROM generate_series(1, %s)", (_ROWS,)))

    def start_cluster(self, provider: Provider) -> None:
        """To rows in a distributed table."""
        cluster = provider.start(workers=_WORKERS, name="bench-start")
        self._stack.callback(cluster.destroy)
        cluster.sql("CREATE TABLE ready (id bigint PRIMARY KEY)")
        cluster.sql("SELECT create_distributed_table('ready', 'id')")
        cluster.sql("INSERT INTO ready SELECT * FROM generate_series(1, %s)", (_ROWS,))
        self._look("cluster 1+2", cluster.value("SELECT count(*) FROM ready"))

    def _look(self, name: str, found: object) -> None:
        if name not in self._looked_at or found != _ROWS:
            self._looked_at.add(name)
            self._gathered.checks.append(Check(name, found == _ROWS, f"{found} of {_ROWS} rows"))


def _describe(found: Measurement) -> str:
    interval = median_interval(found.samples)
    return f"{found.name} {interval.value:.2f} s [{interval.low:.2f} to {interval.high:.2f}]"
