"""Stable names: what a source's objects are called, equal on every node and after a restore."""

from __future__ import annotations

import xxhash

# pg_trickle's own seed (D1): the names given here are the names that the extension would give.
STABLE_NAME_SEED = 0x517CC1B727220A95


def stable_name(schema: str, name: str) -> str:
    """The stable name of a table: xxh64 of ``schema.table`` in UTF-8, as 16 hex digits (D1).

    ``pgtrickle.stable_hash`` computes the same in the database; a property test holds the two equal.

    Args:
        schema: as the catalog holds it, never quoted.
        name: of the table, likewise.
    """
    return xxhash.xxh64(f"{schema}.{name}".encode(), seed=STABLE_NAME_SEED).hexdigest()
