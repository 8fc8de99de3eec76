"""What pg_trickle 0.67 does instead, construct by construct: seen, each with the words of the failure."""

from __future__ import annotations

from collections.abc import Mapping

from scenarios.fixtures.engines import Expected

INCREMENTAL_CONSTRUCTS: Mapping[str, Expected] = {}
RECOMPUTED_CONSTRUCTS: Mapping[str, Expected] = {}
