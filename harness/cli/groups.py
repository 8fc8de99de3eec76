"""Which file has which command; each is loaded when it is called, since what all of them need takes a second."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

# By name: the module below harness.cli, and what it has: a function, or `app` for a group of commands.
COMMANDS = {
    "chaos": ("chaos", "chaos"),
    "demo": ("demo", "demo"),
    "doctor": ("doctor", "doctor"),
    "mcp": ("mcp", "mcp"),
    "matrix": ("matrix", "matrix"),
    "rehearse": ("rehearse", "rehearse"),
    "bench": ("bench", "app"),
    "cluster": ("cluster", "app"),
    "inspect": ("inspect", "app"),
    "migrate": ("migrate", "app"),
    "scheduler": ("scheduler", "app"),
    "st": ("stream_tables", "app"),
}


class _Lazy(MutableMapping[str, Any]):
    """The commands by name; looking one up loads it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module, attribute = COMMANDS[name]
            self._loaded[name] = _load(name, getattr(import_module(f"harness.cli.{module}"), attribute))
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _load(name: str, found: Any) -> Any:
    mounted = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        mounted.add_typer(found, name=name)
        return typer.main.get_group(mounted).commands[name]
    mounted.command(name)(found)
    return typer.main.get_command(mounted)


class LazyGroup(TyperGroup):
    """The ``harness`` command itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Lazy()
