"""Servers whose verbs two lanes may call at once: an undo starts all nodes while another lane kills one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from harness.postgres.server_node import ServerNode

_VERBS = ("start", "stop", "kill", "freeze", "thaw")


def guard_verbs(nodes: Iterable[ServerNode]) -> None:
    """Let the verbs of each node wait for one another: who starts a node that somebody starts finds it running.

    Args:
        nodes: of this run; changed in place.
    """
    for node in nodes:
        lock = threading.RLock()
        for verb in _VERBS:
            setattr(node, verb, _guarded(lock, getattr(node, verb)))


def _guarded(lock: threading.RLock, verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> Any:
        with lock:
            return verb(*arguments, **options)

    return run
