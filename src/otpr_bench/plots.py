"""Line plots by matplotlib: as image files, and as SVG with a table of numbers for pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, PercentFormatter

from otpr_bench.tables import Table

FEW = 50  # a series of at most this many points has markers


class Style(NamedTuple):
    """The style of a line. No two methods share a marker and a colour."""

    colour: str  # "#rrggbb"
    marker: str  # as matplotlib names it
    dash: tuple[float, ...] = ()  # lengths of strokes and gaps in line widths; empty for a solid line
    width: float = 1.4  # points


# Okabe and Ito's colours without yellow, which is too pale for a line, and four of Paul Tol's muted ones
_LOOKS = {
    "otpr": Style("#0072B2", "o", width=2.6),
    "otpr:paper": Style("#3A9FD8", "o", (5, 3)),
    "bc": Style("#6B6B6B", "s", (2, 2)),
    "idql": Style("#C98A00", "s"),
    "dql": Style("#7F7F20", "v"),
    "dawr": Style("#882255", "<"),
    "qsm": Style("#2F9C8C", "D"),
    "dppo": Style("#D55E00", "^"),
    "rlpd": Style("#B5568E", "p"),
    "fql": Style("#00855F", "X"),
    "qc": Style("#332288", "*"),
}
BLUE = Style("#0072B2", "o")
PALETTE = tuple(dict.fromkeys((BLUE, _LOOKS["dppo"], _LOOKS["fql"], *list(_LOOKS.values())[3:])))
"""Styles for the series of a chart that are not methods, in order."""


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """The style of each method: its own if it has one, otherwise a unique dashed one.

    If there are more methods than styles, the last ones repeat.
    """
    dashes = ((6.0, 2.0), (3.0, 3.0), (8.0, 2.0, 2.0, 2.0))
    free = [look._replace(dash=dash) for dash in dashes for look in (*PALETTE[1:], _LOOKS["bc"], BLUE)]
    others = [method for method in methods if method not in _LOOKS]
    chosen = {method: free[min(place, len(free) - 1)] for place, method in enumerate(others)} | _LOOKS
    return {method: chosen[method] for method in methods}


class Series(NamedTuple):
    """A line of a plot: at least one point, all of them finite."""

    name: str  # in the key and in the table of numbers
    x: Sequence[float]
    y: Sequence[float]
    style: Style
    low: Sequence[float] = ()  # of the band around it; empty for none
    high: Sequence[float] = ()
    cells: Sequence[str] = ()  # the points' texts in the table; by default y


class Level(NamedTuple):
    """A horizontal line to compare with."""

    y: float
    label: str


class Plot(NamedTuple):
    """Lines over an axis."""

    title: str
    x_label: str  # what the horizontal axis counts
    series: Sequence[Series]  # at least one; the first are drawn on top
    note: str = ""  # beside the title
    share: bool = False  # whether y is a share, in percent, over [0, 1] if it fits
    levels: Sequence[Level] = ()  # lines to compare with

    def numbers(self) -> Table:
        """A row for each place on the horizontal axis."""
        written = "{:.2%}" if self.share else "{:.5g}"
        columns = [
            dict(zip(one.x, one.cells or [written.format(y) for y in one.y], strict=True))
            for one in self.series
        ]
        places = sorted({x for one in self.series for x in one.x})
        rows = [(f"{place:,.9g}", *(cells.get(place, "") for cells in columns)) for place in places]
        return Table((self.x_label, *(one.name for one in self.series)), tuple(rows))


class Chart(NamedTuple):
    """A picture on a page with a title, a note beside it, and a table of its numbers."""

    title: str
    note: str
    picture: Markup
    numbers: Table | None = None


def chart(plot: Plot, identity: str) -> Chart:
    """A plot for a page; `identity` as in `svg`."""
    return Chart(plot.title, plot.note, svg(figure_of([plot]), identity), plot.numbers())


def figure_of(plots: Sequence[Plot], *, titles: bool = False) -> Figure:
    """A figure with a panel for each plot, at most three in a row, and a legend of all series below.

    Args:
        plots: at least one. There is no legend if the only series has its plot's name.
        titles: whether to add titles, and the note of the first plot above them; a page has its own.
    """
    columns = min(3, len(plots))
    rows = math.ceil(len(plots) / columns)
    # pyplot would keep the figure in a global list and might open a window
    figure = Figure(figsize=(4.8 * columns, 3.2 * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, plot in zip(panels, plots, strict=False):
        _draw(panel, plot)
        if titles:
            panel.set_title(plot.title, fontsize="medium")
    for panel in figure.axes[len(plots) :]:
        panel.set_visible(False)
    if titles:
        figure.suptitle(plots[0].note, fontsize="small")
    key = {one.name: one.style for plot in plots for one in plot.series}
    if list(key) != [plots[0].title]:
        # a character is about 0.075 inches wide, and the line before it takes 0.6
        fitting = int(figure.get_figwidth() / (0.6 + 0.075 * max(map(len, key))))
        columns = max(1, min(6, fitting))
        handles = [_line((), (), style) for style in key.values()]
        figure.legend(handles, list(key), loc="outside lower center", ncols=columns, frameon=False)
        figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(key) / columns))
    return figure


def svg(figure: Figure, identity: str) -> Markup:
    """A figure as an SVG element for a page, the same bytes for the same figure.

    Args:
        figure: the figure, which is modified.
        identity: a text that is unique on the page; the ids in the SVG are derived from it.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may contain dollar signs
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    _, start, rest = stream.getvalue().partition("<svg ")
    # group ids are the same in every figure, and nothing refers to them
    return Markup(start + re.sub('<g id="[^"]*"', "<g", rest))


def _draw(axes: Axes, plot: Plot) -> None:
    for one in reversed(plot.series):
        line = _line(one.x, one.y, one.style)
        if len(one.x) > FEW:
            line.set_marker("")
        axes.add_line(line)
        line.set_clip_on(False)  # markers on an axis stay complete
        if len(one.low) == 1:  # a band without width would be invisible
            axes.vlines(one.x, one.low, one.high, color=one.style.colour, alpha=0.5, linewidth=4)
        elif one.low:
            # many bands would hide each other: thicker lines have darker bands
            alpha = 0.07 * one.style.width
            axes.fill_between(one.x, one.low, one.high, color=one.style.colour, alpha=alpha, linewidth=0)
    axes.autoscale_view()
    for level in plot.levels:
        axes.axhline(level.y, color="#595959", linestyle=(0, (5, 3)), linewidth=1)
        place = (1.0, level.y)
        axes.annotate(level.label, place, (-2, 3), ("axes fraction", "data"), "offset points", ha="right")
    axes.set_xlabel(plot.x_label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    places = [x for one in plot.series for x in one.x]
    axes.set_xlim(min(0.0, *places), 1.03 * max(places) if max(places) > 0 else 1.0)
    values = [value for one in plot.series for value in (*one.y, *one.low, *one.high)]
    if plot.share and min(values) >= -0.02 and max(values) <= 1.02:
        axes.set_ylim(-0.02, 1.02)
    elif min(values) > 0 and max(values) / min(values) > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    if plot.share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _line(x: Sequence[float], y: Sequence[float], style: Style) -> Line2D:
    return Line2D(
        x,
        y,
        color=style.colour,
        linewidth=style.width,
        linestyle=(0, style.dash) if style.dash else "-",
        marker=style.marker,
        markersize=3.5 + style.width,
    )
