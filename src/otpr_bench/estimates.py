"""Statistics of many runs with 95% intervals: success on one task, success over all tasks, and its growth.

They follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS
2021, arXiv:2108.13264), but two or three seeds say little about their spread, so it is pooled over all tasks
of a method, as a share of its largest possible value. docs/statistics.md says where the intervals depart from
the paper, and how often they covered a known truth. The random numbers are fixed, so the same rates give the
same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from otpr.training.intervals import Interval, newcombe_interval, score_interval

Array = NDArray[np.float64]
RESAMPLES = 10_000  # bootstrap samples; the ends of an interval vary by about a hundredth of its width


class Estimate(NamedTuple):
    """A number and its 95% interval. The ends are NaN where the data say nothing about its spread."""

    value: float
    low: float
    high: float


class FinalRates(NamedTuple):
    """The final success rates of one method's runs on one task."""

    rates: Sequence[float]  # one for each seed, in [0, 1]
    episodes: int  # behind each rate

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.rates))


class Spread(NamedTuple):
    """The variance between a method's runs."""

    # variance of a run's success rate as a share of mean * (1 - mean): 1/n if runs differ only by chance in n
    # episodes, 1 if every run succeeds either always or never
    share: float
    freedom: float  # degrees of freedom of this estimate; 0 if nothing is known


def spread_over_seeds(by_task: Sequence[FinalRates]) -> Spread:
    """The spread between seeds from all tasks; unknown if no task has several seeds that succeed in part.

    The variances within tasks are divided by their largest possible values (Fleiss, Levin, Paik, "Statistical
    Methods for Rates and Proportions", 2003, ch. 15, on intraclass correlation). The degrees of freedom are
    Satterthwaite's, since a task on which every run fails says nothing about the spread elsewhere.
    """
    several = [task for task in by_task if len(task.rates) > 1]
    freedom = np.array([len(task.rates) - 1 for task in several])
    variance = np.array([np.var(task.rates, ddof=1) for task in several])
    # the mean of unlike runs lies nearer to one half than they do; adding variance / seeds corrects this
    most = np.array([task.mean * (1 - task.mean) for task in several]) + variance / (freedom + 1)
    weight = freedom * most
    if weight.sum() == 0:
        return Spread(0.0, 0.0)
    share = (freedom * variance).sum() / weight.sum()
    return Spread(float(share), float(weight.sum() ** 2 / (weight**2 / np.maximum(freedom, 1)).sum()))


def success(task: FinalRates, spread: Spread) -> Estimate:
    """Mean success of a method on one task, with a score interval that includes the spread between seeds.

    The interval is Wilson's for as many episodes as the seeds are worth, with a quantile of Student's t. It
    is never narrower than Wilson's interval of one evaluation: all seeds are evaluated on the same initial
    conditions, and more seeds say nothing about other conditions. If the spread is unknown, it is that one.

    Raises:
        ValueError: there is no run.
    """
    if not task.rates:
        raise ValueError("A success rate needs at least one run.")
    low, high = score_interval(task.mean, task.episodes, float(stats.norm.ppf(0.975)))
    if spread.freedom > 0 and spread.share > 0:
        worth = len(task.rates) / spread.share
        wider = score_interval(task.mean, worth, float(stats.t.ppf(0.975, spread.freedom)))
        low, high = min(low, wider.low), max(high, wider.high)
    return Estimate(task.mean, low, high)


def difference(task: FinalRates, spread: Spread, other: FinalRates, other_spread: Spread) -> Estimate:
    """Difference of the mean success of two methods on one task, with Newcombe's interval.

    Raises:
        ValueError: one of the methods has no run.
    """
    one, two = success(task, spread), success(other, other_spread)
    interval = newcombe_interval(one.value, Interval(*one[1:]), two.value, Interval(*two[1:]))
    return Estimate(one.value - two.value, *interval)


def draw_studies(by_task: Sequence[FinalRates], rng: np.random.Generator, studies: int) -> list[Array] | None:
    """Success rates of studies that might have resulted from other seeds, by a parametric bootstrap.

    Within a task, the true success of each run is drawn from the beta distribution with the task's mean and
    the method's spread, and the run's episodes from that. The spread is uncertain itself and is drawn from
    the scaled inverse chi-squared distribution of its degrees of freedom.

    Returns:
        For each task the rates of each study, (studies, seeds); None if the spread is unknown.
    """
    spread = spread_over_seeds(by_task)
    if spread.freedom == 0:
        return None
    share = spread.share * spread.freedom / rng.chisquare(spread.freedom, studies)[:, None]
    drawn: list[Array] = []
    for task in by_task:
        mean, n = task.mean, task.episodes
        between = np.clip((share - 1 / n) / (1 - 1 / n), 1e-6, 0.99) if n > 1 else np.full_like(share, 1e-6)
        scale = 1 / between - 1
        shape = np.maximum(mean * scale, 1e-9), np.maximum((1 - mean) * scale, 1e-9)
        drawn.append(rng.binomial(n, rng.beta(*shape, (studies, len(task.rates)))) / n)
    return drawn


def interval_of(value: float, drawn: Array | None) -> Estimate:
    """An estimate whose interval holds the middle 95% of the drawn values; without an interval for None."""
    if drawn is None:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


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


# Each function below takes the final rates of a method by task, and raises ValueError if a task has no run.


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


def task_mean(by_task: Sequence[Sequence[float]]) -> Estimate:
    """Mean over tasks of the mean over runs, with Student's interval and Satterthwaite's freedom.

    There is no interval if a task has a single run, or if the runs of every task agree. The numbers lie in
    [0, 1], one for each run of each task, such as its area under the curve.
    """
    if not by_task or not all(by_task):
        raise ValueError("Every task needs at least one run.")
    value = float(np.mean([float(np.mean(task)) for task in by_task]))
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
