"""All inspectors, with the most that each can be asked for; and an answer without what may change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import psycopg

from harness.inspectors import opening, registry
from harness.inspectors.contract import Cost, Envelope
from harness.inspectors.inputs import required
from harness.inspectors.limits import Limits
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session
from harness.postgres import Node

# Inputs that some inspectors must have: which table.
_NEEDED = {"schema": "app", "table": "orders"}


def names() -> tuple[str, ...]:
    """Every inspector."""
    return registry.names()


def values(name: str) -> dict[str, Any]:
    """The least that an inspector must be given."""
    return {each: _NEEDED[each] for each in required(registry.get(name).inputs)}


def most_values(name: str) -> dict[str, Any]:
    """As `values`, and everything switched on: all texts, all rows, all details."""
    found = values(name)
    for each in fields(registry.get(name).inputs):
        if each.metadata["kind"] == "flag" and not each.name.startswith("reveal"):
            found[each.name] = True
        if each.metadata["kind"] == "choice" and "truncated" in each.metadata["choices"]:
            found[each.name] = "truncated"
    return {**found, "limit": 1000}


@contextmanager
def session(node: Node) -> Iterator[Session]:
    """What a look gets, as a superuser."""
    limits = Limits()
    with (
        psycopg.connect(node.dsn(), autocommit=True) as connection,
        opening.transaction(connection, limits, Cost.FAN_OUT),
    ):
        yield opening.open_session(connection, limits, Cost.FAN_OUT, Redactor())


def text(envelope: Envelope[Any]) -> str:
    """The whole answer as JSON."""
    return json.dumps(envelope.document(), ensure_ascii=False, default=str)


def still(envelope: Envelope[Any]) -> dict[str, Any]:
    """The answer without what may change on an unchanged cluster: volatile columns of rows, volatile facts."""
    found = {key: value for key, value in envelope.document().items() if key != "next_cursor"}
    found["rows"] = [_without(row, envelope.volatile) for row in found["rows"]]
    found["facts"] = _without(found["facts"], envelope.volatile)
    loaded: dict[str, Any] = json.loads(json.dumps(found, ensure_ascii=False))
    return loaded


def _without(value: Any, volatile: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(each, volatile) for key, each in value.items() if key not in volatile}
    if isinstance(value, list | tuple):
        return [_without(each, volatile) for each in value]
    return value
