"""Figures of a study: learning curves and interquartile means."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.storage import write_bytes
from otpr_bench.estimates import interquartile_mean
from otpr_bench.plots import Plot, Series, figure_of, styles
from otpr_bench.study import OURS, Study


def draw_all(study: Study, folder: Path) -> list[Path]:
    """Write `curves.png` and `interquartile.png` of a study into a folder, and return the files.

    The folder is made if missing, and older files are replaced. The second figure shows the methods that
    have a finished run on every task.

    Raises:
        OtprError: no run is finished.
    """
    if all(run.failed for run in study.runs):
        raise OtprError("There is nothing to draw: no run is finished.")
    figures = {"curves": figure_of(learning_curves(study), titles=True)}
    if whole(study):
        figures["interquartile"] = interquartile_means(study)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_bytes(folder / f"{name}.png", content.getvalue())
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


def learning_curves(study: Study) -> list[Plot]:
    """For each task with a finished run: mean success over environment steps, and the range of the seeds."""
    looks, plots = styles(study.methods), list[Plot]()
    for task in study.tasks:
        series: list[Series] = []
        for method in study.methods:
            if found := curve(study, method, task):
                steps, rates = found
                cells = [f"{of_step.mean():.1%}{_seeds(of_step)}" for of_step in rates.T]
                mean, low, high = (
                    rates.mean(axis=0).tolist(),
                    *np.array([rates.min(0), rates.max(0)]).tolist(),
                )
                series.append(Series(study.labels[method], steps, mean, looks[method], low, high, cells))
        if series:
            note = "success: mean over seeds; the band spans the seeds"
            plots.append(Plot(task, "environment steps", series, note, share=True))
    return plots


def interquartile_means(study: Study) -> Figure:
    """A bar for each method: the interquartile mean of final success with its 95% interval."""
    means = {method: interquartile_mean(study.rates_by_task(method) or []) for method in whole(study)}
    order = sorted(means, key=lambda method: means[method].value)
    figure = Figure(figsize=(7.0, 0.36 * len(order) + 1.2), dpi=150, layout="constrained")
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
    axes.set_xticks(np.linspace(0, 1, 5))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _seeds(rates: NDArray[np.float64]) -> str:
    return f" ({', '.join(f'{rate:.0%}' for rate in rates)})" if len(rates) > 1 else ""
