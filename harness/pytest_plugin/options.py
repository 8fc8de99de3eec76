"""Options and ini settings of the plugin; nothing but the standard library and pytest is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

# Ways to a cluster that are words; anything else must be a connection string.
WAYS = ("auto", "local", "containers", "none")
# As harness.clusters.running.MOST_WORKERS, which would have to be imported; a test holds the two equal.
MOST_WORKERS = 32
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class TrickleOptions:
    """What a run was asked for.

    Attributes:
        cluster: ``auto``, ``local``, ``containers``, ``none``, or the DSN of an existing coordinator.
        workers: how many workers clusters have; None: ``CITUS_WORKERS``, which is 2 by default.
        require: whether what is missing fails a test, instead of skipping it.
        settings: of every server and node that is started.
    """

    cluster: str = field(default="auto", repr=False)  # it may hold a password
    workers: int | None = None
    require: bool = False
    settings: Mapping[str, str] | None = None


OPTIONS = pytest.StashKey[TrickleOptions]()


def add_options(parser: pytest.Parser) -> None:
    """Declare them; what the command line does not say, the ini file does."""
    group = parser.getgroup("trickle", "PostgreSQL servers, Citus clusters and stream tables (pgtrickle-citus-harness)")
    group.addoption(
        "--trickle-cluster",
        default=None,
        metavar="WAY",
        help="where Citus clusters come from: auto (HARNESS_CLUSTER, else local processes where Citus is installed, "
        "else containers), local, containers, none (stream tables on plain PostgreSQL), or the DSN of an existing "
        "coordinator",
    )
    group.addoption("--trickle-workers", default=None, metavar="N", help="workers of a cluster (default: 2)")
    group.addoption(
        "--trickle-require",
        action="store_const",
        const="true",
        default=None,
        help="what is missing on this machine, such as Citus, fails a test instead of skipping it",
    )
    parser.addini("trickle_cluster", "as --trickle-cluster", default="")
    parser.addini("trickle_workers", "as --trickle-workers", default="")
    parser.addini("trickle_require", "as --trickle-require: true or false", default="")
    parser.addini(
        "trickle_settings",
        "settings of PostgreSQL for every server that is started, one NAME = VALUE a line",
        "linelist",
        [],
    )


def read_options(config: pytest.Config) -> TrickleOptions:
    """The options of a run: the command line, else the ini file.

    Raises:
        pytest.UsageError: a value cannot be used; says which and from where, never a connection string.
    """
    return TrickleOptions(
        cluster=_cluster(*_given(config, "cluster")),
        workers=_workers(*_given(config, "workers")),
        require=_require(*_given(config, "require")),
        settings=_settings(config),
    )


def _given(config: pytest.Config, name: str) -> tuple[str, str]:
    """Where a value is from, and the value."""
    option = config.getoption(f"trickle_{name}")
    if option is not None:
        return f"--trickle-{name}", str(option).strip()
    try:
        return f"trickle_{name}", str(config.getini(f"trickle_{name}")).strip()
    except (TypeError, ValueError) as error:  # pytest 9 reads TOML's own types
        raise pytest.UsageError(f"trickle_{name}: {error}") from None


def _cluster(place: str, value: str) -> str:
    value = value or "auto"
    # Only what cannot be a connection string is shown: one may hold a password.
    if value not in WAYS and "=" not in value and "://" not in value:
        raise pytest.UsageError(
            f"{place}: {value!r} is no way to a cluster; use {', '.join(WAYS)}, or the DSN of an existing coordinator"
        )
    return value


def _workers(place: str, value: str) -> int | None:
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and int(value) <= MOST_WORKERS):
        raise pytest.UsageError(f"{place}: {value!r} is no number of workers; use 0 to {MOST_WORKERS}")
    return int(value)


def _require(place: str, value: str) -> bool:
    if value.lower() not in _TRUE + _FALSE:
        raise pytest.UsageError(f"{place}: {value!r} is neither true nor false")
    return value.lower() in _TRUE


def _settings(config: pytest.Config) -> Mapping[str, str]:
    try:
        lines = config.getini("trickle_settings")
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"trickle_settings: {error}") from None
    settings = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise pytest.UsageError(f"trickle_settings: {line!r} is not NAME = VALUE")
        settings[name.strip()] = value.strip().removeprefix("'").removesuffix("'")
    return settings
