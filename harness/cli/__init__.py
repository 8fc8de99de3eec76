"""The command line: one file a command group, mounted here."""

from __future__ import annotations

from harness.cli.app import main

__all__ = ["main"]
