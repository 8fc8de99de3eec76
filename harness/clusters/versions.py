"""Which Citus goes with which PostgreSQL, and the installation that has such a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from harness.errors import UnsupportedVersionError
from harness.postgres.installations import Installation, choose_installation, find_installations

# Citus 13 serves PostgreSQL 15 to 17, Citus 14.0 is the first for PostgreSQL 18 (F27); this project
# is tested on the newest pair of each and refuses the rest by name rather than failing half way.
SUPPORTED_PAIRS: Mapping[int, int] = MappingProxyType({17: 13, 18: 14})


def supported_pairs_text() -> str:
    """The supported pairs in words, for messages."""
    return ", ".join(f"Citus {citus}.x on PostgreSQL {postgres}" for postgres, citus in SUPPORTED_PAIRS.items())


def citus_major(version: str) -> int:
    """The major number of a Citus version such as ``14.0-1``, ``14.0.1`` or ``13.2devel``.

    Raises:
        UnsupportedVersionError: the text does not begin with a number.
    """
    head = version.strip().partition(".")[0]
    if not head.isdigit():
        raise UnsupportedVersionError(
            f"{version!r} is no Citus version that can be read", hint=f"supported: {supported_pairs_text()}"
        )
    return int(head)


def is_supported_pair(postgres_major: int, citus_version: str) -> bool:
    """Whether this Citus is supported on this PostgreSQL (F27)."""
    return postgres_major in SUPPORTED_PAIRS and SUPPORTED_PAIRS[postgres_major] == citus_major(citus_version)


def check_pair(postgres_major: int, citus_version: str, *, where: str) -> None:
    """Refuse a pair that is not supported.

    Args:
        postgres_major: such as 18.
        citus_version: such as ``14.0-1``.
        where: which server or directory has it, for the message.

    Raises:
        UnsupportedVersionError: names both versions and the place.
    """
    if not is_supported_pair(postgres_major, citus_version):
        raise UnsupportedVersionError(
            f"Citus {citus_version} on PostgreSQL {postgres_major} ({where}) is not supported",
            hint=f"supported: {supported_pairs_text()}",
        )


def choose_citus_installation(candidates: Iterable[Installation] | None = None) -> Installation:
    """The first installation with a supported pair of PostgreSQL and Citus.

    Args:
        candidates: where to look; None searches this machine.

    Raises:
        CitusMissingError: none has Citus; says where it looked.
        UnsupportedVersionError: some have Citus, none of them a supported pair; names the first.
        BinariesNotFoundError: there is no PostgreSQL at all.
    """
    found = tuple(find_installations() if candidates is None else candidates)
    with_citus = [each for each in found if each.citus_version is not None]
    for installation in with_citus:
        if is_supported_pair(installation.major, installation.citus_version or ""):
            return installation
    if with_citus:
        first = with_citus[0]
        check_pair(first.major, first.citus_version or "", where=str(first.bindir))
    return choose_installation(citus=True)
