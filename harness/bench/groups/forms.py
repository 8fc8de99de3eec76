"""What each choice in the form of capture costs: one is varied at a time, against none, in the same rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.bench.model import Gathered, GroupResult, Point, Profile, Series, Tell
from harness.bench.registry import choose_groups
from harness.bench.supply import Supply
from harness.bench.tables import SHARDS, make_table
from harness.bench.triggers.forms import Dispatch, Form, Level
from harness.bench.triggers.helpers import make_helpers
from harness.bench.triggers.making import Captured, captured_by_engine, make_captured, make_empty_trigger
from harness.bench.triggers.positions import CACHE_100, ONCE
from harness.bench.triggers.refusals import try_shell_by_statement, try_transition_with_columns
from harness.bench.workbench import Budget, Workbench, workbench
from harness.bench.writes import Operation, Write

NAME = "forms"
# Instead of a form: the engine's own capture, and a trigger that does nothing.
ENGINE, EMPTY = "engine", "empty"
# As the engine has it: one value of a cached sequence a statement (F34).
BASE = Form(position=ONCE)
LOOKUP = Form(position=ONCE, dispatch=Dispatch.LOOKUP)
BY_ROW = Form(position=CACHE_100, level=Level.ROW)
ONLY_N = ("n",)


@dataclass(frozen=True)
class Family:
    """Forms that are compared with each other and with none.

    Attributes:
        name: words separated by slashes.
        write: what is written to each.
        forms: by name; `ENGINE` and `EMPTY` stand for themselves.
        columns: of each table.
        shards: of each table, on Citus.
        on_server: whether it says something of one server too, where there are no shards.
        plot: the title of the plot that it has a point in; empty: none.
        x: where on that plot.
    """

    name: str
    write: Write
    forms: Mapping[str, Form | str]
    columns: int = 5
    shards: int = SHARDS
    on_server: bool = False
    plot: str = ""
    x: float = 0


@dataclass
class _Lines:
    """Points of the plots, by plot and form."""

    points: dict[tuple[str, str], list[Point]] = field(default_factory=dict)

    def series(self, bench_name: str) -> list[Series]:
        """A line a form."""
        return [
            Series(
                f"{bench_name}{plot}/{form}",
                plot,
                _X_LABELS[plot],
                "times as long as without capture",
                tuple(sorted(points, key=lambda point: point.x)),
                is_log_x=True,
            )
            for (plot, form), points in self.points.items()
            if len(points) > 1
        ]


_BY_ROWS, _BY_COLUMNS = "Capture by rows a statement", "Capture by columns"
_X_LABELS = {_BY_ROWS: "rows a statement", _BY_COLUMNS: "columns"}


def choose_families(profile: Profile) -> list[Family]:
    """What is compared: in the standard profile what decides something, in the full one all."""
    is_full = profile is Profile.FULL
    bulk = 100_000 if is_full else 20_000
    inserts = Write.bulk(Operation.INSERT, bulk)
    most = 100_000 if is_full else 30_000
    families = [
        Family(
            "dispatch",
            Write.bulk(Operation.INSERT, most),
            {"empty": EMPTY, "branches": BASE, "lookup": LOOKUP, "engine": ENGINE},
            plot=_BY_ROWS,
            x=most,
        ),
        Family(
            "level",
            Write.bulk(Operation.INSERT, 5_000 if is_full else 500),
            {
                "statement/shard": BASE,
                "row/shard": BY_ROW,
                "row/shell": Form(position=CACHE_100, level=Level.ROW, dispatch=Dispatch.SHELL),
            },
        ),
        Family(
            "single",
            Write(Operation.INSERT, 400 if is_full else 40, 1),
            {"empty": EMPTY, "branches": BASE, "lookup": LOOKUP, "row": BY_ROW, "engine": ENGINE},
            plot=_BY_ROWS,
            x=1,
        ),
        Family(
            "100_rows",
            # Each statement opens connections to the workers: tens of milliseconds.
            Write(Operation.INSERT, 1_000 if is_full else 200, 100),
            {"branches": BASE, "lookup": LOOKUP, "engine": ENGINE},
            plot=_BY_ROWS,
            x=100,
        ),
        Family(
            "indexes",
            inserts,
            {
                "0": BASE,
                "1": Form(position=ONCE, indexes=1),
                "2": Form(position=ONCE, indexes=2),
                "0/identity_nothing": Form(position=ONCE, is_identity_full=False),
            },
            on_server=is_full,
        ),
        Family(
            "filter",
            Write.bulk(Operation.UPDATE_HALF, bulk // 5),
            {"all": BASE, "changed": Form(position=ONCE, only_changed=ONLY_N)},
            on_server=is_full,
        ),
    ]
    families += [
        Family(
            f"columns/{columns}",
            Write.bulk(Operation.INSERT, rows),
            {"branches": BASE},
            columns=columns,
            on_server=is_full,
            plot=_BY_COLUMNS,
            x=columns,
        )
        for columns, rows in ((3, bulk // 2), (20, bulk // 5), (100, bulk // 20))
    ]
    return families + (_more_families(bulk) if is_full else [])


def _more_families(bulk: int) -> list[Family]:
    """What the full profile has beside."""
    return [
        *(
            Family(
                f"operation/{operation.value}",
                Write.bulk(operation, bulk),
                {"branches": BASE, "lookup": LOOKUP, "engine": ENGINE},
                on_server=True,
            )
            for operation in (Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.COPY, Operation.UPSERT)
        ),
        Family(
            "filter/by_row",
            Write.bulk(Operation.UPDATE_HALF, 10_000),
            {"all": BY_ROW, "changed": Form(position=CACHE_100, level=Level.ROW, only_changed=ONLY_N)},
            on_server=True,
        ),
        *(
            Family(
                f"shards/{shards}/{name}",
                write,
                {"branches": BASE, "lookup": LOOKUP, "engine": ENGINE},
                shards=shards,
            )
            for shards in (1, 32, 128)
            for name, write in (
                ("bulk", Write.bulk(Operation.INSERT, bulk)),
                ("single", Write(Operation.INSERT, 400, 1)),
            )
        ),
    ]


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure it, on a cluster where there is one; on one server what says something there."""
    begun = time.monotonic()
    gathered = Gathered()
    families = choose_families(profile)
    seconds = choose_groups((NAME,), profile)[0].seconds[profile]
    has_cluster = supply.provider is not None
    on_server = [family for family in families if family.on_server] if has_cluster else _without_shards(families)
    budget = Budget(seconds, parts=len(on_server) + (len(families) if has_cluster else 0))
    if has_cluster:
        with supply.cluster() as place, workbench(place, gathered, budget, tell) as bench:
            _run_families(bench, families)
            gathered.refusals.append(try_shell_by_statement(bench.connection, shards=SHARDS))
            gathered.refusals.append(try_transition_with_columns(bench.connection, shards=SHARDS))
    else:
        gathered.notes.append(f"The forms on a cluster were not measured: {supply.missing}.")
    if on_server:
        with supply.server() as place, workbench(place, gathered, budget, tell) as bench:
            _run_families(bench, on_server)
    return gathered.result(NAME, "The capture's form", time.monotonic() - begun)


