"""A picture of one run's learning curve."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from otpr.errors import OtprError
from otpr.training.intervals import wilson_interval

# Blue and orange of the colour-blind safe palette of Okabe and Ito.
SUCCESS_CURVES = (
    ("eval/success_rate", "fine-tuned policy", "#0072B2", "o"),
    ("eval/success_rate_single", "one sample, no resampling", "#D55E00", "s"),
)


def learning_curve(
    rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str, base_success: float | None = None
) -> None:
    """Draw the success rates over environment steps, with 95% Wilson intervals, as a PNG.

    Args:
        rows: metrics as `RunDirectory.rows` gives them. Used are `env_steps`, `eval/success_rate` and
            `eval/success_rate_single` (both in [0, 1]) with `eval/episodes`. Values of None (not finite when
            logged) are left out.
        path: the PNG's path; the folder is created, an existing picture is replaced.
        title: title of the picture.
        base_success: success rate of the policy before fine-tuning, in [0, 1], drawn as a line.

    Raises:
        OtprError: no row has a success rate, or one has no `eval/episodes`.
    """
    curves = [
        (_success_points(rows, key), label, colour, marker) for key, label, colour, marker in SUCCESS_CURVES
    ]
    if not any(points for points, *_ in curves):
        raise OtprError("There is no learning curve to draw: the run has no evaluation in its metrics yet.")
    # Without pyplot, whose figures are global and which may open windows.
    figure = Figure(figsize=(7.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for points, label, colour, marker in curves:
        if points:
            _draw_success(axes, points, label, colour, marker)
    if base_success is not None:
        label = f"before fine-tuning ({base_success:.0%})"
        axes.axhline(base_success, color="0.35", linestyle="--", linewidth=1.2, label=label)
    axes.set(ylim=(-0.02, 1.02), ylabel="success rate (95% interval)", title=title)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="best", frameon=False, fontsize="small")
    axes.set_xlabel("environment steps")
    axes.set_xlim(0, max(1, axes.get_xlim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    figure.savefig(scratch, format="png")
    os.replace(scratch, path)


def _success_points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float, int]]:
    """(environment steps, success rate, episodes) of the rows that have `key`."""
    points: list[tuple[int, float, int]] = []
    for row in rows:
        if row.get(key) is None:
            continue
        missing = [name for name in ("env_steps", "eval/episodes") if row.get(name) is None]
        if missing:
            raise OtprError(f"A row of metrics has {key!r} but no {missing[0]!r}: {dict(row)}")
        points.append((row["env_steps"], row[key], row["eval/episodes"]))
    return points


def _draw_success(
    axes: Axes, points: list[tuple[int, float, int]], label: str, colour: str, marker: str
) -> None:
    steps = [step for step, _, _ in points]
    intervals = [wilson_interval(round(rate * episodes), episodes) for _, rate, episodes in points]
    lows, highs = zip(*intervals, strict=True)
    axes.plot(steps, [rate for _, rate, _ in points], color=colour, marker=marker, markersize=4, label=label)
    if len(points) == 1:  # a band without width would be invisible
        axes.vlines(steps, lows, highs, color=colour, alpha=0.5)
    else:
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
