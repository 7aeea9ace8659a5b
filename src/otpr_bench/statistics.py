"""What many runs say together: success over all tasks, its growth, and comparisons, with 95% intervals.

Follows Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021,
arXiv:2108.13264): interquartile means, performance profiles and probabilities of improvement instead of means
of maxima. Where few seeds ask for more care than is usual, docs/statistics.md says what is done and how often
the intervals were found to cover the truth.

Success on one task is in `otpr_bench.spread`. Randomness is fixed: the same numbers give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from otpr_bench.spread import Array, Estimate, Groups, draw_studies, interval_of

RESAMPLES = 10_000
"""Bootstrap samples: the ends of an interval then move by about a hundredth of its width between draws."""

PROFILE_RESAMPLES = 2000
"""The same for each point of a performance profile, of which there are many."""


# ------------------------------------------------------------------------------------------- one run


def area_under_curve(steps: Sequence[int], rates: Sequence[float]) -> float:
    """Mean success over the environment steps of a run, in [0, 1]: the trapezoids under its curve.

    Args:
        steps: at which it was evaluated, ascending, from 0 to the end.
        rates: success rates there. A single one counts as a constant.

    Raises:
        ValueError: the steps do not ascend from 0.
    """
    if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"Evaluations must be at ascending steps from 0; got {list(steps)}.")
    if len(steps) == 1:
        return float(rates[0])
    return float(np.trapezoid(rates, steps)) / steps[-1]


def steps_to(steps: Sequence[int], rates: Sequence[float], threshold: float) -> int | None:
    """The step of the first evaluation at or above a threshold; None if there is none.

    Nothing is interpolated: between two evaluations nobody looked.

    Args:
        steps: at which the run was evaluated, ascending.
        rates: success rates there, in [0, 1].
        threshold: in [0, 1].
    """
    # 45 of 50 are 90%, and 0.9 is not exactly that
    reached = (step for step, rate in zip(steps, rates, strict=True) if rate >= threshold - 1e-9)
    return next(reached, None)


class Reached(NamedTuple):
    """How soon runs reached a threshold: see `time_to_reach`."""

    half: int | None
    runs: int
    reached: int


def time_to_reach(steps: Sequence[int | None]) -> Reached:
    """The step by which half of the runs had reached a threshold.

    A run that ended before it got there counts as later than all that did: nobody knows what it would have
    needed. So a higher threshold is never reached earlier, whatever the lengths of the runs.

    Args:
        steps: what `steps_to` said of each run.

    Returns:
        The step, None where fewer than half arrived; the number of runs, and how many of them arrived.

    Raises:
        ValueError: there is no run.
    """
    if not steps:
        raise ValueError("Steps to a threshold need at least one run.")
    arrived = sorted(step for step in steps if step is not None)
    half = (len(steps) + 1) // 2
    return Reached(arrived[half - 1] if len(arrived) >= half else None, len(steps), len(arrived))


# ------------------------------------------------------------------------------------------- all tasks


def interquartile_mean(groups: Groups) -> float:
    """Mean of the middle half of all runs, each task weighing alike; in [0, 1].

    The mean of the quantile function between 1/4 and 3/4: a run on the border counts with the part of it
    that is inside. With equally many runs a task and a number of runs divisible by four it is
    `scipy.stats.trim_mean(runs, 0.25)`.

    Raises:
        ValueError: a task has no run.
    """
    return float(_interquartile(_found(groups))[0])


def interquartile_estimate(groups: Groups) -> Estimate:
    """`interquartile_mean` with its interval, by `otpr_bench.spread.draw_studies`.

    Raises:
        ValueError: a task has no run.
    """
    return _estimate(_interquartile, groups)


def interquartile_difference(groups: Groups, others: Groups) -> Estimate:
    """How much higher the interquartile mean of `groups` is than that of `others`, with its interval.

    Raises:
        ValueError: a task has no run.
    """

    def gap(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
        return _interquartile(ours) - _interquartile(theirs)

    return _estimate(gap, groups, others)


def task_mean(groups: Sequence[Sequence[float]]) -> Estimate:
    """Mean over tasks of the mean over runs, with Student's interval.

    Degrees of freedom by Satterthwaite. There is no interval where a task has a single run, which would count
    as one without any spread, or where all runs of every task agree.

    Args:
        groups: a number of each run in [0, 1], such as its area under the curve, by task.

    Raises:
        ValueError: a task has no run.
    """
    if not groups or not all(groups):
        raise ValueError("Every task needs at least one run.")
    value = float(np.mean([np.mean(group) for group in groups]))
    if min(len(group) for group in groups) < 2 or all(len(set(group)) == 1 for group in groups):
        return Estimate(value, math.nan, math.nan)
    parts = np.array([np.var(group, ddof=1) / len(group) for group in groups]) / len(groups) ** 2
    freedom = parts.sum() ** 2 / (parts**2 / [len(group) - 1 for group in groups]).sum()
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def probability_of_improvement(groups: Groups, others: Groups) -> Estimate:
    """Probability that a run of the first method ends above one of the second, a tie counting as half.

    The Mann-Whitney statistic of each task, as a share of its pairs, averaged over the tasks.

    Args:
        groups: the first method's final success rates, by task.
        others: the second's, on the same tasks in the same order.

    Raises:
        ValueError: a task has no run, or there are not equally many tasks.
    """
    return _estimate(_wins, groups, others)


def performance_profile(groups: Groups, thresholds: Sequence[float]) -> list[Estimate]:
    """Share of runs whose final success is above each threshold, each task weighing alike.

    Args:
        groups: final success rates, by task.
        thresholds: in [0, 1].

    Returns:
        An estimate a threshold; the intervals are of each alone.

    Raises:
        ValueError: a task has no run.
    """
    values = _shares_above(_found(groups), thresholds)[0]
    drawn = draw_studies(groups, np.random.default_rng(0), PROFILE_RESAMPLES)
    shares = None if drawn is None else _shares_above(drawn, thresholds)
    return [
        interval_of(float(value), None if shares is None else shares[:, place])
        for place, value in enumerate(values)
    ]


def _found(groups: Groups) -> list[Array]:
    """The rates as they are, as one study: of every task (1, seeds)."""
    if not groups or not all(len(group.rates) for group in groups):
        raise ValueError("Every task needs at least one run.")
    return [np.asarray(group.rates, float)[None] for group in groups]


def _estimate(statistic: Callable[..., Array], *methods: Groups) -> Estimate:
    """A statistic of the methods' rates, (studies,), as found and with the interval of studies like this."""
    value = float(statistic(*(_found(groups) for groups in methods))[0])
    rng = np.random.default_rng(0)
    drawn = [draw_studies(groups, rng, RESAMPLES) for groups in methods]
    return interval_of(value, None if any(one is None for one in drawn) else statistic(*drawn))


