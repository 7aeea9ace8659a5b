"""An overview of a data set as a PNG."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from otpr.data.inspect import BINS, SATURATED, Inspection
from otpr.data.looks import FRAMES, Look
from otpr.storage import writing

# Blue, orange and grey from the colour-blind safe palette of Okabe and Ito.
_SOLVED, _FAILED, _UNKNOWN = "#0072B2", "#D55E00", "0.6"
_WIDTH = 10.0  # of the picture, in inches
_GAP = 4  # pixels between frames, in a row of 1,000


def draw(found: Inspection, path: Path) -> None:
    """Draw lengths, returns, actions, the two directions in which observations vary most, and frames.

    Args:
        found: the result of `inspect`.
        path: the PNG's path; the folder is created, an existing picture is replaced.

    Raises:
        OtprError: the picture cannot be written.
    """
    # Without pyplot, whose figures are global and which may open windows.
    strips = {name: look for name, look in found.looks.items() if look.strips}
    heights = [_strip_height(look) for look in strips.values()]
    figure = Figure(figsize=(_WIDTH, 7.4 + sum(heights)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 + len(strips), 2, height_ratios=[3.7, 3.7, *heights])
    panels = [figure.add_subplot(grid[row, column]) for row in range(2) for column in range(2)]
    lengths, returns, actions, states = panels
    steps = sum(found.lengths)
    title = f"{found.source.path}\n{len(found.lengths):,} episodes, {steps:,} steps"
    figure.suptitle(title, fontsize="medium")
    _histogram(lengths, np.asarray(found.lengths, float), found, "steps of an episode")
    if len(set(found.lengths)) > 1:
        lengths.xaxis.set_major_locator(MaxNLocator(integer=True))
    _histogram(returns, np.asarray(found.returns), found, "return of an episode (undiscounted)")
    _draw_actions(figure, actions, found)
    _draw_states(figure, states, found)
    for row, (name, look) in enumerate(strips.items(), start=2):
        _draw_frames(figure.add_subplot(grid[row, :]), name, look)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.part")
        figure.savefig(scratch, format="png")
        os.replace(scratch, path)


def _histogram(axes: Axes, values: NDArray[np.float64], found: Inspection, label: str) -> None:
    """A histogram of one number of each episode, stacked by success."""
    fine = np.isfinite(values)
    axes.set(xlabel=label, ylabel="episodes")
    if not fine.any():
        axes.text(0.5, 0.5, "the file has no rewards", transform=axes.transAxes, ha="center", color="0.35")
        axes.set(xticks=[], yticks=[])
        return
    groups = (("success", True, _SOLVED), ("no success", False, _FAILED), ("success unknown", None, _UNKNOWN))
    success = np.array(found.success, object)
    stacks = [(values[fine & (success == is_)], name, colour) for name, is_, colour in groups]
    stacks = [stack for stack in stacks if len(stack[0])]
    low, high = values[fine].min(), values[fine].max()
    if low == high:  # one bar in the middle
        edges = np.array([low - 0.25, low + 0.25])
        axes.set(xlim=(low - 1, high + 1), xticks=[low])
    else:
        edges = np.histogram_bin_edges(values[fine], int(np.clip(2 * np.sqrt(fine.sum()), 5, 40)))
    axes.hist(
        [stack[0] for stack in stacks],
        bins=list(edges),
        stacked=True,
        edgecolor="white",
        linewidth=0.6,
        color=[stack[2] for stack in stacks],
        label=[f"{stack[1]} ({len(stack[0]):,})" for stack in stacks],
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.legend(frameon=False, fontsize="small")


def _draw_actions(figure: Figure, axes: Axes, found: Inspection) -> None:
    """One row for each dimension, darker for more actions; the square root makes rare ones visible."""
    counts = found.histograms / np.maximum(found.histograms.sum(axis=1, keepdims=True), 1)
    dims = len(counts)
    mesh = axes.pcolormesh(BINS, np.arange(dims + 1) - 0.5, np.sqrt(counts), cmap="Blues", vmin=0)
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="action", ylabel="dimension", xticks=[-1, -0.5, 0, 0.5, 1])
    bar = figure.colorbar(mesh, ax=axes, label="share of steps", pad=0.02)
    top = float(np.sqrt(counts.max()))
    ticks = [0.0, top / 3, top * 2 / 3, top]
    bar.set_ticks(ticks, labels=[f"{tick**2:.1%}" for tick in ticks])
    axes.set_title(
        f"beyond {SATURATED} in up to {found.saturated.max(initial=0):.0%} of steps a dimension",
        fontsize="small",
    )


def _draw_states(figure: Figure, axes: Axes, found: Inspection) -> None:
    """Observations, scaled to unit deviation, along their first two principal components."""
    sample = found.sample
    axes.set(xlabel="first principal component", ylabel="second")
    std = sample.std(axis=0) if len(sample) else np.zeros(0)
    varying = std > 1e-9 * np.maximum(np.abs(sample).max(axis=0, initial=0), 1) if len(sample) else std > 0
    if len(sample) < 3 or varying.sum() < 2:
        axes.text(0.5, 0.5, "too few that vary", transform=axes.transAxes, ha="center", color="0.35")
        axes.set(xticks=[], yticks=[])
        return
    unit = (sample[:, varying] - sample[:, varying].mean(axis=0)) / std[varying]
    _, sizes, directions = np.linalg.svd(unit, full_matrices=False)
    along = unit @ directions[:2].T
    share = sizes[:2] ** 2 / (sizes**2).sum()
    dots = axes.scatter(
        *along.T, c=found.progress, s=6, cmap="viridis", linewidths=0, alpha=0.7, rasterized=True
    )
    figure.colorbar(dots, ax=axes, label="progress in the episode", pad=0.02)
    axes.set_xlabel(f"first principal component of observations ({share[0]:.0%} of variance)")
    axes.set_ylabel(f"second ({share[1]:.0%})")


def _strip_height(look: Look) -> float:
    """The height of a camera's frames and title, in inches."""
    height, width = look.shape[:2]
    return 0.5 + len(look.strips) * (_WIDTH - 0.6) / FRAMES * height / width


def _draw_frames(axes: Axes, name: str, look: Look) -> None:
    """A row of frames for each of the first episodes, from start to end."""
    height, width = look.strips[0].shape[1:3]
    gap = max(1, _GAP * FRAMES * width // 1000)
    canvas = np.full(
        (len(look.strips) * (height + gap) - gap, FRAMES * (width + gap) - gap, 3), 255, np.uint8
    )
    for row, strip in enumerate(look.strips):
        for column, frame in enumerate(strip):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = frame[..., :3]  # grey becomes RGB
    axes.imshow(canvas, interpolation="antialiased")
    axes.set_axis_off()
    size = " x ".join(map(str, look.shape[:2]))
    few = "the first episode" if len(look.strips) == 1 else f"the first {len(look.strips)} episodes"
    axes.set_title(f"{name}, {size}: {few} from beginning to end", fontsize="small")
