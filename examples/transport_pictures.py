"""Draw the pictures of docs/transport.md: `.venv/bin/python examples/transport_pictures.py`.

What is drawn is what the page's own code computes: its blocks are run in order, and the pictures are made of
the names they leave behind, so that page and pictures cannot part ways.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

DOCS = Path(__file__).resolve().parents[1] / "docs"
# Of Okabe and Ito's palette, which the colour-blind tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"


def code_blocks(page: str) -> list[tuple[str, str]]:
    """Each Python block of a Markdown page with what it prints: the `text` block right after it, or ""."""
    return re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", page, re.MULTILINE | re.DOTALL)


def names_of_the_page() -> dict[str, Any]:
    """What the page's blocks, run in one namespace, leave behind."""
    names: dict[str, Any] = {}
    for code, _ in code_blocks((DOCS / "transport.md").read_text()):
        with contextlib.redirect_stdout(None):  # a test compares what it prints
            exec(code, names)
    return names


def draw_plan(
    axes: Axes, rows, columns, plan, *, colour: Any = "0.25", strongest: float | None = None
) -> None:
    """A line from row to column for each pair with mass, as opaque as the pair's mass is large.

    Args:
        rows, columns: (n, 2) and (m, 2), where the points lie.
        plan: (n, m), mass of each pair.
        colour: of all lines, or (n,) of the lines of each row.
        strongest: mass from which on a line is opaque; None takes the plan's largest.
    """
    rows, columns, plan = np.asarray(rows), np.asarray(columns), np.asarray(plan)
    i, j = np.nonzero(plan)
    i, j = np.take((i, j), np.argsort(plan[i, j]), axis=1)  # the strongest on top
    colours = colour if isinstance(colour, str) else np.asarray(colour)[i]
    opacity = np.minimum(plan[i, j] / (strongest or plan.max()), 1)
    segments = np.stack([rows[i], columns[j]], axis=1)
    axes.add_collection(LineCollection(list(segments), colors=colours, alpha=opacity, linewidths=0.9))


def bare(axes: Axes, reach: float) -> None:
    """A square frame without ticks: the coordinates mean nothing here."""
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, a quarter of the size; an octree keeps rare colours, a median cut does not."""
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", pad_inches=0.08)
    image = (
        Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    image.save(path, optimize=True)


def draw_circle(names: dict[str, Any], path: Path) -> None:
    """One Gaussian to eight: the plan at three epsilons, and the potential u at new points."""
    x, y, solutions = names["x"], names["y"], names["solutions"]
    figure = Figure(figsize=(8.6, 8.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).ravel()
    strongest = 0.15 / len(x)  # the same in all panels: they have the same mass, and so the same ink
    for axes, (epsilon, solution) in zip(panels, solutions.items(), strict=False):
        draw_plan(axes, x, y, solution.plan, strongest=strongest)
        axes.scatter(*x.T, s=14, color=BLUE, zorder=3, label="rows x")
        axes.scatter(*y.T, s=14, color=ORANGE, marker="s", zorder=3, label="columns y")
        support = np.mean(np.asarray(solution.compatibility) > 0)
        axes.set_title(f"epsilon = {epsilon:g}: {support:.0%} of the pairs carry mass", fontsize=11)

    panels[0].legend(loc="lower left", frameon=False, handletextpad=0.2)

    axes = panels[3]
    side = len(names["axis"])
    levels = np.asarray(names["u_grid"]).reshape(side, side)
    image = axes.contourf(names["axis"], names["axis"], levels, levels=14, cmap="cividis")
    draw_plan(axes, names["new"], y, names["H_new"][None], colour="white")
    axes.scatter(*x.T, s=26, c=solutions[0.1].u, cmap=image.cmap, norm=image.norm, edgecolors="white", lw=0.5)
    axes.scatter(*y.T, s=14, color=ORANGE, marker="s", zorder=3)
    axes.scatter(*names["new"].T, s=150, color="white", marker="*", edgecolors="black", zorder=4)
    axes.set_title("u at new points, epsilon = 0.1", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8, label="potential u")
    for axes in panels:
        bare(axes, 2.8)
    save(figure, path)


def draw_keypoints(names: dict[str, Any], path: Path) -> None:
    """Three clusters to three: without keypoints, with their mask, with the guiding cost as well."""
    rows, columns, known = names["rows"], names["columns"], np.asarray(names["known"])
    colours = np.asarray([BLUE, ORANGE, GREEN])[np.asarray(names["cluster"])]
    panels = {
        "cost alone": names["unaided"],
        "with the mask": names["masked"],
        "with mask and guiding cost": names["guided"][0.5],
    }
    figure = Figure(figsize=(9.6, 3.7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, solution) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        draw_plan(axes, rows, columns, solution.plan, colour=colours, strongest=0.3 / len(rows))
        for points, marker, label in ((rows, "o", "rows"), (columns, "s", "columns")):
            axes.scatter(
                *points.T, s=24, c=colours, marker=marker, zorder=3, edgecolors="white", linewidths=0.4
            )
            axes.scatter([], [], s=24, color="0.4", marker=marker, label=label)  # a grey mark for the legend
        if title != "cost alone":
            for points, marker in ((rows, "o"), (columns, "s")):
                axes.scatter(
                    *points[known].T, s=60, c=colours[known], marker=marker, ec="black", lw=2, zorder=5
                )
            for start, end in zip(rows[known], columns[known], strict=True):
                axes.plot(*np.stack([start, end], axis=1), color="black", lw=2, zorder=4)
        axes.set_title(f"{title}\n{names['right'](solution)} of the mass is right", fontsize=11)
        bare(axes, 2.8)
    figure.axes[0].legend(loc="lower left", frameon=False, handletextpad=0.2)
    save(figure, path)


def draw(names: dict[str, Any], folder: Path) -> None:
    """Both pictures, from the page's names, into a folder."""
    draw_circle(names, folder / "transport_circle.png")
    draw_keypoints(names, folder / "transport_keypoints.png")


if __name__ == "__main__":
    draw(names_of_the_page(), Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