def _interquartile(rates: Sequence[Array]) -> Array:
    """Interquartile mean of each study: of every task its rates, (studies, seeds)."""
    runs = np.concatenate(rates, axis=1)
    weights = np.concatenate([np.full(task.shape[1], 1 / (task.shape[1] * len(rates))) for task in rates])
    order = np.argsort(runs, axis=1)
    weights = weights[order]
    ends = np.cumsum(weights, axis=1)
    inside = np.minimum(ends, 0.75) - np.maximum(ends - weights, 0.25)
    inside = np.clip(inside, 0.0, None)
    return (inside * np.take_along_axis(runs, order, axis=1)).sum(axis=1) / inside.sum(axis=1)


def _wins(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
    """Probability of improvement in each study."""
    by_task = [
        (np.sign(a[:, :, None] - b[:, None, :]) + 1).mean(axis=(1, 2)) / 2
        for a, b in zip(ours, theirs, strict=True)
    ]
    return np.mean(by_task, axis=0)


def _shares_above(rates: Sequence[Array], thresholds: Sequence[float]) -> Array:
    """Share of each study's runs above each threshold: (studies, thresholds)."""
    # a rate of 0.3 is not above the threshold 3 * 0.1, whatever floating point makes of that
    lines = np.asarray(thresholds) + 1e-9
    return np.mean([(task[:, :, None] > lines).mean(axis=1) for task in rates], axis=0)
