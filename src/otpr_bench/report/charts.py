"""Charts as SVG inside a page, whose points tell their numbers when they are pointed at.

Drawn here rather than by a library: the page must open from a file without a network, so a library would
have to be inside it, which is 4.5 MB for plotly.js, more for Bokeh; uPlot is small but draws on a canvas,
which shows nothing without scripts, in print or to a screen reader, and has no points to step through with a
keyboard. SVG made once needs a hundred lines, and page.js adds the hovering.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from otpr_bench.report.html import Html, join, tag
from otpr_bench.report.style import Style

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Margins around the plot: the numbers and names of the axes."""

FEW = 60
"""Up to so many points of a series are marked; more make the line thick."""

MARKERS = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M-3.5-3.5h7v7h-7z",
    "D": "M0-5l5 5-5 5-5-5z",
    "^": "M0-5l4.6 8h-9.2z",
    "v": "M0 5l4.6-8h-9.2z",
    "<": "M-5 0l8-4.6v9.2z",
    "p": "M0-5l4.8 3.5-1.9 5.6h-5.8l-1.9-5.6z",
    "X": "M-4.5-2.5l2-2 2.5 2.5 2.5-2.5 2 2-2.5 2.5 2.5 2.5-2 2-2.5-2.5-2.5 2.5-2-2 2.5-2.5z",
    "*": "M0-6l1.4 4.1h4.3l-3.4 2.6 1.3 4.2-3.6-2.6-3.6 2.6 1.3-4.2-3.4-2.6h4.3z",
}
"""Outlines of markers around the origin, by matplotlib's names of them."""


class Look(NamedTuple):
    """A style, and its number in the style sheet of the page, as `rules` writes it."""

    number: int
    style: Style


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: in the legend, and what the legend switches.
        x, y: its points, as many of each; finite.
        tips: what a point says when it is pointed at, one each.
        look: how it is drawn.
        low, high: the band around it; empty for none.
        steps: whether the value holds until the next point.
        strong: whether it stands out from the others.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tips: Sequence[str]
    look: Look
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    steps: bool = False
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A horizontal line to compare with."""

    y: float
    label: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A share with its interval, whose ends are NaN where there is none; the rest as in `Series`."""

    name: str
    value: float
    low: float
    high: float
    tip: str
    look: Look


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    share: bool = False,
    lines: Sequence[Line] = (),
    x_share: bool = False,
    named: bool = False,
) -> Html:
    """A chart as an SVG in a figure.

    Args:
        series: its lines; the first are drawn on top. None of them is empty.
        title: above it.
        x_label: what the horizontal axis counts.
        y_label: what the vertical one does.
        share: whether y is a share in [0, 1], drawn in percent over the whole range.
        lines: to compare with.
        x_share: the same of x.
        named: whether the names of the series stand above it; otherwise a `legend` near it has them.
    """
    values = [value for one in series for value in (*one.y, *one.low, *one.high)] + [line.y for line in lines]
    y_axis = _share_axis() if share else _axis(values)
    reach = [value for one in series for value in one.x]
    x_axis = _share_axis() if x_share else _axis([0.0, *reach], tight=True)
    x_at = _placed(x_axis, LEFT, WIDTH - RIGHT)
    y_at = _placed(y_axis, HEIGHT - BOTTOM, TOP)
    drawing = tag(
        "svg",
        tag("title", f"{title}: {', '.join(one.name for one in series)}"),
        _grid(x_axis, y_axis, x_at, y_at),
        tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, class_="name"),
        *(_reference(line, y_at) for line in lines),
        *(_series(one, x_at, y_at) for one in reversed(series)),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="application",
        tabindex=0,
        aria_label=f"Chart: {title}. Arrow keys step through its points.",
    )
    key = tag("div", *(tag("span", _swatch(one.look), one.name) for one in series), class_="key")
    return tag(
        "figure",
        tag("figcaption", title, tag("small", f" {y_label}") if y_label else None, key if named else None),
        drawing,
        tag("output", class_="tip", aria_live="polite", hidden=True),
        class_="chart",
    )


