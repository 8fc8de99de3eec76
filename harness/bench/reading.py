"""Reads JSON documents that people name: what is wrong is said with the file, the place in it, and what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import BadInputError

_Word = TypeVar("_Word", bound=StrEnum)

_HINT = "name a file that harness bench run --json, --out or --keep wrote"
# A full run's document has a few MB: beyond this it is something else.
_MOST_BYTES = 256 * 2**20


def read_json(path: Path, kinds: Mapping[str, int]) -> tuple[str, Part]:
    """The document in a file, if it is of one of these kinds and versions.

    Args:
        path: which file.
        kinds: by what stands before the version in ``schema``, such as ``harness/bench``, the newest known version.

    Returns:
        The kind, and the document.

    Raises:
        BadInputError: it cannot be read, is no such document, or is of a version that is not known yet.
    """
    document = _parsed(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    kind, _, version = schema.rpartition("/") if isinstance(schema, str) else ("", "", "")
    if kind not in kinds or not version.isdecimal():
        said = f"its schema is {schema!r}" if isinstance(schema, str) else "it has no schema"
        raise BadInputError(f"{path} is no result of harness bench: {said}", hint=_HINT)
    if int(version) > kinds[kind]:
        raise BadInputError(
            f"{path} is {schema}, this harness knows {kind}/{kinds[kind]} at most",
            hint="use a newer harness, or measure again with this one",
        )
    return kind, Part(document, path)


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInputError(f"{path} is no result of harness bench: it has more than 256 MB", hint=_HINT)
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from None
    except (ValueError, RecursionError):
        raise BadInputError(f"{path} is no result of harness bench: it is no JSON document", hint=_HINT) from None


class Part:
    """An object in a document.

    Args:
        data: what stands there.
        path: the file.
        where: the place in it, for errors.
    """

    def __init__(self, data: Any, path: Path, where: str = "") -> None:
        self._data = data
        self._path = path
        self._where = where
        if not isinstance(data, dict):
            raise self._broken("", "an object")

    def text(self, name: str) -> str:
        """A text."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self._broken(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._broken(name, "true or false")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        return self._number(self._value(name), name)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(self._number(value, name) for value in self._list(name))

    def count(self, name: str) -> int:
        """A whole number."""
        value = self._value(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._broken(name, "a whole number")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self._list(name)
        if not all(isinstance(value, str) for value in values):
            raise self._broken(name, "a list of texts")
        return tuple(values)

    def facts(self, name: str) -> dict[str, str]:
        """Texts by name."""
        value = self._value(name)
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self._broken(name, "texts by name")
        return dict(value)

    def is_null(self, name: str) -> bool:
        """Whether nothing stands there."""
        return self._value(name) is None

    def part(self, name: str) -> Part:
        """An object."""
        return Part(self._value(name), self._path, self._at(name))

    def parts(self, name: str) -> Iterator[Part]:
        """A list of objects."""
        for number, value in enumerate(self._list(name)):
            yield Part(value, self._path, f"{self._at(name)}[{number}]")

    def one_of(self, name: str, known: type[_Word]) -> _Word:
        """One of the words of an enumeration."""
        value = self.text(name)
        try:
            return known(value)
        except ValueError:
            raise self._broken(name, f"one of {', '.join(known)}") from None

    def _value(self, name: str) -> Any:
        if name not in self._data:
            raise self._broken(name, "there")
        return self._data[name]

    def _list(self, name: str) -> list[Any]:
        value = self._value(name)
        if not isinstance(value, list):
            raise self._broken(name, "a list")
        return value

    def _number(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._broken(name, "a number")
        return float(value)

    def _at(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where and name else self._where or name

    def _broken(self, name: str, wanted: str) -> BadInputError:
        place = self._at(name) or "the document"
        return BadInputError(f"{self._path} is broken: {place} is not {wanted}", hint=_HINT)
