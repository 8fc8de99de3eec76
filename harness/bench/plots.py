"""Ratios and lines as drawings inside a page: SVG by matplotlib, the same bytes for the same figures."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

from harness.bench.model import GroupResult, Interval, Ratio, Series
from harness.postgres.places import cache_dir, own_directory
from harness.report.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What a person can tell apart in one drawing.
MOST_BARS = 30
_WIDTH_IN = 9.2
_BAR_IN = 0.27
# Colours that stand for those of the page, which has two sets: for light and for dark paper.
_INK, _SOFT, _LINE = "#010101", "#020202", "#030303"
_LINES = tuple(f"#0401{number:02x}" for number in range(8))
_PAGE_COLOURS: Mapping[str, str] = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    **{colour: f"var(--line-{number})" for number, colour in enumerate(_LINES)},
}
_MARKS = "osD^vPX*"
_SETTINGS: dict[Any, Any] = {
    # Letters stay letters: smaller, and they can be searched and read aloud.
    "svg.fonttype": "none",
    # Names may hold a $: it begins no formula.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Drawing:
    """A drawing of a page.

    Attributes:
        title: what it shows.
        svg: the drawing, safe to stand in a page as it is.
        notes: what its lines say.
    """

    title: str
    svg: Markup
    notes: tuple[str, ...] = ()


def draw_group(group: GroupResult) -> tuple[Drawing, ...]:
    """All drawings of a group: its ratios as bars, then each plot of its lines.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (the extra ``bench``).
    """
    # matplotlib keeps a list of fonts, by default in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", str(own_directory(cache_dir() / "matplotlib")))
    return (*_bars(group), *_plots(group))


def _bars(group: GroupResult) -> Iterator[Drawing]:
    chunks = [group.ratios[start : start + MOST_BARS] for start in range(0, len(group.ratios), MOST_BARS)]
    for number, ratios in enumerate(chunks, 1):
        part = f" ({number} of {len(chunks)})" if len(chunks) > 1 else ""
        title = f"{group.title}: ratios{part}"
        svg = _svg(title, f"{group.name}-ratios-{number}", partial(_draw_bars, ratios=ratios), len(ratios))
        yield Drawing(title, svg)


def _draw_bars(figure: Figure, ratios: Sequence[Ratio]) -> None:
    axes = figure.subplots()
    places = range(len(ratios), 0, -1)
    values = [ratio.interval.value for ratio in ratios]
    is_log = _is_wide([ratio.interval for ratio in ratios])
    start = 1.0 if is_log else 0.0
    axes.barh(places, [value - start for value in values], left=start, height=0.62, color=_LINES[0], alpha=0.75)
    for place, ratio in zip(places, ratios, strict=True):
        interval = ratio.interval
        axes.plot([interval.low, interval.high], [place, place], color=_INK, linewidth=1.4, solid_capstyle="butt")
        axes.annotate(
            f"{interval.value:.3g}",
            (max(interval.high, start), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_SOFT,
        )
    axes.axvline(1.0, color=_INK, linewidth=0.9)
    axes.set_yticks(list(places), [visible(ratio.name) for ratio in ratios])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(0.3, len(ratios) + 0.7)
    axes.margins(x=0.08)
    if is_log:
        _set_log(axes, "x", [each for ratio in ratios for each in (start, ratio.interval.low, ratio.interval.high)])
    axes.set_xlabel("ratio of the medians, with its 95 % interval" + (" (log)" if is_log else ""))


def _is_wide(intervals: Sequence[Interval]) -> bool:
    """Whether a logarithm shows them better."""
    lows, highs = [each.low for each in intervals], [each.high for each in intervals]
    return min(lows) > 0 and max(highs) / min(lows) > 10


def _plots(group: GroupResult) -> Iterator[Drawing]:
    titles = dict.fromkeys(series.plot for series in group.series)
    for number, title in enumerate(titles, 1):
        lines = [series for series in group.series if series.plot == title]
        notes = tuple(f"{line.name}: {line.note}" for line in lines if line.note)
        svg = _svg(title, f"{group.name}-plot-{number}", partial(_draw_lines, lines=lines), 11)
        yield Drawing(title, svg, notes)


def _draw_lines(figure: Figure, lines: Sequence[Series]) -> None:
    axes = figure.subplots()
    for number, line in enumerate(lines):
        _draw_line(axes, line, number)
    first = lines[0]
    points = [point for line in lines for point in line.points]
    # A logarithm has no place for what is 0 or below: near it the axis is even.
    if first.is_log_x and points:
        _set_log(axes, "x", [point.x for point in points])
    if first.is_log_y and points:
        _set_log(axes, "y", [point.y.low for point in points])
    elif points:
        axes.set_ylim(bottom=min(0.0, *(point.y.low for point in points)))
    axes.set_xlabel(visible(first.x_label) + (" (log)" if first.is_log_x else ""))
    axes.set_ylabel(visible(first.y_label) + (" (log)" if first.is_log_y else ""))
    if len(lines) > 1 or any(point.is_predicted for point in points):
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _set_log(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis; with a place for 0, where there is one among the values, and labels of our own."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - in an extra

    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    axis = axes.xaxis if which == "x" else axes.yaxis
    above = [value for value in values if value > 0]
    if above and len(above) == len(values):
        set_scale("log")
        decades = math.log10(max(above) / min(above))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,), numticks=12))
    else:
        lowest = 10.0 ** math.floor(math.log10(min(above, default=1.0)))
        set_scale("symlog", linthresh=lowest, linscale=0.4)
        decades = math.log10(max(above, default=1.0) / lowest)
        powers = [lowest * 10**power for power in range(math.ceil(decades) + 1)]
        axis.set_major_locator(FixedLocator([0.0, *powers, *(-power for power in powers if min(values) < 0)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: nice(value)))
    axis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Axes, line: Series, number: int) -> None:
    colour, mark = _LINES[number % len(_LINES)], _MARKS[number % len(_MARKS)]
    measured = [point for point in line.points if not point.is_predicted]
    predicted = [point for point in line.points if point.is_predicted]
    name = visible(line.name)
    if measured:
        x, y = [point.x for point in measured], [point.y.value for point in measured]
        axes.plot(x, y, color=colour, marker=mark, markersize=4.5, linewidth=1.5, label=name)
        axes.vlines(
            x, [point.y.low for point in measured], [point.y.high for point in measured], color=colour, linewidth=1
        )
    if predicted:
        style: dict[str, Any] = {
            "linestyle": "--",
            "marker": mark,
            "markerfacecolor": "none",
            "markersize": 4.5,
            "linewidth": 1.2,
        }
        label = f"{name} (model)"
        axes.plot([at.x for at in predicted], [at.y.value for at in predicted], color=colour, label=label, **style)
        if len(predicted) > 1:
            lows, highs = [point.y.low for point in predicted], [point.y.high for point in predicted]
            axes.fill_between([point.x for point in predicted], lows, highs, color=colour, alpha=0.12, linewidth=0)


def _svg(title: str, prefix: str, draw: Callable[[Figure], None], rows: int) -> Markup:
    from matplotlib import rc_context  # noqa: PLC0415 - in an extra
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({**_SETTINGS, "svg.hashsalt": prefix}):
        figure = Figure(figsize=(_WIDTH_IN, 0.8 + _BAR_IN * rows), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        # No date: the same figures give the same page.
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(out.getvalue(), title, re.sub(r"[^a-z0-9-]", "-", prefix.lower()))


def _embedded(svg: str, title: str, prefix: str) -> Markup:
    """The drawing without what only a file of its own needs, with names and colours of the page that it stands in."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    body = body.replace("*{stroke", ".plot *{stroke")
    for colour, page_colour in _PAGE_COLOURS.items():
        body = body.replace(colour, page_colour)
    label = escape(visible(title))
    # What is in it was escaped by matplotlib, and has been made visible before.
    return Markup(body.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1))  # noqa: S704


def nice(value: float) -> str:
    """A figure for a table: three digits, no exponent where a person would write none."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
