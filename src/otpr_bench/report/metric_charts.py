"""Charts of a run's metrics: those that are known in groups that belong together, any others one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from otpr.training.curve import MARGINAL_ERROR_BOUND
from otpr.training.intervals import wilson_interval
from otpr_bench.report.charts import Line, Look, Series, chart
from otpr_bench.report.html import Html, details, table, tag
from otpr_bench.report.run_files import Document, episodes, number, success
from otpr_bench.report.style import BLUE, GREEN, ORANGE

LOOKS = tuple(Look(place, style) for place, style in enumerate((BLUE, ORANGE, GREEN)))
"""Of the series of one chart, in this order; a chart has no more."""

POINTS = 200
"""A series of more points is shown as means over equal stretches of it."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Metrics in one chart, with the name that each has there."""

    title: str
    metrics: dict[str, str]
    share: bool = False
    lines: tuple[Line, ...] = ()


TRANSPORT = "Optimal transport"
SECTIONS: dict[str, tuple[Group, ...]] = {
    TRANSPORT: (
        Group(
            "Marginal error",
            {
                "ot/marginal_error": "both",
                "ot/row_error": "states (rows)",
                "ot/column_error": "actions (columns)",
            },
            lines=(Line(MARGINAL_ERROR_BOUND, f"bound {MARGINAL_ERROR_BOUND}"),),
        ),
        Group(
            "Pairs with positive compatibility",
            {"ot/support": "potentials", "policy/support": "batch"},
            share=True,
        ),
        Group(
            "Decisions without any compatible candidate",
            {"rollout/zero_compatibility": "rollout", "eval/zero_compatibility": "evaluation"},
            share=True,
        ),
        Group("Effective share of the pairs", {"policy/effective_share": "effective share"}, share=True),
        Group("Scale of the cost", {"ot/scale": "spread of Q"}),
        Group("Passes over fresh blocks a round", {"ot/passes": "passes"}),
        Group("Blocks left out", {"ot/unsolved": "without an exact solution"}, share=True),
    ),
    "Critic": (
        Group(
            "Values",
            {"critic/q": "Q, mean", "critic/q_max": "Q, maximum", "critic/value": "value, mean"},
        ),
        Group("Loss", {"critic/loss": "Q", "critic/value_loss": "V"}),
        Group("Values beyond what rewards allow", {"critic/beyond_bound": "share of pairs"}, share=True),
    ),
    "Policy and interaction": (
        Group("Loss of the policy", {"policy/loss": "policy loss"}),
        Group(
            "Success while training",
            {"rollout/success_rate_recent": "last 40 episodes", "rollout/success_rate": "this round"},
            share=True,
        ),
        Group("Length of episodes", {"rollout/length": "training", "eval/length": "evaluation"}),
    ),
    "Imitation": (
        Group("Loss of imitation", {"pretrain/loss": "training", "pretrain/held_out_loss": "held out"}),
    ),
}
"""The charts of a run of ours. What another algorithm measures under these names stands there too."""

REMARKS = {
    TRANSPORT: (
        "The marginal error is measured on pairs that the potentials were not trained on: below the bound, "
        "compatibilities can be trusted."
    ),
    "Critic": "With a reward of 1 at the end of an episode, values lie between 0 and 1 when things go well.",
}

_COUNTERS = frozenset(
    {
        "env_steps",
        "row",
        "seconds",
        "updates",
        "eval/success_rate",
        "eval/success_rate_single",
        "eval/episodes",
        "eval/seconds",
        "rollout/episodes",
        "rollout/broken_episodes",
        "ot/round",
        "critic/bound_low",
        "critic/bound_high",
    }
)
"""What is told elsewhere, or is no curve."""


