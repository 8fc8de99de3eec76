"""The demonstration: a 0.2.0 installation with sources of every awkward kind, stream tables, and pending changes."""

from harness.rehearsal.demonstration.build import Demonstration, build_demonstration

__all__ = ["Demonstration", "build_demonstration"]
