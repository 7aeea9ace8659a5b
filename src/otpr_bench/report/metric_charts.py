"""Charts of a run's metrics: known ones by what they mean, an algorithm's own by their names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from otpr_bench.report import otpr_words
from otpr_bench.report.charts import Chart, Level, Series, line_chart
from otpr_bench.report.run_files import Document, Rate, number, success
from otpr_bench.report.style import PALETTE

POINTS = 200
"""A series of more points is shown as means over equal stretches of it."""


class Section(NamedTuple):
    """Charts under a heading, and a remark that holds for all of them."""

    title: str
    charts: list[Chart]
    remark: str


_KNOWN = {
    "critic/q": ("Critic", "Values", "Q, mean"),
    "critic/q_max": ("Critic", "Values", "Q, maximum"),
    "critic/value": ("Critic", "Values", "value, mean"),
    "critic/loss": ("Critic", "Loss of the critic", "Q"),
    "critic/value_loss": ("Critic", "Loss of the critic", "V"),
    "critic/beyond_bound": ("Critic", "Values beyond what rewards allow", "share of pairs"),
    "policy/loss": ("Policy and interaction", "Loss of the policy", "policy loss"),
    "rollout/success_rate_recent": ("Policy and interaction", "Success while training", "last 40 episodes"),
    "rollout/success_rate": ("Policy and interaction", "Success while training", "this round"),
    "rollout/length": ("Policy and interaction", "Length of episodes", "training"),
    "eval/length": ("Policy and interaction", "Length of episodes", "evaluation"),
    "pretrain/loss": ("Imitation", "Loss of imitation", "training"),
    "pretrain/held_out_loss": ("Imitation", "Loss of imitation", "held out"),
}
"""Section, chart and series of the metrics that mean the same whatever the algorithm."""

_SHARES = frozenset({"Values beyond what rewards allow", "Success while training"})
"""Charts whose vertical axis is in percent."""

_PREFIXES = frozenset({"eval", "rollout", "critic", "policy", "pretrain"})
"""Of metrics that are not an algorithm's own."""

_NO_CURVES = frozenset(
    {
        *("env_steps", "row", "seconds", "updates", "otpr/round"),
        *("eval/success_rate", "eval/success_rate_single", "eval/episodes", "eval/seconds"),
        *("rollout/episodes", "rollout/broken_episodes", "critic/bound_low", "critic/bound_high"),
    }
)
"""What is told elsewhere, or only counts."""

_REMARKS = {
    "Critic": "With a reward of 1 at the end of an episode, values lie between 0 and 1 when things go well.",
    "Metrics of otpr": otpr_words.REMARK,
}


def success_chart(rows: Sequence[Document], base: Rate | None) -> Chart | None:
    """Success over environment steps with Wilson intervals: as deployed, and of one sample.

    Args:
        rows: of the run.
        base: before fine-tuning, drawn as a level.
    """
    names = {"eval/success_rate": "as deployed", "eval/success_rate_single": "one sample"}
    found: list[Series] = []
    for (metric, name), style in zip(names.items(), PALETTE, strict=False):
        points = [
            (step, *rate)
            for row in rows
            if (rate := success(row, metric)) is not None and (step := number(row, "env_steps")) is not None
        ]
        if points:
            steps, rates, intervals, _ = zip(*points, strict=True)
            low, high = zip(*intervals, strict=True)
            found.append(Series(name, steps, rates, style, low, high))
    if not found:
        return None
    return line_chart(
        found,
        "success",
        title="Success",
        x_label="environment steps",
        note="of held-out episodes, with 95% Wilson intervals",
        share=True,
        levels=() if base is None else (Level(base.value, f"before: {base.value:.0%}"),),
    )


def metric_sections(rows: Sequence[Document]) -> Iterator[Section]:
    """The sections that the metrics have something for: the algorithm's own first, unknown ones last.

    An algorithm's own metrics are those under a prefix of its own. `prefix/name` has a chart; the metrics
    `prefix/name/one`, `prefix/name/other` share one.

    Args:
        rows: of the run, and of the imitation before it.
    """
    names = {name for row in rows for name in row if number(row, name) is not None}
    places: dict[str, tuple[str, str, str]] = {}
    others: dict[str, tuple[str, str, str]] = {}
    for metric in sorted(names - _KNOWN.keys() - _NO_CURVES):
        prefix, _, rest = metric.partition("/")
        name, _, series = rest.partition("/")
        if name and prefix not in _PREFIXES:
            chart = f"{prefix}/{name}"
            places[metric] = (f"Metrics of {prefix}", chart, series or chart)
        else:
            others[metric] = ("Further metrics", metric, metric)
    places |= {metric: place for metric, place in _KNOWN.items() if metric in names} | others
    sections: dict[str, dict[str, dict[str, str]]] = {}
    for metric, (section, chart, series) in places.items():
        sections.setdefault(section, {}).setdefault(chart, {})[metric] = series
    for title, groups in sections.items():
        charts = [chart for name, group in groups.items() if (chart := _chart(rows, name, group))]
        if charts:
            yield Section(title, charts, _REMARKS.get(title, ""))


def _chart(rows: Sequence[Document], title: str, metrics: Mapping[str, str]) -> Chart | None:
    """The chart of metrics, given with their names in it; None where no row says where they belong."""
    have = [row for row in rows if any(number(row, metric) is not None for metric in metrics)]
    # rows of gradient steps share the environment steps of their round, so they are placed by the former
    by_updates = all(number(row, "updates") is not None for row in have)
    series: list[Series] = []
    stretch = 1
    for (metric, name), style in zip(metrics.items(), itertools.cycle(PALETTE), strict=False):
        points = [
            (x, y)
            for row in have
            if (y := number(row, metric)) is not None
            and (x := number(row, "updates" if by_updates else "env_steps")) is not None
        ]
        if points:
            size = -(-len(points) // POINTS)
            pieces = [np.mean(points[start : start + size], axis=0) for start in range(0, len(points), size)]
            x, y = np.transpose(pieces).tolist()
            series.append(Series(name, x, y, style))
            stretch = max(stretch, size)
    if not series:
        return None
    bounds = (Level(otpr_words.BOUND, f"bound {otpr_words.BOUND}"),) if title in otpr_words.BOUNDED else ()
    return line_chart(
        series,
        " ".join(metrics),
        title=title,
        x_label="gradient steps" if by_updates else "environment steps",
        note=f"each point the mean of {stretch} rows" if stretch > 1 else "",
        share=title in _SHARES,
        levels=bounds,
    )
