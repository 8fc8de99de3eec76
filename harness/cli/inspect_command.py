"""Makes a command of an inspector: its inputs are the options."""

from __future__ import annotations

import inspect as python
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any

import typer

from harness.cli.inspect import AsJson, AsTable, Every, Watch
from harness.cli.inspect_look import Output, look_at
from harness.cli.inspect_place import Cluster, Database, Dsn, Where
from harness.inspectors.contract import Inspector

# Inputs that have another name on the command line: --table says how the answer is printed.
OPTION_NAMES: Mapping[str, str] = {"table": "relation"}
_OWN: Mapping[str, tuple[Any, Any]] = {
    "cluster": (Cluster, None),
    "database": (Database, None),
    "dsn": (Dsn, None),
    "as_json": (AsJson, False),
    "as_table": (AsTable, False),
    "watch": (Watch, False),
    "every": (Every, 2.0),
}
_INPUT = "input_"  # before the name of a parameter: an input may be called as an option of ours is


def make_command(inspector: Inspector[Any, Any]) -> Any:
    """The command of an inspector, as Typer's groups hold it."""

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in _OWN}
        output = Output(own["as_json"], own["as_table"], own["watch"], own["every"])
        values = {name.removeprefix(_INPUT): value for name, value in given.items() if value is not None}
        options = tuple(_repeat(values))
        where = Where(own["cluster"], own["database"], own["dsn"])
        raise typer.Exit(look_at(inspector.name, values, options, where, output))

    parameters = [
        python.Parameter(name, python.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in _parameters(inspector)
    ]
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    vars(run)["__signature__"] = python.Signature(parameters)
    run.__doc__ = _help(inspector)
    mounted = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    mounted.command(inspector.name)(run)
    return typer.main.get_command(mounted)


def _help(inspector: Inspector[Any, Any]) -> str:
    return (
        f"{inspector.summary.rstrip('.')}.\n\n"
        f"Cost: {inspector.cost.value}. Least role that sees all: {inspector.least_role}."
        f" Order: {', '.join(inspector.ordering)}.\n\n"
        "Exit codes: 0 fine, 1 findings of severity error, 2 bad input, 3 could not look."
    )


def option_name(name: str) -> str:
    """An input as an option, without the dashes in front."""
    return OPTION_NAMES.get(name, name).replace("_", "-")


def _parameters(inspector: Inspector[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    declared = {each.name: each for each in fields(inspector.inputs)}
    # What tells inspectors apart comes first, what all of them take after it.
    for name in sorted(declared, key=lambda each: each in {"limit", "cursor"}):
        yield f"{_INPUT}{name}", _annotation(declared[name]), None
    for name, (annotation, default) in _OWN.items():
        yield name, annotation, default


def _annotation(declared: Field[Any]) -> Any:
    """Values are read by `harness.inspectors.inputs`, which knows the limits: here they are text, or flags."""
    metadata = declared.metadata
    option = f"--{option_name(declared.name)}"
    words = metadata["help"]
    if declared.default is MISSING:
        words = f"{words} (must be given)"
    elif declared.default is not None:
        default = str(declared.default)
        words = f"{words} [default: {default.lower() if metadata['kind'] == 'flag' else default}]"
    match metadata["kind"]:
        case "flag":
            both = f"{option}/--no-{option.removeprefix('--')}"
            return Annotated[bool | None, typer.Option(both, help=words, show_default=False)]
        case "integer" | "number":
            metavar = f"{metadata['least']}..{metadata['most']}"
        case "choice":
            metavar = "|".join(metadata["choices"])
        case _:
            metavar = "NAME" if metadata["kind"] == "identifier" else "TEXT"
    return Annotated[str | None, typer.Option(option, help=words, metavar=metavar, show_default=False)]


def _repeat(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, bool):
            yield f"--{option_name(name)}" if value else f"--no-{option_name(name)}"
        else:
            yield from (f"--{option_name(name)}", str(value))