def legend(looks: Mapping[str, Look]) -> Html:
    """Buttons that show and hide the series of these names in the charts of the section around them."""
    buttons = [
        tag("button", _swatch(look), name, type="button", aria_pressed="true", data_name=name)
        for name, look in looks.items()
    ]
    return tag("div", *buttons, class_="legend", role="group", aria_label="Show or hide")


def bars(rows: Sequence[Bar], *, title: str, label: str) -> Html:
    """A row for each bar, one below the other, over a scale from 0% to 100%; `label` says of what."""
    height, left, right = 26, 130, 50
    bottom = TOP + height * len(rows)
    x_axis = _share_axis()
    x_at = _placed(x_axis, left, WIDTH - right)
    parts: list[Html] = []
    for tick in x_axis.ticks:
        parts.append(tag("path", d=f"M{x_at(tick):g} {TOP}V{bottom}", class_="grid"))
        parts.append(tag("text", x_axis.shown(tick), x=x_at(tick), y=bottom + 18, class_="tick middle"))
    for place, one in enumerate(rows):
        x, y = x_at(one.value), TOP + height * (place + 0.5)
        bar = None
        if not math.isnan(one.low):
            bar = tag("path", d=f"M{x_at(one.low):g} {y:g}H{x_at(one.high):g}", class_="bar")
        parts += [
            tag("text", one.name, x=left - 10, y=y + 4, class_="tick end"),
            tag("text", f"{one.value:.0%}", x=WIDTH - right + 10, y=y + 4, class_="tick"),
            tag(
                "g",
                tag("path", d=f"M{x_at(0):g} {y:g}H{x:g}", class_="stem"),
                bar,
                tag("polyline", points=f"{x:g},{y:g}", class_="points"),
                _mark(one.look, x, y),
                class_=f"series s{one.look.number}",
                data_name=one.name,
                data_tips=json.dumps([one.tip]),
            ),
        ]
    drawing = tag(
        "svg",
        tag("title", title),
        *parts,
        viewBox=f"0 0 {WIDTH} {bottom + 28}",
        role="application",
        tabindex=0,
        aria_label=f"Chart: {title}. Arrow keys step through its points.",
    )
    tip = tag("output", class_="tip", aria_live="polite", hidden=True)
    return tag("figure", tag("figcaption", title, tag("small", f" {label}")), drawing, tip, class_="chart")


def rules(looks: Sequence[Style]) -> str:
    """The style sheet's rules for looks: number i of them is the class `si`, on light ground and on dark."""
    light = [
        f".s{number}{{--c:{style.colour};--d:{' '.join(map(str, style.dash)) or 'none'}}}"
        for number, style in enumerate(looks)
    ]
    dark = [f".s{number}{{--c:{style.dark}}}" for number, style in enumerate(looks)]
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}"])


# ------------------------------------------------------------------------------------------- axes


@dataclasses.dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    shown: Callable[[float], str]
    logarithmic: bool = False


def _share_axis() -> _Axis:
    return _Axis(-0.02, 1.02, (0.0, 0.25, 0.5, 0.75, 1.0), lambda value: f"{value:.0%}")


def _axis(values: Sequence[float], *, tight: bool = False) -> _Axis:
    """An axis around values, with round ticks; logarithmic where they span more than two decades above 0."""
    low, high = min(values), max(values)
    if not tight and low > 0 and high / low > 100:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, math.ceil((last - first) / 5))
        ticks = tuple(10.0**power for power in range(first, last + 1, every))
        return _Axis(10.0**first, 10.0**last, ticks, short, logarithmic=True)
    if high - low < 1e-12 * max(1.0, abs(high)):  # one value: room around it
        low, high = (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)) if not tight else (low, low + 1)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = tuple(number * step for number in range(first, last + 1))
    if tight:
        return _Axis(low, high, tuple(tick for tick in ticks if tick <= high * (1 + 1e-9)), short)
    return _Axis(first * step, last * step, ticks, short)