def success_series(rows: Sequence[Document]) -> list[Series]:
    """Success over environment steps with Wilson intervals: as deployed, and of one sample."""
    names = {"eval/success_rate": "as deployed", "eval/success_rate_single": "one sample"}
    found: list[Series] = []
    for (metric, name), look in zip(names.items(), LOOKS, strict=False):
        points = [
            (step, rate, episodes(row))
            for row in rows
            if (rate := success(row, metric)) is not None and (step := number(row, "env_steps")) is not None
        ]
        if not points:
            continue
        bands = [
            wilson_interval(round(rate * count), count) if count else (rate, rate)
            for _, rate, count in points
        ]
        tips = [
            f"{step:,.0f} steps: {rate:.1%}"
            + (f" of {count:,} episodes\n95% interval {low:.1%} to {high:.1%}" if count else "")
            for (step, rate, count), (low, high) in zip(points, bands, strict=True)
        ]
        x, y = [point[0] for point in points], [point[1] for point in points]
        low, high = [band[0] for band in bands], [band[1] for band in bands]
        found.append(Series(name, x, y, tips, look, low, high, strong=not found))
    return found


def metric_charts(
    rows: Sequence[Document], imitation: Sequence[Document]
) -> Iterator[tuple[str, list[Html], str]]:
    """Title, charts and a remark of every section that the metrics have something for.

    Args:
        rows: of the run.
        imitation: of the imitation before it.
    """
    everything = [*rows, *imitation]
    named = {metric for groups in SECTIONS.values() for group in groups for metric in group.metrics}
    transports = any(name.startswith("ot/") for row in everything for name in row)
    for title, groups in SECTIONS.items():
        if title == TRANSPORT and not transports:
            continue  # every run counts decisions without a compatible candidate; of a peer they say nothing
        charts = [picture for group in groups if (picture := _chart(everything, group))]
        if charts:
            yield title, charts, REMARKS.get(title, "")
    others = sorted(
        {
            name
            for row in everything
            for name in row
            if name not in named | _COUNTERS and number(row, name) is not None
        }
    )
    if others:
        # a metric's whole name, since nothing is known of it
        singles = [Group(name, {name: name}) for name in others]
        yield "Further metrics", [picture for one in singles if (picture := _chart(everything, one))], ""


def _chart(rows: Sequence[Document], group: Group) -> Html:
    """The chart of a group with its numbers below; nothing where no row has any of its metrics."""
    axis = _axis(rows, group)
    series = [
        one
        for (metric, name), look in zip(group.metrics.items(), LOOKS, strict=False)
        if (one := _series(rows, metric, name, axis, look, share=group.share))
    ]
    if not series:
        return Html()
    x_label = {"updates": "gradient steps", "env_steps": "environment steps"}[axis]
    picture = chart(
        series,
        title=group.title,
        x_label=x_label,
        share=group.share and all(-0.02 <= y <= 1.02 for one in series for y in one.y),
        lines=group.lines,
        named=True,
    )
    places = sorted({x for one in series for x in one.x})
    numbers = [(f"{x:,.0f}", *(_at(one, x) for one in series)) for x in places]
    return tag("div", picture, details("Numbers", table((x_label, *(one.name for one in series)), numbers)))


def _axis(rows: Sequence[Document], group: Group) -> str:
    """Rows of gradient steps share the environment steps of their round, so they are placed by the former."""
    have = [row for row in rows if any(number(row, metric) is not None for metric in group.metrics)]
    return "updates" if all(number(row, "updates") is not None for row in have) else "env_steps"


def _series(
    rows: Sequence[Document], metric: str, name: str, axis: str, look: Look, *, share: bool
) -> Series | None:
    points = [
        (x, y)
        for row in rows
        if (y := number(row, metric)) is not None and (x := number(row, axis)) is not None
    ]
    if not points:
        return None
    size = -(-len(points) // POINTS)
    pieces = [np.mean(points[start : start + size], axis=0) for start in range(0, len(points), size)]
    x, y = [float(piece[0]) for piece in pieces], [float(piece[1]) for piece in pieces]
    mean = f" (mean of {size} rows)" if size > 1 else ""
    tips = [f"{at:,.0f}: {_exact(value, share)}{mean}" for at, value in zip(x, y, strict=True)]
    return Series(name, x, y, tips, look)


def _at(series: Series, x: float) -> str:
    return _exact(series.y[list(series.x).index(x)], share=False) if x in series.x else ""


def _exact(value: float, share: bool) -> str:
    return f"{value:.2%}" if share else f"{value:.5g}"