def _without_shards(families: list[Family]) -> list[Family]:
    return [family for family in families if family.shards == SHARDS and family.name not in ("level",)]


def _run_families(bench: Workbench, families: list[Family]) -> None:
    make_helpers(bench.connection)
    lines = _Lines()
    for family in families:
        forms = dict(family.forms)
        ways = {f"{family.name}/none": _make(bench, family, None)}
        ways |= {f"{family.name}/{name}": _make(bench, family, form) for name, form in forms.items()}
        filtered = frozenset(
            f"{family.name}/{name}" for name, form in forms.items() if isinstance(form, Form) and form.only_changed
        )
        found = bench.compare(ways, family.write, filtered=filtered)
        if family.plot:
            for name, each in zip(forms, found, strict=True):
                lines.points.setdefault((family.plot, name), []).append(Point(family.x, each.interval))
    bench.gathered.series += lines.series(bench.name(""))


def _make(bench: Workbench, family: Family, form: Form | str | None) -> Captured:
    table = make_table(bench.connection, bench.next_table(), columns=family.columns, shards=bench.shards(family.shards))
    if isinstance(form, Form):
        return make_captured(bench.connection, table, form)
    if form == ENGINE:
        return captured_by_engine(bench.connection, table)
    return make_empty_trigger(bench.connection, table) if form == EMPTY else Captured(table, None)
