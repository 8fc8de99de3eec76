"""Whom a load may be sent to: servers on this machine, and nobody else."""

from __future__ import annotations

import ipaddress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.errors import BadInputError, RefusedError

_HINT = "a load goes to 127.0.0.1 only; without a DSN the run starts servers of its own"
# A file of services could lead anywhere.
_ELSEWHERE = ("service", "servicefile")


def require_loopback(dsn: str) -> str:
    """A DSN that leads to this machine and nowhere else.

    Args:
        dsn: of libpq, with its host named in it.

    Returns:
        The same, every host pinned to its address: neither a name server nor a variable leads it elsewhere.

    Raises:
        BadInputError: it is no DSN.
        RefusedError: it leads elsewhere, or says not where; the message names the host and never the password.
    """
    try:
        found = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Its words could hold the password.
        raise BadInputError("this is no DSN", hint="host=127.0.0.1 port=5432 dbname=... user=...") from None
    for word in _ELSEWHERE:
        if found.get(word):
            raise RefusedError(f"a DSN with {word}={found[word]} may lead anywhere", hint=_HINT)
    hosts = _listed(found.get("host"))
    addresses = _listed(found.get("hostaddr"))
    if not hosts and not addresses:
        raise RefusedError("this DSN names no host", hint=_HINT)
    for each in (*hosts, *addresses):
        if not _is_here(each):
            raise RefusedError(f"no load is sent to {each or 'a host without a name'}", hint=_HINT)
    pinned = addresses or ["127.0.0.1" if each == "localhost" else each for each in hosts]
    return make_conninfo("", **{**found, "hostaddr": ",".join(pinned)})


def _listed(value: object) -> list[str]:
    return [each.strip() for each in str(value).split(",")] if value else []


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