def short(value: float) -> str:
    """A number as an axis shows it: 0.25, 1.5k, 2M, 1e-05."""
    value = 0.0 if abs(value) < 1e-12 else value
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _placed(axis: _Axis, start: float, end: float) -> Callable[[float], float]:
    """From a value to its place in pixels."""

    def scale(value: float) -> float:
        return math.log10(value) if axis.logarithmic else value

    low, high = scale(axis.low), scale(axis.high)
    return lambda value: round(start + (scale(value) - low) / (high - low) * (end - start), 1)


# ------------------------------------------------------------------------------------------- parts


def _grid(
    x_axis: _Axis, y_axis: _Axis, x_at: Callable[[float], float], y_at: Callable[[float], float]
) -> Html:
    parts: list[Html] = []
    for tick in y_axis.ticks:
        parts.append(tag("path", d=f"M{LEFT} {y_at(tick):g}H{WIDTH - RIGHT}", class_="grid"))
        parts.append(tag("text", y_axis.shown(tick), x=LEFT - 8, y=y_at(tick) + 4, class_="tick end"))
    for tick in x_axis.ticks:
        parts.append(tag("path", d=f"M{x_at(tick):g} {TOP}V{HEIGHT - BOTTOM}", class_="grid"))
        parts.append(
            tag("text", x_axis.shown(tick), x=x_at(tick), y=HEIGHT - BOTTOM + 17, class_="tick middle")
        )
    return tag("g", *parts, aria_hidden="true")


def _reference(line: Line, y_at: Callable[[float], float]) -> Html:
    y = y_at(line.y)
    return tag(
        "g",
        tag("path", d=f"M{LEFT} {y:g}H{WIDTH - RIGHT}", class_="reference"),
        tag("text", line.label, x=WIDTH - RIGHT - 2, y=y - 4, class_="tick end"),
    )


def _series(one: Series, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> Html:
    points = [(x_at(x), y_at(y)) for x, y in zip(one.x, one.y, strict=True)]
    corners = points
    if one.steps:
        turns = [(b[0], a[1]) for a, b in pairwise(points)]
        corners = [corner for pair in zip(points, turns, strict=False) for corner in pair] + points[-1:]
    marks = [_mark(one.look, x, y) for x, y in points if len(points) <= FEW and not one.steps]
    return tag(
        "g",
        _band(one, x_at, y_at) if len(one.low) else None,
        tag("path", d=_path(corners), class_="line"),
        # the points themselves, for the script: never drawn
        tag("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), class_="points"),
        join(marks),
        class_=f"series s{one.look.number}{' strong' if one.strong else ''}",
        data_name=one.name,
        data_tips=json.dumps(list(one.tips), ensure_ascii=False),
    )


def _mark(look: Look, x: float, y: float) -> Html:
    return tag("path", d=MARKERS[look.style.marker], transform=f"translate({x:g} {y:g})", class_="mark")


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in corners)


def _band(one: Series, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> Html:
    there = [(x_at(x), y_at(y)) for x, y in zip(one.x, one.high, strict=True)]
    back = [(x_at(x), y_at(y)) for x, y in zip(one.x, one.low, strict=True)]
    if len(there) == 1:  # a band of no width would not be seen
        return tag("path", d=_path([*there, *back]), class_="bar")
    return tag("path", d=_path([*there, *reversed(back)]) + "z", class_="band")


def _swatch(look: Look) -> Html:
    return tag(
        "svg",
        tag("path", d="M0 7H26", class_="line"),
        _mark(look, 13, 7),
        viewBox="0 0 26 14",
        class_=f"swatch s{look.number}",
        aria_hidden="true",
    )
