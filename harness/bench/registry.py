"""Which groups of benchmarks there are, and where each lives. A group is loaded when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from harness.bench.model import GroupResult, Profile, Tell
from harness.bench.supply import Supply
from harness.errors import BadInputError


@dataclass(frozen=True)
class Group:
    """A group of benchmarks.

    Attributes:
        name: as on the command line.
        title: for people.
        seconds: how long it takes on two cores, by profile; also its share of the progress. A profile that is not
            named does not run it.
        needs_citus: whether nothing of it can run without Citus; a group that needs it for a part says so itself.

    The module ``harness.bench.groups.<name>`` has ``run(supply, profile, tell) -> GroupResult``.
    """

    name: str
    title: str
    seconds: dict[Profile, float]
    needs_citus: bool = False

    def load(self) -> Callable[[Supply, Profile, Tell], GroupResult]:
        """What runs it."""
        found = import_module(f"harness.bench.groups.{self.name}").run
        return cast("Callable[[Supply, Profile, Tell], GroupResult]", found)


def _seconds(smoke: float | None, standard: float | None, full: float) -> dict[Profile, float]:
    found = {Profile.SMOKE: smoke, Profile.STANDARD: standard, Profile.FULL: full}
    return {profile: seconds for profile, seconds in found.items() if seconds is not None}


# The sums stay below 50 s and ten minutes.
GROUPS: tuple[Group, ...] = (
    Group("positions", "The position that a captured change gets", _seconds(6, 50, 240)),
    Group("forms", "The capture's form", _seconds(None, 70, 900)),
    Group("capture", "Capture against none", _seconds(8, 60, 300)),
    Group("throughput", "Single rows by several clients", _seconds(6, 50, 300)),
    Group("refresh", "Refresh against SQL by hand, and against recomputing", _seconds(12, 145, 1800)),
    Group("crossover", "Where recomputing is cheaper, and whether AUTO finds it", _seconds(None, 40, 600)),
    Group("growth", "What grows with sources, tables, shards, workers and rows", _seconds(None, 60, 1800)),
    Group("migrations", "The chain on many sources", _seconds(None, 20, 600)),
    Group("starts", "From nothing to a usable server or cluster", _seconds(None, 15, 60)),
    Group("matrix", "The plan's ten rows", _seconds(None, 45, 180), needs_citus=True),
    # In full only: a standard run has no time left. Named on the command line it takes 150 s in any other profile.
    Group("peer", "Beside the public extension, on one server", _seconds(None, None, 2400)),
)


def choose_groups(names: list[str] | tuple[str, ...], profile: Profile) -> tuple[Group, ...]:
    """The groups of these names, in the order of `GROUPS`; those of the profile if none is named.

    Raises:
        BadInputError: there is no group of such a name.
    """
    known = {group.name for group in GROUPS}
    unknown = sorted(set(names) - known)
    if unknown:
        raise BadInputError(f"there is no group {unknown[0]!r}", hint=f"groups are {', '.join(sorted(known))}")
    return tuple(group for group in GROUPS if (group.name in names if names else profile in group.seconds))
