"""Whether the public extension is here, found as Citus is: by what an installation and a server say they have.

Nothing of the extension is part of this project, and nothing here builds or fetches it.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import EnvironmentMissingError
from harness.postgres.installations import Installation, find_installations, places_searched
from harness.postgres.node import Node

EXTENSION = "pg_trickle"
# What a server that has it is told, beside what all servers are.
SERVER_SETTINGS: Mapping[str, str] = {
    # Its shared memory and its scheduler need it; without them its functions run, and warn.
    "shared_preload_libraries": EXTENSION,
    # Refreshes are asked for by whoever compares: nobody else works meanwhile.
    "pg_trickle.enabled": "off",
    # Its scheduler's launcher and workers have a slot each, should one be turned on.
    "max_worker_processes": "32",
}
_AVAILABLE = "SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'pg_trickle'"


class ExtensionMissingError(EnvironmentMissingError):
    """No PostgreSQL with the public extension was found; the message says where it was looked for."""


def extension_version(installation: Installation) -> str | None:
    """The version of pg_trickle that an installation has, such as ``0.67.0``; None without it."""
    return installation.extensions.get(EXTENSION)


def choose_extension_installation(*, citus: bool = False) -> Installation:
    """The first supported installation that has the public extension.

    Args:
        citus: it must have Citus, too.

    Raises:
        ExtensionMissingError: there is none; says where it looked.
        BadInputError: ``HARNESS_PG_BINDIR`` cannot be used.
    """
    found = [one for one in find_installations() if one.is_supported]
    for one in found:
        if extension_version(one) is not None and (one.citus_version is not None or not citus):
            return one
    what = f"{EXTENSION} and Citus" if citus else EXTENSION
    listed = ", ".join(str(one.bindir) for one in found) or "none"
    raise ExtensionMissingError(
        f"no PostgreSQL with {what} was found (without: {listed}; looked at: {', '.join(places_searched())})",
        hint="HARNESS_PG_BINDIR names the bin directory of a PostgreSQL that has the extension",
    )


def require_extension(node: Node) -> str:
    """The version that a running server can install.

    Args:
        node: any database of it.

    Raises:
        ExtensionMissingError: its ``pg_available_extensions`` does not have it, or its library is not preloaded.
    """
    rows = node.rows(_AVAILABLE)
    if not rows:
        raise ExtensionMissingError(
            f"pg_available_extensions of {node.name} has no {EXTENSION}", hint="use a server that has it"
        )
    libraries = [each.strip() for each in str(node.value("SHOW shared_preload_libraries")).split(",")]
    if EXTENSION not in libraries:
        raise ExtensionMissingError(
            f"{node.name} does not preload {EXTENSION}", hint=f"add {EXTENSION} to shared_preload_libraries"
        )
    return str(rows[0][0])
