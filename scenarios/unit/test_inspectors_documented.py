"""docs/inspectors.md and docs/mcp.md say what the registry, the contract and pyproject.toml have."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

from harness.cli.inspect_command import option_name
from harness.inspectors import registry
from harness.inspectors.contract import Cost, Inspector, Reason
from harness.inspectors.role import DEFAULT_ROLE

ROOT = Path(__file__).parents[2]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _line(inspector: Inspector) -> str:
    own = [each.name for each in dataclasses.fields(inspector.inputs) if each.name not in {"limit", "cursor"}]
    options = ", ".join(f"`--{option_name(name)}`" for name in own) or "none"
    return f"| `{inspector.name}` | {inspector.summary} | {inspector.cost} | {inspector.least_role} | {options} |"


def test_table_of_inspectors_is_the_registry() -> None:
    listed = re.findall(r"^\| `\w+` \| .* \| .* \| .* \| .* \|$", _read("docs/inspectors.md"), re.MULTILINE)
    assert listed == [_line(each) for each in registry.all_()]


def test_every_reason_is_explained() -> None:
    section = _read("docs/inspectors.md").split("| `reason` | Meaning |", 1)[1].split("\n\n", 1)[0]
    first_cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(each.value for each in Reason)


def test_every_cost_and_the_role_are_named() -> None:
    text = _read("docs/inspectors.md")
    assert all(f"`{each}`" in text for each in Cost)
    assert f"`{DEFAULT_ROLE}`" in text


def test_version_of_the_package_mcp_is_that_of_the_extra() -> None:
    (requirement,) = tomllib.loads(_read("pyproject.toml"))["project"]["optional-dependencies"]["mcp"]
    assert requirement == "mcp>=2.3,<3"
    assert "(2.3 or newer, below 3)" in _read("docs/mcp.md")
