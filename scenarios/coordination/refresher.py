"""A process that changes and refreshes a stream table again and again: ``refresher NAME COUNT WAIT_S FIRST_ID``.

It takes the database from HARNESS_DSN, and begins when the shared advisory lock `GATE` can be had.
"""

from __future__ import annotations

import json
import os
import sys

import psycopg

from harness.errors import LockedError
from harness.trickle import StreamTables

APPLICATION = "scenario refresher"
GATE = 5_180_261


def main(name: str, count: int, wait_s: float, first_id: int) -> None:
    """Print what each refresh did, a line each; LOCKED before it if somebody else was at it, and it was tried again.

    Each has one more entry before it: whatever the machine gives to whom, half of them at least have one to take.
    """
    with psycopg.connect(os.environ["HARNESS_DSN"], autocommit=True) as connection, StreamTables(connection) as tables:
        connection.execute("SELECT set_config('application_name', %s, false)", [APPLICATION])
        connection.execute("SELECT pg_advisory_lock_shared(%s), pg_advisory_unlock_shared(%s)", [GATE, GATE])
        for entry in range(first_id, first_id + count):
            connection.execute("INSERT INTO entries VALUES (%s, %s, 1)", [entry, entry % 7])
            was_locked = False
            while True:
                try:
                    action = tables.refresh(name, wait_s=wait_s).action
                    break
                except LockedError:
                    # Once an entry: as often as it is tried would fill the pipe, and nobody reads before the end.
                    if not was_locked:
                        _say("LOCKED")
                    was_locked = True
            _say(action)


def _say(action: str) -> None:
    print(json.dumps({"action": action}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
