"""Charts of a page: drawn by matplotlib as SVG whose text is text and whose colours follow the page."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, PercentFormatter

from otpr_bench.report.style import Style
from otpr_bench.tables import Table

FEW = 60
"""The points of a series of at most so many are marked."""

_WIDTH, _HEIGHT = 4.6, 2.9
"""Inches; a page shows a chart about as large, so that its text is as large as the page's."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Look(NamedTuple):
    """The name of a method or of a series, and a picture of its line."""

    name: str
    swatch: Markup


class Chart(NamedTuple):
    """A picture with a title, a table of its numbers, a note beside the title and a key to its series."""

    title: str
    picture: Markup
    numbers: Table | None = None
    note: str = ""
    key: Sequence[Look] = ()


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart: at least one point, all of them finite."""

    name: str  # in the key and in the table of numbers
    x: Sequence[float]
    y: Sequence[float]
    style: Style
    low: Sequence[float] = ()  # of the band around it; empty for none
    high: Sequence[float] = ()


class Level(NamedTuple):
    """A horizontal line to compare with."""

    y: float
    label: str


def line_chart(
    series: Sequence[Series],
    identity: str,
    *,
    title: str,
    x_label: str,
    note: str = "",
    share: bool = False,
    levels: Sequence[Level] = (),
) -> Chart:
    """A chart of lines with the table of their numbers.

    Args:
        series: its lines; the first are drawn on top. There is at least one.
        identity: as in `svg`.
        title: above it.
        x_label: what the horizontal axis counts.
        note: beside the title.
        share: whether y is a share, drawn in percent over [0, 1] where all of it is in there.
        levels: lines to compare with.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    for one in reversed(series):
        _draw(axes, one)
    for level in levels:
        axes.axhline(level.y, color="#595959", linestyle=(0, (5, 3)), linewidth=1)
        place = (1.0, level.y)
        axes.annotate(level.label, place, (-2, 3), ("axes fraction", "data"), "offset points", ha="right")
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    places = [x for one in series for x in one.x]
    axes.set_xlim(min(0.0, *places), 1.03 * max(places) if max(places) > 0 else 1.0)
    values = [value for one in series for value in (*one.y, *one.low, *one.high)]
    if share and min(values) >= -0.02 and max(values) <= 1.02:
        axes.set_ylim(-0.02, 1.02)
    elif min(values) > 0 and max(values) / min(values) > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    written = "{:.2%}" if share else "{:.5g}"
    columns = {one.name: dict(zip(one.x, map(written.format, one.y), strict=True)) for one in series}
    key = [look(one.name, one.style, identity) for one in series if one.name != title]
    return Chart(title, svg(figure, identity, label=title), table(x_label, columns), note, key)


def table(corner: str, columns: Mapping[str, Mapping[float, str]], written: str = "{:,.0f}") -> Table:
    """The table of a chart's numbers: a row for each place on its horizontal axis.

    Args:
        corner: what the places are.
        columns: by the name of a series, its cells by place.
        written: format of the places.
    """
    places = sorted({place for cells in columns.values() for place in cells})
    rows = [
        (written.format(place), *(cells.get(place, "") for cells in columns.values())) for place in places
    ]
    return Table((corner, *columns), tuple(rows))


def look(name: str, style: Style, identity: str) -> Look:
    """The look of a series or a method, for a key; `identity` as in `svg`, of what the key belongs to."""
    figure = Figure(figsize=(0.4, 0.2))
    line = _line((0, 0.5, 1), (0.5,) * 3, style)
    line.set_markevery([1])
    figure.add_artist(line)
    return Look(name, svg(figure, f"key of {identity}: {name}"))


def svg(figure: Figure, identity: str, *, size: tuple[float, float] | None = None, label: str = "") -> Markup:
    """A figure as an SVG element for a page, the same bytes for the same figure.

    Titles and legends are removed, since the page sets them as HTML. What matplotlib writes as style sheets
    becomes attributes of the elements: the page's security policy forbids style sheets that are not its own,
    and its own ones may then replace colours by those for dark ground.

    Args:
        figure: it is changed.
        identity: a text that no other picture of the page has; the ids within the SVG are made of it.
        size: width and height in inches; None keeps those of the figure.
        label: what the picture shows, for those who do not see it; empty for a decoration.
    """
    figure.legends.clear()
    figure.suptitle("")
    for axes in figure.axes:
        axes.set_title("")
    if size:
        figure.set_size_inches(*size)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may hold dollars
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(_NO_XML.sub("\ufffd", stream.getvalue()))
    for child in list(root):
        if child.tag.endswith("metadata") or child.find("{*}style") is not None:
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
        for setting in filter(None, element.attrib.pop("style", "").split(";")):
            name, _, value = setting.partition(":")
            if not name.strip().startswith("font"):  # the page's own
                element.set(name.strip(), value.strip())
        if element.tag == "g":
            element.attrib.pop("id", None)  # "axes_1" and the like: nothing refers to them
        element.tail = None
    root.attrib = {"viewBox": root.attrib["viewBox"]}
    root.attrib |= {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _draw(axes: Axes, one: Series) -> None:
    line = _line(one.x, one.y, one.style)
    if len(one.x) > FEW:
        line.set_marker("")
    axes.add_line(line)
    line.set_clip_on(False)  # a marker on an axis is seen whole
    if len(one.low) == 1:  # a band of no width would not be seen
        axes.vlines(one.x, one.low, one.high, color=one.style.colour, alpha=0.5, linewidth=4)
    elif one.low:
        axes.fill_between(one.x, one.low, one.high, color=one.style.colour, alpha=0.15, linewidth=0)
    axes.autoscale_view()


def _line(x: Sequence[float], y: Sequence[float], style: Style) -> Line2D:
    dash = (0, style.dash) if style.dash else "-"
    return Line2D(
        x, y, color=style.colour, linestyle=dash, linewidth=1.5, marker=style.marker, markersize=4.5
    )
