"""How methods look in figures and on pages: the same colour, marker and line everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of a method. No two share a marker and a colour, so that colour alone never has to tell.

    Attributes:
        colour: on a light ground, as "#rrggbb".
        dark: on a dark ground.
        marker: as matplotlib names it.
        dash: lengths of strokes and gaps in pixels; empty for a whole line.
    """

    colour: str
    dark: str
    marker: str
    dash: tuple[int, ...] = ()


# Okabe and Ito's colours without yellow, which is too pale for a line, and four of Paul Tol's muted ones.
BLUE = Style("#0072B2", "#4DA8E8", "o")
_SKY = Style("#3A9FD8", "#9BD4F5", "o", (5, 3))
_GREY = Style("#6B6B6B", "#A8A8A8", "s", (2, 2))
_OTHERS = (
    Style("#C98A00", "#F0B93A", "s"),
    Style("#7F7F20", "#CFCF6A", "v"),
    Style("#882255", "#E07BAE", "<"),
    Style("#2F9C8C", "#66D0C0", "D"),
    Style("#D55E00", "#FF8A3D", "^"),
    Style("#B5568E", "#F0A5CE", "p"),
    Style("#00855F", "#2FC796", "X"),
    Style("#332288", "#A79BF5", "*"),
)
PALETTE = tuple(dict.fromkeys((BLUE, _OTHERS[4], _OTHERS[6], *_OTHERS)))
"""Styles of the series of a chart that are no methods, in this order."""

_NAMED = {
    "otpr": BLUE,
    "otpr:paper": _SKY,
    "bc": _GREY,
    **dict(zip(("idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc"), _OTHERS, strict=True)),
}


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """The style of each method: its own where it has one, else one that no other of them has, dashed.

    With more methods than looks the last ones repeat.
    """
    free = [
        Style(style.colour, style.dark, style.marker, dash)
        for dash in ((6, 2), (3, 3), (8, 2, 2, 2))
        for style in (*_OTHERS, _GREY, BLUE)
    ]
    chosen: dict[str, Style] = {}
    for method in methods:
        chosen[method] = _NAMED[method] if method in _NAMED else free[0]
        if method not in _NAMED and len(free) > 1:
            free.pop(0)
    return chosen


def dark_rules() -> str:
    """The style sheet's rules that replace the colours of SVG pictures by those for dark ground."""
    rules = [
        f'svg [{part}="{style.colour.lower()}"] {{ {part}: {style.dark} }}'
        for style in (*PALETTE, _SKY, _GREY)
        for part in ("stroke", "fill")
    ]
    return "\n".join(["@media (prefers-color-scheme: dark) {", *rules, "}", ""])
