"""Pictures of a study, as PNG: curves, interquartile means, profiles, and success over time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr_bench.report.style import Style, styles
from otpr_bench.statistics import interquartile_estimate, performance_profile
from otpr_bench.study import OURS, Run, Study

THRESHOLDS = tuple(number / 50 for number in range(51))
"""Of performance profiles: every 2% of success."""

_COLUMNS = 3

_Numbers = Sequence[float] | Sequence[int] | NDArray[np.float64]


def draw_all(study: Study, folder: Path) -> list[Path]:
    """Every figure of a study, as `curves.png`, `interquartile.png`, `profiles.png` and `time.png`.

    Args:
        study: its runs; figures over all tasks show the methods that have a finished run on each.
        folder: where they go; made where missing, older ones are replaced.

    Raises:
        OtprError: no run is finished.
    """
    if all(run.failed for run in study.runs):
        raise OtprError("There is nothing to draw: no run is finished.")
    figures = {"curves": learning_curves(study)}
    if whole(study):
        figures["interquartile"] = interquartile_means(study)
        figures["profiles"] = profiles(study)
        figures["time"] = success_over_time(study)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def whole(study: Study) -> list[str]:
    """The methods that have a finished run on every task."""
    return [method for method in study.methods if study.groups(method) is not None]


def curve(study: Study, method: str, task: str) -> tuple[list[int], NDArray[np.float64]] | None:
    """Steps and success rates (seeds, steps) of a method's runs on a task; None where it has none.

    A single evaluation, of imitation alone, holds until the task's end. Where the runs differ in the steps
    they were evaluated at, those that all of them have are taken.
    """
    runs = study.finished(method, task)
    if not runs:
        return None
    end = study.end(task)
    if all(len(run.steps) == 1 for run in runs) and end:
        return [0, end], np.array([[run.final, run.final] for run in runs])
    shared = sorted(set[int].intersection(*(set(run.steps) for run in runs)))
    return shared, np.array([[run.success[run.steps.index(step)] for step in shared] for run in runs])


def learning_curves(study: Study) -> Figure:
    """A panel a task: mean success over environment steps, from the lowest to the highest seed."""
    columns = min(_COLUMNS, len(study.tasks))
    rows = math.ceil(len(study.tasks) / columns)
    figure = _figure(max(4.6 * columns, 6.5), 3.2 * rows + 0.9)
    looks = styles(study.methods)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, task in zip(axes.flat, study.tasks, strict=False):
        for method in reversed(study.methods):  # ours on top
            found = curve(study, method, task)
            if found is not None:
                _draw_curve(panel, *found, looks[method], ours=method == OURS)
        panel.set_title(task, fontsize="medium")
        panel.set_xlabel("environment steps")
        panel.set_xlim(0, max(1, study.end(task)) * 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10]))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        _success_axis(panel)
    for panel in axes.flat[len(study.tasks) :]:
        panel.set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("success rate")
    _legend(figure, study.methods, looks)
    figure.suptitle("Mean over seeds; band: from the lowest to the highest seed", fontsize="small")
    return figure


def interquartile_means(study: Study) -> Figure:
    """A bar a method: the interquartile mean of final success over tasks and seeds, with its 95% interval."""
    groups = {method: study.groups(method) for method in study.methods}
    means = {method: interquartile_estimate(group) for method, group in groups.items() if group}
    order = sorted(means, key=lambda method: means[method].value)
    figure = _figure(7.5, 0.36 * len(order) + 1.4)
    axes, looks = figure.subplots(), styles(study.methods)
    for place, method in enumerate(order):
        value, low, high = means[method]
        axes.barh(place, value, color=looks[method].colour, alpha=0.85, height=0.62)
        if not math.isnan(low):
            axes.hlines(place, low, high, color="black", linewidth=1.6)
            axes.vlines([low, high], place - 0.14, place + 0.14, color="black", linewidth=1.6)
        missing = sum(study.missing(method, task) for task in study.tasks)
        label = f"{value:.0%}" + (
            f"  ({missing} {'run' if missing == 1 else 'runs'} missing)" if missing else ""
        )
        right = value if math.isnan(high) else high
        axes.text(right + 0.012, place, label, va="center", fontsize="small")
    axes.set_yticks(range(len(order)), order)
    for text, method in zip(axes.get_yticklabels(), order, strict=True):
        text.set_fontweight("bold" if method == OURS else "normal")
    axes.set(xlabel="interquartile mean of final success over tasks and seeds (95% interval)", xlim=(0, 1.08))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def profiles(study: Study) -> Figure:
    """Share of runs whose final success is above a threshold, over the threshold; ours with a 95% band."""
    figure = _figure(8.0, 5.0)
    axes, looks = figure.subplots(), styles(study.methods)
    for method in reversed(whole(study)):
        profile = performance_profile(study.groups(method) or [], THRESHOLDS)
        values, lows, highs = np.array(profile).T
        _draw_line(axes, THRESHOLDS, values, looks[method], ours=method == OURS, markers=False, steps=True)
        # Eleven bands on each other show nothing; and where seeds do not differ there is none.
        if method == OURS and not np.isnan(lows).any():
            look = looks[method].colour
            axes.fill_between(THRESHOLDS, lows, highs, step="post", color=look, alpha=0.18, linewidth=0)
    axes.set(xlabel="threshold of success", ylabel="share of runs that end above it", xlim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    _success_axis(axes)
    _legend(figure, whole(study), looks, markers=False)
    return figure


def success_over_time(study: Study) -> Figure:
    """Mean success over tasks and seeds against the wall-clock minutes that the same share of a run took."""
    figure = _figure(8.0, 5.0)
    axes, looks = figure.subplots(), styles(study.methods)
    for method in reversed(whole(study)):
        minutes, success = over_time(study, method)
        if minutes[0] == minutes[-1]:  # imitation alone: one evaluation, which holds
            axes.axhline(success[0], color=looks[method].colour, linestyle=":", linewidth=1.3)
        _draw_line(axes, minutes, success, looks[method], ours=method == OURS)
    axes.set(xlabel="wall-clock minutes of a run, mean over tasks", ylabel="success rate, mean over tasks")
    axes.set_xlim(left=0)
    _success_axis(axes)
    _legend(figure, whole(study), looks)
    return figure


def over_time(study: Study, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minutes and success of a method at 0, 1/5, 2/5, ... of its runs, tasks weighing alike.

    Tasks differ in their steps, so the runs are read at equal shares of theirs, between two evaluations on
    the straight line.
    """
    at = [_at_shares(study.finished(method, task)) for task in study.tasks]
    minutes, success = np.mean(at, axis=0)
    return minutes, success


