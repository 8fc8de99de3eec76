"""Inputs: read from text and JSON, held to their limits, described for MCP; everything else is named and refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest

from harness.errors import BadInputError
from harness.inspectors import inputs, registry
from harness.inspectors.inputs import Listing, choice, flag, identifier, integer, number, parse, schema


@dataclass(frozen=True, kw_only=True)
class Several(Listing):
    """One of each kind."""

    table: str = identifier(inputs.REQUIRED, "which table")
    age: int | None = integer(None, -5, 5, "an age")
    ratio: float = number(2.0, 0.5, 9.5, "a ratio")
    order: str = choice("calls", ("calls", "rows"), "an order")
    all: bool = flag(False, "everything")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Several(table="t")),
        (
            {"age": "-5", "ratio": "0.5", "order": "rows", "all": "YES", "limit": "1000"},
            Several(table="t", age=-5, ratio=0.5, order="rows", all=True, limit=1000),
        ),
        ({"age": 5, "ratio": 9, "all": False, "cursor": None}, Several(table="t", age=5, ratio=9.0)),
        ({"table": "ä'\";$$--"}, Several(table="ä'\";$$--")),
    ],
)
def test_inputs_are_read_as_what_they_are(given: dict[str, Any], expected: Several) -> None:
    assert parse(Several, {"table": "t", **given}) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0), ("limit", 1001), ("limit", "1001"), ("limit", "ten"), ("limit", ""), ("limit", 1.5),
        ("limit", True), ("limit", "٣"), ("limit", [1]), ("limit", "1_0 0"), ("limit", "9" * 5000),
        ("age", -6), ("ratio", "nan"), ("ratio", "inf"), ("ratio", 9.6), ("ratio", "1e400"), ("ratio", False),
        ("order", "total"), ("order", ""), ("order", 1), ("all", "maybe"), ("all", 1),
        ("table", ""), ("table", "a\0b"), ("table", "x" * 257), ("table", 7), ("table", "\ud800"),
        ("cursor", "x" * 4097), ("nothing", 1),
    ],
)  # fmt: skip
def test_input_that_cannot_be_used_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=name) as caught:
        parse(Several, {"table": "t", name: value})
    assert caught.value.hint
    assert len(caught.value.message) < 200


def test_input_that_must_be_given_is_named() -> None:
    with pytest.raises(BadInputError, match="table must be given"):
        parse(Several, {"table": None})


def test_schema_takes_what_parse_takes_and_refuses_what_it_refuses() -> None:
    described = schema(Several)
    jsonschema.Draft202012Validator.check_schema(described)
    validator = jsonschema.Draft202012Validator(described)
    assert validator.is_valid({"table": "t", "age": 5, "ratio": 0.5, "order": "rows", "all": True, "limit": 1000})
    for wrong in ({}, {"table": ""}, {"table": "t", "limit": 0}, {"table": "t", "order": "x"}, {"table": "t", "no": 1}):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize("name", registry.names())
def test_inspectors_inputs_are_declared_with_limits_and_words(name: str) -> None:
    described = schema(registry.get(name).inputs)
    jsonschema.Draft202012Validator.check_schema(described)
    for field in described["properties"].values():
        assert field["description"]
        assert field["type"] == "boolean" or {"maximum", "enum", "maxLength"} & field.keys()


def test_unknown_inspector_is_named() -> None:
    with pytest.raises(BadInputError, match="citus_nothing"):
        registry.get("citus_nothing")
