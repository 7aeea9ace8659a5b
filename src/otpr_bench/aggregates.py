"""Statistics over many runs: success over all tasks, its growth, and comparisons, with 95% intervals.

They follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS
2021, arXiv:2108.13264). docs/statistics.md says where the intervals depart from it, and how often they
covered a known truth. The random numbers are fixed, so the same rates give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy import stats

from otpr_bench.spread import Array, Estimate, FinalRates, draw_studies, interval_of

RESAMPLES = 10_000  # bootstrap samples; the ends of an interval vary by about a hundredth of its width
PROFILE_RESAMPLES = 2000  # for each point of a performance profile


# ------------------------------------------------------------------------------------------- one run


def area_under_curve(steps: Sequence[int], rates: Sequence[float]) -> float:
    """Mean success over the environment steps of a run, in [0, 1], by the trapezoidal rule.

    A single evaluation counts as constant.

    Raises:
        ValueError: the steps do not ascend from 0.
    """
    if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"Evaluations must be at ascending steps from 0; got {list(steps)}.")
    return float(np.trapezoid(rates, steps)) / steps[-1] if len(steps) > 1 else float(rates[0])


def steps_to(steps: Sequence[int], rates: Sequence[float], threshold: float) -> int | None:
    """The step of the first evaluation at or above a threshold, without interpolation; None if none is."""
    # 45 of 50 episodes are 90%, although 45 / 50 need not equal the float 0.9
    return next((step for step, rate in zip(steps, rates, strict=True) if rate >= threshold - 1e-9), None)


def time_to_reach(steps: Sequence[int | None]) -> tuple[int | None, int]:
    """The step by which half of the runs had reached a threshold (None if fewer did), and how many did.

    A run that ended below the threshold (None in `steps`) counts as later than all others. A higher threshold
    is therefore never reached earlier, whatever the lengths of the runs.

    Raises:
        ValueError: there is no run.
    """
    if not steps:
        raise ValueError("Steps to a threshold need at least one run.")
    arrived = sorted(step for step in steps if step is not None)
    half = (len(steps) + 1) // 2
    return arrived[half - 1] if len(arrived) >= half else None, len(arrived)


# ------------------------------------------------------------------------------------------- all tasks
# Each function takes the final rates of a method by task, and raises ValueError if a task has no run.


def interquartile_mean(by_task: Sequence[FinalRates]) -> Estimate:
    """Mean of the middle half of all runs, with tasks weighing alike; in [0, 1].

    This is the mean of the quantile function between 1/4 and 3/4: a run on the border counts in part. With
    equally many runs on each task and a number of runs divisible by four it equals
    `scipy.stats.trim_mean(runs, 0.25)`.
    """
    return _estimate(_interquartile, by_task)


def interquartile_difference(by_task: Sequence[FinalRates], others: Sequence[FinalRates]) -> Estimate:
    """The interquartile mean of one method minus that of another."""

    def gap(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
        return _interquartile(ours) - _interquartile(theirs)

    return _estimate(gap, by_task, others)


def probability_of_improvement(by_task: Sequence[FinalRates], others: Sequence[FinalRates]) -> Estimate:
    """Probability that a run of one method ends above a run of another, a tie counting one half.

    This is the Mann-Whitney statistic of each task as a share of its pairs, averaged over tasks. Both methods
    have the same tasks in the same order.
    """
    return _estimate(_wins, by_task, others)


def performance_profile(by_task: Sequence[FinalRates], thresholds: Sequence[float]) -> list[Estimate]:
    """Share of runs whose final success is above each threshold in [0, 1], with tasks weighing alike."""
    values = _shares_above(_found(by_task), thresholds)[0]
    drawn = draw_studies(by_task, np.random.default_rng(0), PROFILE_RESAMPLES)
    columns = [None] * len(values) if drawn is None else _shares_above(drawn, thresholds).T
    return [interval_of(float(value), column) for value, column in zip(values, columns, strict=True)]


def task_mean(by_task: Sequence[Sequence[float]]) -> Estimate:
    """Mean over tasks of the mean over runs, with Student's interval and Satterthwaite's freedom.

    There is no interval if a task has a single run, or if the runs of every task agree. The numbers lie in
    [0, 1], one for each run of each task, such as its area under the curve.
    """
    if not by_task or not all(by_task):
        raise ValueError("Every task needs at least one run.")
    value = float(np.mean([np.mean(task) for task in by_task]))
    if min(len(task) for task in by_task) < 2 or all(len(set(task)) == 1 for task in by_task):
        return Estimate(value, math.nan, math.nan)
    parts = np.array([np.var(task, ddof=1) / len(task) for task in by_task]) / len(by_task) ** 2
    freedom = parts.sum() ** 2 / (parts**2 / [len(task) - 1 for task in by_task]).sum()
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def _found(by_task: Sequence[FinalRates]) -> list[Array]:
    """The observed rates as a single study: for each task (1, seeds)."""
    if not by_task or not all(len(task.rates) for task in by_task):
        raise ValueError("Every task needs at least one run.")
    return [np.asarray(task.rates, float)[None] for task in by_task]


def _estimate(statistic: Callable[..., Array], *methods: Sequence[FinalRates]) -> Estimate:
    """A statistic, (studies,), of the methods' rates as observed, with its interval over drawn studies."""
    value = float(statistic(*map(_found, methods))[0])
    rng = np.random.default_rng(0)
    drawn = [draw_studies(by_task, rng, RESAMPLES) for by_task in methods]
    return interval_of(value, None if any(one is None for one in drawn) else statistic(*drawn))


def _interquartile(rates: Sequence[Array]) -> Array:
    """Interquartile mean of each study; for each task the rates are (studies, seeds)."""
    runs = np.concatenate(rates, axis=1)
    weights = np.concatenate([np.full(task.shape[1], 1 / (task.shape[1] * len(rates))) for task in rates])
    order = np.argsort(runs, axis=1)
    weights = weights[order]
    ends = np.cumsum(weights, axis=1)
    inside = np.clip(np.minimum(ends, 0.75) - np.maximum(ends - weights, 0.25), 0.0, None)
    return (inside * np.take_along_axis(runs, order, axis=1)).sum(axis=1) / inside.sum(axis=1)


def _wins(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
    pairs = zip(ours, theirs, strict=True)
    return np.mean(
        [(np.sign(a[:, :, None] - b[:, None, :]) + 1).mean(axis=(1, 2)) / 2 for a, b in pairs], axis=0
    )


def _shares_above(rates: Sequence[Array], thresholds: Sequence[float]) -> Array:
    """Share of each study's runs above each threshold: (studies, thresholds)."""
    # a rate of 0.3 is not above the threshold 3 * 0.1, although the floats say so
    lines = np.asarray(thresholds) + 1e-9
    return np.mean([(task[:, :, None] > lines).mean(axis=1) for task in rates], axis=0)
