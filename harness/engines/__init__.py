"""Two engines behind one interface: this project's, and the public extension pg_trickle (docs/beside-pg-trickle.md)."""

from __future__ import annotations

from harness.engines.installed import (
    EXTENSION,
    SERVER_SETTINGS,
    choose_extension_installation,
    extension_version,
    require_extension,
)
from harness.engines.model import (
    Done,
    Engine,
    EngineName,
    EngineRefusedError,
    Footprint,
    Recomputing,
    Standing,
    Tables,
)
from harness.engines.ours import OURS
from harness.engines.pg_trickle import PG_TRICKLE

ENGINES: tuple[Engine, ...] = (OURS, PG_TRICKLE)

__all__ = [
    "ENGINES",
    "EXTENSION",
    "OURS",
    "PG_TRICKLE",
    "SERVER_SETTINGS",
    "Done",
    "Engine",
    "EngineName",
    "EngineRefusedError",
    "Footprint",
    "Recomputing",
    "Standing",
    "Tables",
    "choose_extension_installation",
    "extension_version",
    "require_extension",
]
