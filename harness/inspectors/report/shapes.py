"""Dataclasses of inspectors as JSON, and as JSON schemas."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from harness.inspectors.contract import Reason, Status
from harness.report.text import finite, without_surrogates

_PLAIN: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def to_json(value: Any) -> Any:
    """What ``json.dumps`` takes, and a JSON schema knows: dicts, lists, texts that UTF-8 can hold, finite numbers.

    Args:
        value: a dataclass, or what one is made of; its fields keep their order.

    Raises:
        TypeError: something in it has no JSON.
    """
    found: Any
    match value:
        case None | bool() | int():
            found = value
        case float():
            found = finite(value)
        case str():
            found = without_surrogates(str(value))
        case Mapping():
            found = {without_surrogates(str(key)): to_json(item) for key, item in value.items()}
        case Sequence():
            found = [to_json(item) for item in value]
        case _ if is_dataclass(value):
            shown = [each.name for each in fields(value) if each.metadata.get("is_shown", True)]
            found = {name: to_json(getattr(value, name)) for name in shown}
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON")
    return found


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema (2020-12) of a type that rows are made of.

    Args:
        kind: str, int, float, bool, None, a literal, an enumeration of words, a tuple or mapping of those, a
            dataclass, or a union of any.

    Raises:
        TypeError: it has no JSON.
    """
    origin, parts = get_origin(kind), get_args(kind)
    found: dict[str, Any]
    if kind is Any:
        found = {}
    elif kind in _PLAIN:
        found = {"type": _PLAIN[kind]}
    elif origin is Literal:
        found = {"enum": list(parts)}
    elif origin in (Union, types.UnionType):
        found = _union([schema_of(part) for part in parts])
    elif origin is not None:
        found = _container(kind, origin, parts)
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        found = {"type": "string", "enum": [each.value for each in kind]}
    elif is_dataclass(kind):
        found = _object(kind if isinstance(kind, type) else type(kind))
    else:
        raise TypeError(f"{kind} has no JSON schema")
    return found


def _container(kind: Any, origin: Any, parts: tuple[Any, ...]) -> dict[str, Any]:
    if not isinstance(origin, type):
        raise TypeError(f"{kind} has no JSON schema")
    if issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(parts[1])}
    if issubclass(origin, tuple) and parts[-1] is not Ellipsis:
        return {
            "type": "array",
            "prefixItems": [schema_of(part) for part in parts],
            "minItems": len(parts),
            "items": False,
        }
    if issubclass(origin, Sequence | frozenset):
        return {"type": "array", "items": schema_of(parts[0])}
    if is_dataclass(origin):
        return _object(origin)
    raise TypeError(f"{kind} has no JSON schema")


def _union(members: list[dict[str, Any]]) -> dict[str, Any]:
    # ["integer", "null"] reads better than anyOf, and is the same.
    if all(set(each) == {"type"} and isinstance(each["type"], str) for each in members):
        return {"type": [each["type"] for each in members]}
    return {"anyOf": members}


@cache
def _object(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    names = [each.name for each in fields(kind)]
    return {
        "type": "object",
        "properties": {name: schema_of(hints[name]) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def envelope_schema(row: type[Any]) -> dict[str, Any]:
    """The JSON schema of an inspector's envelope: its fields, with rows of this type.

    Fields may be added to it within a version; of rows and facts each inspector has its own.
    """
    texts = {"type": "array", "items": {"type": "string"}}
    failed = {
        "type": "object",
        "properties": {"nodeid": {"type": "integer"}, "node": {"type": "string"}, "reason": {"type": "string"}},
        "required": ["nodeid", "node", "reason"],
    }
    properties: dict[str, Any] = {
        "name": {"type": "string"},
        "status": schema_of(Status),
        "reason": {"anyOf": [schema_of(Reason), {"type": "null"}]},
        "message": {"type": "string"},
        "rows": {"type": "array", "items": schema_of(row)},
        "truncated": {"type": "boolean"},
        "row_limit": {"type": "integer"},
        "next_cursor": {"type": ["string", "null"]},
        "nodes": {
            "type": "object",
            "properties": {"asked": texts, "answered": texts, "failed": {"type": "array", "items": failed}},
            "required": ["asked", "answered", "failed"],
        },
        "warnings": texts,
        "ordering": texts,
        "volatile": texts,
        "facts": {"type": "object"},
        "readonly_enforced": {"type": ["boolean", "null"]},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}
