"""The learning curve of one run, as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from otpr.errors import OtprError
from otpr.training.intervals import wilson_interval

MARGINAL_ERROR_BOUND = 0.15
"""The marginal error below which the potentials count as solved."""

# Blue and orange of Okabe and Ito's palette, which the colour-blind tell apart.
SUCCESS_CURVES = (
    ("eval/success_rate", "fine-tuned policy", "#0072B2", "o"),
    ("eval/success_rate_single", "one sample, no resampling", "#D55E00", "s"),
)


def learning_curve(
    rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str, base_success: float | None = None
) -> None:
    """Draw the success rates over environment steps, with 95% Wilson intervals, as a PNG.

    Where rows have `ot/marginal_error`, a second panel shows it with the bound it should stay below.

    Args:
        rows: metrics as `RunDirectory.rows` gives them. Used are `env_steps`, `eval/success_rate` and
            `eval/success_rate_single` (both in [0, 1]) with `eval/episodes`, and `ot/marginal_error`.
            Values of None (not finite when logged) are left out.
        path: where the PNG goes; the folder is made, an older picture is replaced.
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
    errors = [
        (row["env_steps"], row["ot/marginal_error"])
        for row in rows
        if row.get("ot/marginal_error") is not None and row.get("env_steps") is not None
    ]

    # Not through pyplot: its figures are global, and it may open windows.
    figure = Figure(figsize=(7.0, 6.2 if errors else 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if errors:
        top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
        _draw_marginal_error(bottom, errors)
    else:
        top = bottom = figure.subplots()
    for points, label, colour, marker in curves:
        if points:
            _draw_success(top, points, label, colour, marker)
    if base_success is not None:
        label = f"before fine-tuning ({base_success:.0%})"
        top.axhline(base_success, color="0.35", linestyle="--", linewidth=1.2, label=label)
    top.set(ylim=(-0.02, 1.02), ylabel="success rate (95% interval)", title=title)
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    top.legend(loc="best", frameon=False, fontsize="small")
    bottom.set_xlabel("environment steps")
    bottom.set_xlim(0, max(1, bottom.get_xlim()[1]))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in {top, bottom}:
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
    if len(points) == 1:  # a band of no width would not be seen
        axes.vlines(steps, lows, highs, color=colour, alpha=0.5)
    else:
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)


def _draw_marginal_error(axes: Axes, errors: list[tuple[int, float]]) -> None:
    steps, values = zip(*errors, strict=True)
    axes.plot(steps, values, color="#009E73", marker=".", markersize=4, linewidth=1)
    axes.axhline(MARGINAL_ERROR_BOUND, color="0.35", linestyle=":", linewidth=1.2)
    axes.annotate(
        f"bound {MARGINAL_ERROR_BOUND}",
        (1.0, MARGINAL_ERROR_BOUND),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color="0.35",
    )
    # Always wide enough for a few ticks, whatever the values; a logarithm has no place for an error of 0.
    drawn = [0.04, 0.4, *(value for value in values if value > 0)]
    axes.set(yscale="log", ylabel="marginal error", ylim=(min(drawn) / 1.2, max(drawn) * 1.2))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
