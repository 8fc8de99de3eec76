"""Faults between clients and the coordinator: a proxy in front of it, and the registry's faults with these added."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from harness.faults import FAULTS, Fault, Site
from harness.faults.proxy import Mode, Proxy


def client_faults(proxy: Proxy) -> Mapping[str, Fault]:
    """Faults of the way to the coordinator, for those who come through this proxy."""

    def fault(mode: Mode, about: str) -> Fault:
        @contextmanager
        def make(_site: Site, _chance: random.Random) -> Iterator[str]:
            try:
                proxy.set_mode(mode)
                yield f"clients' way to the coordinator: {mode}"
            finally:
                proxy.set_mode("pass")

        return Fault(f"client_{mode}", about, make)

    made = (
        fault("cut", "clients' connections to the coordinator are reset"),
        fault("half_open", "the coordinator is not told that its clients are gone"),
        fault("black_hole", "the coordinator and its clients hear nothing of each other"),
    )
    return {**FAULTS, **{each.name: each for each in made}}


def through(proxy: Proxy, dsn: str) -> str:
    """The same database, by way of the proxy."""
    host, port = proxy.address
    return make_conninfo(dsn, host=host, port=port)
