"""Inputs of inspectors: declared as fields with limits, read from text or JSON, described as a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from harness.errors import BadInputError

ROW_LIMIT = 100
MOST_ROWS = 1000
# An identifier has at most 63 bytes; whoever sends more than a few times that is not looking for a table.
_MOST_CHARACTERS = 256
_MOST_CURSOR = 4096
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
T = TypeVar("T")
REQUIRED: Any = MISSING
"""As a default: the input must be given."""


def integer(default: int | None, least: int, most: int, help: str) -> Any:  # noqa: A002 - as argparse and Typer have it
    """A whole number from ``least`` to ``most``; None as default: it need not be given."""
    return field(default=default, metadata={"kind": "integer", "least": least, "most": most, "help": help})


def number(default: float | None, least: float, most: float, help: str) -> Any:  # noqa: A002
    """A finite number from ``least`` to ``most``."""
    return field(default=default, metadata={"kind": "number", "least": least, "most": most, "help": help})


def choice(default: str | None, choices: Sequence[str], help: str) -> Any:  # noqa: A002
    """One of these words."""
    return field(default=default, metadata={"kind": "choice", "choices": tuple(choices), "help": help})


def identifier(default: str | None, help: str) -> Any:  # noqa: A002
    """A name as the catalog spells it, without quotes; anything but a NUL may be in it."""
    return field(default=default, metadata={"kind": "identifier", "help": help})


def flag(default: bool, help: str) -> Any:  # noqa: A002
    """True or false."""
    return field(default=default, metadata={"kind": "flag", "help": help})


def text(default: str | None, most: int, help: str) -> Any:  # noqa: A002
    """Text of at most ``most`` characters, that the inspector checks itself."""
    return field(default=default, metadata={"kind": "text", "most": most, "help": help})


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What every inspector takes."""

    limit: int = integer(ROW_LIMIT, 1, MOST_ROWS, "rows at most")
    cursor: str | None = text(None, _MOST_CURSOR, "next_cursor of the answer before, for the rows after it")


def parse(kind: type[T], values: Mapping[str, Any]) -> T:
    """Inputs from values as a command line or JSON has them.

    Args:
        kind: the dataclass of the inputs.
        values: by field name; text is read as what the field takes. None is as if it were not given.

    Raises:
        BadInputError: there is no such input, or the value cannot be used; names both.
    """
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    for name in values:
        if name not in known:
            raise BadInputError(f"there is no input {name!r:.80}", hint=f"inputs are {', '.join(sorted(known))}")
    read = {name: _read(known[name], value) for name, value in values.items() if value is not None}
    missing = [name for name in required(kind) if name not in read]
    if missing:
        raise BadInputError(f"{missing[0]} must be given", hint=f"it takes {_describe(known[missing[0]].metadata)}")
    return kind(**read)


def required(kind: type[Any]) -> tuple[str, ...]:
    """The inputs that must be given: those without a default."""
    return tuple(each.name for each in fields(kind) if each.default is MISSING)


def _read(declared: Field[Any], value: Any) -> Any:
    if "kind" not in declared.metadata:
        raise TypeError(f"the input {declared.name} is not declared with harness.inspectors.inputs")
    reader = _READERS[declared.metadata["kind"]]
    try:
        return reader(value, declared.metadata)
    except (ValueError, TypeError, OverflowError):
        raise BadInputError(
            f"{declared.name}={value!r:.80} cannot be used", hint=f"it takes {_describe(declared.metadata)}"
        ) from None


def _describe(metadata: Mapping[str, Any]) -> str:
    match metadata["kind"]:
        case "integer":
            return f"a whole number from {metadata['least']} to {metadata['most']}"
        case "number":
            return f"a number from {metadata['least']} to {metadata['most']}"
        case "choice":
            return f"one of {', '.join(metadata['choices'])}"
        case "flag":
            return "true or false"
        case "identifier":
            return f"a name as the catalog spells it, at most {_MOST_CHARACTERS} characters"
    return f"text of at most {metadata['most']} characters"


def _integer(value: Any, metadata: Mapping[str, Any]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    if isinstance(value, str) and not value.strip().lstrip("+-").isascii():
        raise ValueError
    return _within(int(value), metadata)


def _number(value: Any, metadata: Mapping[str, Any]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return _within(found, metadata)


NumberT = TypeVar("NumberT", int, float)


def _within(value: NumberT, metadata: Mapping[str, Any]) -> NumberT:
    if not metadata["least"] <= value <= metadata["most"]:
        raise ValueError
    return value


def _choice(value: Any, metadata: Mapping[str, Any]) -> str:
    if not isinstance(value, str) or value not in metadata["choices"]:
        raise ValueError
    return value


def _flag(value: Any, _metadata: Mapping[str, Any]) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise ValueError


def _text(value: Any, metadata: Mapping[str, Any]) -> str:
    if not isinstance(value, str) or not value or len(value) > metadata.get("most", _MOST_CHARACTERS):
        raise ValueError
    value.encode()  # a lone surrogate is no text
    if "\0" in value:
        raise ValueError
    return value


_READERS = {
    "integer": _integer,
    "number": _number,
    "choice": _choice,
    "flag": _flag,
    "identifier": _text,
    "text": _text,
}


def schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema (2020-12) of inputs: what MCP shows; nothing else is taken."""
    return {
        "type": "object",
        "properties": {each.name: _property(each) for each in fields(kind)},
        "required": list(required(kind)),
        "additionalProperties": False,
    }


def _property(declared: Field[Any]) -> dict[str, Any]:
    metadata = declared.metadata
    found: dict[str, Any] = {"description": metadata["help"]}
    match metadata["kind"]:
        case "integer" | "number" as kind:
            found |= {"type": kind, "minimum": metadata["least"], "maximum": metadata["most"]}
        case "choice":
            found |= {"type": "string", "enum": list(metadata["choices"])}
        case "flag":
            found |= {"type": "boolean"}
        case _:
            found |= {"type": "string", "minLength": 1, "maxLength": metadata.get("most", _MOST_CHARACTERS)}
    if declared.default is not None and declared.default is not MISSING:
        found["default"] = declared.default
    return found
