"""Figures of a study: learning curves, interquartile means, performance profiles, success over time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr_bench.aggregates import interquartile_estimate, performance_profile
from otpr_bench.report.style import Style, styles
from otpr_bench.study import OURS, Run, Study

THRESHOLDS = tuple(number / 50 for number in range(51))
"""Thresholds of performance profiles: every 2% of success."""


def draw_all(study: Study, folder: Path) -> list[Path]:
    """Write every figure of a study as `curves.png`, `interquartile.png`, `profiles.png` and `time.png`.

    Args:
        study: the runs. Figures over all tasks show the methods that have a finished run on each.
        folder: where the files go; it is created if missing, and older files are replaced.

    Returns:
        The files that were written.

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
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        part = folder / f".{name}.part"
        figure.savefig(part, format="png")
        os.replace(part, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def whole(study: Study) -> list[str]:
    """The methods that have a finished run on every task."""
    return [method for method in study.methods if study.rates_by_task(method)]


def curve(study: Study, method: str, task: str) -> tuple[list[int], NDArray[np.float64]] | None:
    """Steps and success rates (seeds, steps) of a method's runs on a task; None if it has none.

    The single evaluation of imitation alone holds until the end of the task. If the runs were evaluated at
    different steps, the steps that all of them share are used.
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
    """A panel for each task: mean success over environment steps, and the range of the seeds."""
    columns = min(3, len(study.tasks))
    rows = math.ceil(len(study.tasks) / columns)
    figure = _figure(max(4.6 * columns, 6.5), 3.2 * rows + 0.9)
    looks = styles(study.methods)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, task in zip(axes.flat, study.tasks, strict=False):
        for method in reversed(study.methods):  # ours on top
            if (found := curve(study, method, task)) is not None:
                steps, rates = found
                panel.plot(steps, rates.mean(axis=0), **_line(looks[method], method))
                alpha = 0.2 if method == OURS else 0.06
                low, high, colour = rates.min(axis=0), rates.max(axis=0), looks[method].colour
                panel.fill_between(steps, low, high, color=colour, alpha=alpha, linewidth=0)
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
    _legend(figure, study, study.methods, looks)
    figure.suptitle("Mean over seeds; the band spans the seeds", fontsize="small")
    return figure


def interquartile_means(study: Study) -> Figure:
    """A bar for each method: the interquartile mean of final success with its 95% interval."""
    means = {method: interquartile_estimate(study.rates_by_task(method) or []) for method in whole(study)}
    order = sorted(means, key=lambda method: means[method].value)
    figure = _figure(7.5, 0.36 * len(order) + 1.4)
    axes, looks = figure.subplots(), styles(study.methods)
    for place, method in enumerate(order):
        value, low, high = means[method]
        axes.barh(place, value, color=looks[method].colour, alpha=0.85, height=0.62)
        if not math.isnan(low):
            axes.errorbar(value, place, xerr=[[value - low], [high - value]], color="black", capsize=4)
        missing = sum(study.missing(method, task) for task in study.tasks)
        note = f"  ({missing} {'run' if missing == 1 else 'runs'} missing)" if missing else ""
        right = value if math.isnan(high) else high
        axes.text(right + 0.012, place, f"{value:.0%}{note}", va="center", fontsize="small")
    axes.set_yticks(range(len(order)), [study.labels[method] for method in order])
    for text, method in zip(axes.get_yticklabels(), order, strict=True):
        text.set_fontweight("bold" if method == OURS else "normal")
    axes.set(xlabel="interquartile mean of final success (95% interval)", xlim=(0, 1.08))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def profiles(study: Study) -> Figure:
    """Share of runs whose final success is above a threshold, by threshold; ours with a 95% band."""
    figure = _figure(8.0, 5.0)
    axes, looks = figure.subplots(), styles(study.methods)
    for method in reversed(whole(study)):
        profile = performance_profile(study.rates_by_task(method) or [], THRESHOLDS)
        values, lows, highs = np.array(profile).T
        look = _line(looks[method], method, markers=False)
        axes.plot(THRESHOLDS, values, drawstyle="steps-post", **look)
        if method == OURS and not np.isnan(lows).any():  # a band for every method would hide them all
            colour = looks[method].colour
            axes.fill_between(THRESHOLDS, lows, highs, step="post", color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="threshold of success", ylabel="share of runs that end above it", xlim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    _success_axis(axes)
    _legend(figure, study, whole(study), looks, markers=False)
    return figure


def success_over_time(study: Study) -> Figure:
    """Mean success over tasks and seeds against the wall-clock minutes that the same share of a run took."""
    figure = _figure(8.0, 5.0)
    axes, looks = figure.subplots(), styles(study.methods)
    for method in reversed(whole(study)):
        minutes, success = over_time(study, method)
        if minutes[0] == minutes[-1]:  # imitation alone: its single evaluation holds
            axes.axhline(success[0], color=looks[method].colour, linestyle=":", linewidth=1.3)
        axes.plot(minutes, success, **_line(looks[method], method))
    axes.set(xlabel="wall-clock minutes of a run, mean over tasks", ylabel="success rate, mean over tasks")
    axes.set_xlim(left=0)
    _success_axis(axes)
    _legend(figure, study, whole(study), looks)
    return figure


def over_time(study: Study, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minutes and success (6,) of a method at 0, 1/5, ..., 1 of its runs, with tasks weighing alike.

    Tasks differ in their numbers of steps, so the runs are read at equal shares of them, by linear
    interpolation between two evaluations.
    """
    minutes, success = np.mean([_at_shares(study.finished(method, task)) for task in study.tasks], axis=0)
    return minutes, success


def _at_shares(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Mean minutes and success (2, 6) of runs at 0, 1/5, ..., 1 of their steps."""
    shares = np.linspace(0, 1, 6)
    at = [np.array(run.steps) / max(1, run.steps[-1]) for run in runs]
    read = [
        [np.interp(shares, x, y) for y in (run.minutes, run.success)] for x, run in zip(at, runs, strict=True)
    ]
    return np.mean(read, axis=0)


def _figure(width: float, height: float) -> Figure:
    # pyplot would keep the figure in a global list, and might open a window
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _line(look: Style, method: str, *, markers: bool = True) -> dict[str, Any]:
    """How the line of a method is drawn, as keywords of Matplotlib."""
    width = 2.6 if method == OURS else 1.3
    return {
        "color": look.colour,
        "linewidth": width,
        "linestyle": (0, tuple(length / width for length in look.dash)) if look.dash else "-",
        "marker": look.marker if markers else "",
        "markersize": 6 if method == OURS else 4.5,
    }


def _success_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(
    figure: Figure, study: Study, methods: Sequence[str], looks: dict[str, Style], *, markers: bool = True
) -> None:
    labels = [study.labels[method] for method in methods]
    handles = [Line2D([], [], **_line(looks[method], method, markers=markers)) for method in methods]
    # a character is about 0.075 inches wide, and the line before it takes 0.6
    fitting = int(figure.get_figwidth() / (0.6 + 0.075 * max(map(len, labels))))
    columns = max(1, min(6, fitting))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(labels) / columns) - 2))
