"""Charts of a run's metrics, under sections and titles that follow from their names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from otpr_bench.plots import PALETTE, Chart, Level, Plot, Series, chart
from otpr_bench.report import otpr_words
from otpr_bench.report.run_files import Document, Rate, number, success

POINTS = 200  # a longer series is shown as means over equal intervals

# sections of the metrics that any algorithm may have, by the first part of their names, in this order
_SECTIONS = {
    **{"critic": "Critic", "policy": "Policy", "rollout": "Interaction"},
    **{"eval": "Evaluation", "pretrain": "Imitation"},
}
# charts whose vertical axis is in percent
_SHARES = frozenset({"critic/beyond_bound", "rollout/success_rate", "rollout/success_rate_recent"})
# shown elsewhere, or mere counters
_NO_CURVES = frozenset(
    {
        *("env_steps", "row", "seconds", "updates", "otpr/round"),
        *("eval/success_rate", "eval/success_rate_single", "eval/episodes", "eval/execute", "eval/seconds"),
        *("rollout/episodes", "rollout/broken_episodes", "critic/bound_low", "critic/bound_high"),
    }
)

_REMARKS = {
    "Critic": "With a reward of 1 at the end of an episode, values lie between 0 and 1 when things go well.",
    "Metrics of otpr": otpr_words.REMARK,
}


class Section(NamedTuple):
    """Charts under a heading, and a remark on all of them."""

    title: str
    charts: list[Chart]
    remark: str


def success_chart(rows: Sequence[Document], base: Rate | None) -> Chart | None:
    """Success over environment steps, as deployed and of one sample, with the base policy as a level."""
    names = {"eval/success_rate": "as deployed", "eval/success_rate_single": "one sample"}
    found: list[Series] = []
    for (metric, name), style in zip(names.items(), PALETTE, strict=False):
        points = [
            (step, *rate)
            for row in rows
            if (rate := success(row, metric)) and (step := number(row, "env_steps")) is not None
        ]
        if points:
            steps, rates, intervals, _ = zip(*points, strict=True)
            low, high = zip(*intervals, strict=True)
            found.append(Series(name, steps, rates, style, low, high))
    if not found:
        return None
    note = "of held-out episodes, with 95% Wilson intervals"
    levels = () if base is None else (Level(base.value, f"before: {base.value:.0%}"),)
    return chart(Plot("Success", "environment steps", found, note, share=True, levels=levels), "success")


def metric_sections(rows: Sequence[Document]) -> Iterator[Section]:
    """The sections for the given metrics: the algorithm's own first, unknown ones last.

    `prefix/name` has a chart; the metrics `prefix/name/one`, `prefix/name/other` share one. An algorithm's
    own metrics are those under a prefix of its own. The rows are the run's and those of its imitation.
    """
    charts: dict[str, dict[str, str]] = {}
    for metric in sorted({name for row in rows for name in row} - _NO_CURVES):
        prefix, _, rest = metric.partition("/")
        name, _, series = rest.partition("/")
        title = f"{prefix}/{name}" if name else metric
        charts.setdefault(title, {})[metric] = series or title
    sections: dict[str, list[Chart]] = {}
    for title, metrics in charts.items():
        prefix, slash, _ = title.partition("/")
        section = _SECTIONS.get(prefix, f"Metrics of {prefix}") if slash else "Further metrics"
        if made := _chart(rows, title, metrics):
            sections.setdefault(section, []).append(made)
    order = [*_SECTIONS.values(), "Further metrics"]
    for title in sorted(sections, key=lambda title: order.index(title) if title in order else -1):
        yield Section(title, sections[title], _REMARKS.get(title, ""))


def _chart(rows: Sequence[Document], title: str, metrics: Mapping[str, str]) -> Chart | None:
    """A chart of metrics, given with their labels; None if no row has a position for them."""
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
    x_label = "gradient steps" if by_updates else "environment steps"
    note = f"each point the mean of {stretch} rows" if stretch > 1 else ""
    levels = (Level(otpr_words.BOUND, f"bound {otpr_words.BOUND}"),) if title in otpr_words.BOUNDED else ()
    return chart(Plot(title, x_label, series, note, title in _SHARES, levels), " ".join(metrics))