def _at_shares(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Mean minutes and success (2, shares) of runs at 0, 1/5, ... of their steps."""
    shares = np.linspace(0, 1, 6)
    read = [
        [
            np.interp(shares, np.array(run.steps) / max(1, run.steps[-1]), values)
            for values in (run.minutes, run.success)
        ]
        for run in runs
    ]
    return np.mean(read, axis=0)


def _figure(width: float, height: float) -> Figure:
    # Not through pyplot: its figures are global, and it may open windows.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_curve(
    axes: Axes, steps: Sequence[int], rates: NDArray[np.float64], look: Style, *, ours: bool
) -> None:
    _draw_line(axes, steps, rates.mean(axis=0), look, ours=ours)
    if len(rates) > 1:
        low, high = rates.min(axis=0), rates.max(axis=0)
        axes.fill_between(steps, low, high, color=look.colour, alpha=0.2 if ours else 0.06, linewidth=0)


def _draw_line(
    axes: Axes,
    x: _Numbers,
    y: _Numbers,
    look: Style,
    *,
    ours: bool,
    markers: bool = True,
    steps: bool = False,
) -> None:
    line = _line(look, x, y, ours=ours, markers=markers)
    if steps:
        line.set_drawstyle("steps-post")
    axes.add_line(line)
    axes.autoscale_view()


def _line(
    look: Style, x: _Numbers = (), y: _Numbers = (), *, ours: bool, markers: bool, label: str = ""
) -> Line2D:
    width = 2.6 if ours else 1.3
    return Line2D(
        x,
        y,
        color=look.colour,
        linewidth=width,
        linestyle=(0, tuple(length / width for length in look.dash)) if look.dash else "-",
        marker=look.marker if markers else "",
        markersize=6 if ours else 4.5,
        label=label,
    )


def _success_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, methods: Sequence[str], looks: dict[str, Style], *, markers: bool = True) -> None:
    handles = [_line(looks[method], label=method, ours=method == OURS, markers=markers) for method in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    figure.savefig(scratch, format="png")
    os.replace(scratch, path)
    return path
