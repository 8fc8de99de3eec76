"""A process that refreshes one stream table again and again: ``refresher NAME COUNT WAIT_S``, with HARNESS_DSN."""

from __future__ import annotations

import json
import os
import sys

import psycopg

from harness.errors import LockedError
from harness.trickle import StreamTables


def main(name: str, count: int, wait_s: float) -> None:
    """Print what each refresh did, a line each; LOCKED where somebody else was at it."""
    with psycopg.connect(os.environ["HARNESS_DSN"], autocommit=True) as connection, StreamTables(connection) as tables:
        for _round in range(count):
            try:
                action = tables.refresh(name, wait_s=wait_s).action
            except LockedError:
                action = "LOCKED"
            print(json.dumps({"action": action}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
