"""One measured line: in the terminal, in latest.json and in the table of docs/performance.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

MARKS = ("<!-- rows -->", "<!-- end of rows -->")
"""Between them docs/performance.md has the rows of latest.json."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A ratio (or a number with a unit), what it compares and what it should be."""

    name: str
    ratio: float
    unit: str  # "x" for a plain ratio
    compared: str  # in words, the first of the two above the second
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # medians of what was timed
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""  # what was scaled or left out
    details: dict[str, Any] = dataclasses.field(default_factory=dict)  # further numbers

    @property
    def target(self) -> str:
        """The bound in words, empty where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def verdict(self) -> str:
        """Whether the bound is kept."""
        if not self.target:
            return ""
        low = self.at_least is None or self.ratio >= self.at_least
        return "met" if low and (self.at_most is None or self.ratio <= self.at_most) else "missed"

    def cells(self) -> list[str]:
        """The row as text: name, value, target, verdict, what is compared."""
        number = f"{self.ratio:.3g}" if self.ratio < 1000 else f"{self.ratio:.0f}"
        about = self.compared + (f" ({self.note})" if self.note else "")
        return [self.name, f"{number} {self.unit}", self.target, self.verdict, about]


def table(rows: Sequence[Row]) -> Table:
    """The rows for the terminal."""
    result = Table("name", "value", "target", "", "what is compared", box=None)
    for row in rows:
        result.add_row(*row.cells())
    return result


def markdown(rows: Sequence[Row]) -> str:
    """The rows for the docs."""
    lines = ["| name | value | target | | what is compared |", "|---|---|---|---|---|"]
    for row in rows:
        name, *rest = row.cells()
        lines.append(f"| {' | '.join([f'`{name}`', *rest])} |")
    return "\n".join(lines)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a list of objects, each with at least name, ratio and unit."""
    objects = [dataclasses.asdict(row) for row in rows]
    path.write_text(json.dumps(objects, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> list[Row]:
    """The rows that `write_json` wrote."""
    return [Row(**item) for item in json.loads(path.read_text(encoding="utf-8"))]


def write_page(rows: Sequence[Row], page: Path) -> None:
    """Replace the table in the page by that of the rows."""
    start, end = MARKS
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for the rows: expected a line {start!r} and a line {end!r}.")
    page.write_text(f"{before}{start}\n{markdown(rows)}\n{end}{after}", encoding="utf-8")
