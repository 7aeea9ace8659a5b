"""What many runs say together: success, its growth, and comparisons, each with a 95% interval.

Follows Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021,
arXiv:2108.13264): interquartile means, performance profiles and probabilities of improvement instead of means
of maxima. Where few seeds ask for more care than is usual, docs/statistics.md says what is done and how often
the intervals were found to cover the truth.

A *group* is the final success rates of one method's runs on one task; every task counts alike, however many
seeds it has. Randomness is fixed: the same numbers give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from otpr.report.statistics import Interval, newcombe_interval, wilson_interval

Array = NDArray[np.float64]
Groups = Sequence[Sequence[float]]

RESAMPLES = 10_000
"""Bootstrap samples: the ends of an interval then move by about a hundredth of its width between draws."""

PROFILE_RESAMPLES = 2000
"""The same for each point of a performance profile, of which there are many."""


class Estimate(NamedTuple):
    """A number and its 95% interval. The ends are NaN where the data say nothing about its spread."""

    value: float
    low: float
    high: float


# ------------------------------------------------------------------------------------------- one task


def success(rates: Sequence[float], episodes: Sequence[int]) -> Estimate:
    """Mean success over seeds, with Student's interval over seeds that is never narrower than Wilson's.

    Runs of different seeds differ by more than their episodes do, so the seeds are the sample. Student's t
    covers the truth with three seeds already, where a bootstrap over seeds does not; where the seeds happen
    to agree, the Wilson interval of one evaluation keeps it from being too sure: not of all episodes
    together, for all seeds are evaluated on the same initial conditions. One run has the Wilson interval
    alone, which says nothing about other seeds.

    Args:
        rates: success rates in [0, 1], one a seed.
        episodes: episodes that each is of, >= 1.

    Returns:
        The mean and its interval, within [0, 1].

    Raises:
        ValueError: there is no run, or lengths differ.
    """
    if not rates:
        raise ValueError("A success rate needs at least one run.")
    mean = float(np.mean(rates))
    low, high = _wilson(rates, episodes)
    if len(rates) > 1:
        reach = _student(len(rates) - 1) * float(np.std(rates, ddof=1)) / math.sqrt(len(rates))
        low, high = min(low, mean - reach), max(high, mean + reach)
    return Estimate(mean, max(low, 0.0), min(high, 1.0))


def difference(
    rates: Sequence[float], episodes: Sequence[int], others: Sequence[float], other_episodes: Sequence[int]
) -> Estimate:
    """How much higher the mean of `rates` is than that of `others`, on one task.

    Welch's interval over seeds, never narrower than Newcombe's interval of one evaluation each; the latter
    alone where one of the two has a single run.

    Args:
        rates: success rates in [0, 1], one a seed, with the episodes each is of; then those compared with.

    Returns:
        The difference and its interval, within [-1, 1].

    Raises:
        ValueError: one of the two has no run, or lengths differ.
    """
    if not rates or not others:
        raise ValueError("A difference needs at least one run of each.")
    mean, other = float(np.mean(rates)), float(np.mean(others))
    low, high = newcombe_interval(mean, _wilson(rates, episodes), other, _wilson(others, other_episodes))
    if len(rates) > 1 and len(others) > 1:
        parts = np.array([np.var(rates, ddof=1) / len(rates), np.var(others, ddof=1) / len(others)])
        if parts.sum() > 0:
            sizes = np.array([len(rates) - 1, len(others) - 1])
            reach = _student(float(parts.sum() ** 2 / (parts**2 / sizes).sum())) * math.sqrt(parts.sum())
            low, high = min(low, mean - other - reach), max(high, mean - other + reach)
    return Estimate(mean - other, max(low, -1.0), min(high, 1.0))


def _student(freedom: float) -> float:
    return float(stats.t.ppf(0.975, freedom))


def _wilson(rates: Sequence[float], episodes: Sequence[int]) -> Interval:
    """Wilson's interval of the mean rate in the largest evaluation; whole episodes are moved to that mean."""
    if len(rates) != len(episodes):
        raise ValueError(f"{len(rates)} rates, but episodes of {len(episodes)}.")
    mean, n = float(np.mean(rates)), max(episodes)
    interval = wilson_interval(round(mean * n), n)
    shift = mean - round(mean * n) / n
    return Interval(interval.low + shift, interval.high + shift)


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

    median: float | None
    runs: int
    reached: int
    longest: int


def time_to_reach(steps: Sequence[int | None], ends: Sequence[int]) -> Reached:
    """Median steps to a threshold, of runs some of which never reached it.

    Those are censored at their last evaluation: all that is known is that they need more. The median is that
    of the Kaplan-Meier curve; None where less than half would have arrived.

    Args:
        steps: what `steps_to` said of each run.
        ends: the step of each run's last evaluation.

    Returns:
        The median, the number of runs, how many of them arrived, and the last evaluation of the longest run.

    Raises:
        ValueError: there is no run, or lengths differ.
    """
    if not steps:
        raise ValueError("Steps to a threshold need at least one run.")
    seen = np.array([end if step is None else step for step, end in zip(steps, ends, strict=True)])
    censored = np.array([step is None for step in steps])
    median = None
    if not censored.all():
        curve = stats.ecdf(stats.CensoredData.right_censored(seen, censored)).sf
        # a share of exactly one half is a sum of fractions that may come out a little above it
        below = np.flatnonzero(curve.probabilities <= 0.5 + 1e-9)
        median = float(curve.quantiles[below[0]]) if len(below) else None
    return Reached(median, len(steps), int((~censored).sum()), max(ends))


# ------------------------------------------------------------------------------------------- all tasks


def interquartile_mean(groups: Groups) -> float:
    """Mean of the middle half of all runs, each task weighing alike; in [0, 1].

    The mean of the quantile function between 1/4 and 3/4: a run on the border counts with the part of it
    that is inside. With equally many runs a task and a number of runs divisible by four it is
    `scipy.stats.trim_mean(runs, 0.25)`.

    Raises:
        ValueError: a task has no run.
    """
    _check(groups)
    return float(_interquartile(np.concatenate(groups)[None], _weights([len(group) for group in groups]))[0])


def interquartile_estimate(groups: Groups) -> Estimate:
    """`interquartile_mean` with its stratified bootstrap interval: seeds are drawn anew within each task.

    Raises:
        ValueError: a task has no run.
    """
    return _bootstrapped(
        interquartile_mean(groups), lambda rng: _resampled_interquartile(groups, rng), [groups]
    )


def task_mean(groups: Groups) -> Estimate:
    """Mean over tasks of the mean over runs, with its stratified bootstrap interval.

    Raises:
        ValueError: a task has no run.
    """
    _check(groups)

    def resampled(rng: np.random.Generator) -> Array:
        return np.mean([_draws(len(group), rng) @ np.asarray(group) for group in groups], axis=0)

    return _bootstrapped(float(np.mean([np.mean(group) for group in groups])), resampled, [groups])


def interquartile_difference(groups: Groups, others: Groups) -> Estimate:
    """How much higher the interquartile mean of `groups` is than that of `others`.

    Raises:
        ValueError: a task has no run.
    """
    return _bootstrapped(
        interquartile_mean(groups) - interquartile_mean(others),
        lambda rng: _resampled_interquartile(groups, rng) - _resampled_interquartile(others, rng),
        [groups, others],
    )


def probability_of_improvement(groups: Groups, others: Groups) -> Estimate:
    """Probability that a run of the first method ends above one of the second, a tie counting as half.

    The Mann-Whitney statistic of each task, as a share of its pairs, averaged over the tasks.

    Args:
        groups: the first method's final success rates, by task.
        others: the second's, on the same tasks in the same order.

    Raises:
        ValueError: a task has no run, or there are not equally many tasks.
    """
    _check(groups)
    _check(others)
    wins = [
        (np.sign(np.subtract.outer(np.asarray(a), np.asarray(b))) + 1) / 2
        for a, b in zip(groups, others, strict=True)
    ]

    def resampled(rng: np.random.Generator) -> Array:
        return np.mean([_resampled_wins(table, rng) for table in wins], axis=0)

    return _bootstrapped(float(np.mean([table.mean() for table in wins])), resampled, [groups, others])


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
    _check(groups)
    # a rate of 0.3 is not above the threshold 3 * 0.1, whatever floating point makes of that
    above = [np.less.outer(np.asarray(thresholds) + 1e-9, np.asarray(group)) for group in groups]
    values = np.mean([table.mean(axis=1) for table in above], axis=0)
    if not _have_spread([groups]):
        return [Estimate(float(value), math.nan, math.nan) for value in values]
    rng = np.random.default_rng(0)
    shares = np.mean([_draws(table.shape[1], rng, PROFILE_RESAMPLES) @ table.T for table in above], axis=0)
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    return [Estimate(*(float(number) for number in row)) for row in zip(values, low, high, strict=True)]


def _check(groups: Groups) -> None:
    if not groups or not all(len(group) for group in groups):
        raise ValueError("Every task needs at least one run.")


def _weights(sizes: Sequence[int]) -> Array:
    return np.concatenate([np.full(size, 1 / (size * len(sizes))) for size in sizes])


def _interquartile(runs: Array, weights: Array) -> Array:
    """Interquartile mean of every row of `runs` (rows, n), with weights (n,) that sum to 1."""
    order = np.argsort(runs, axis=1)
    weights = weights[order]
    ends = np.cumsum(weights, axis=1)
    inside = np.minimum(ends, 0.75) - np.maximum(ends - weights, 0.25)
    inside = np.clip(inside, 0.0, None)
    return (inside * np.take_along_axis(runs, order, axis=1)).sum(axis=1) / inside.sum(axis=1)


# Of n seeds, n - 1 are drawn, with replacement: then the variance of a mean is n/(n-1) times that of drawing
# all n, which is the unbiased one (Rao and Wu, JASA 1988). With three seeds the difference is a third.


def _resampled_interquartile(groups: Groups, rng: np.random.Generator) -> Array:
    drawn = [
        np.asarray(group)[rng.integers(0, len(group), (RESAMPLES, max(1, len(group) - 1)))]
        for group in groups
    ]
    return _interquartile(np.concatenate(drawn, axis=1), _weights([draw.shape[1] for draw in drawn]))


def _draws(n: int, rng: np.random.Generator, samples: int = RESAMPLES) -> Array:
    """Share that each of n runs has in each sample: (samples, n), rows summing to 1."""
    size = max(1, n - 1)
    return rng.multinomial(size, np.full(n, 1 / n), samples) / size


def _resampled_wins(table: Array, rng: np.random.Generator) -> Array:
    rows, columns = table.shape
    return np.einsum("si,ij,sj->s", _draws(rows, rng), table, _draws(columns, rng))


def _have_spread(samples: Sequence[Groups]) -> bool:
    """Whether every task has several runs, and some differ: a single one says nothing about others.

    A task with one run would count as one without any spread, and the interval come out too narrow.
    """
    groups = [group for sample in samples for group in sample]
    return all(len(group) > 1 for group in groups) and any(len(set(group)) > 1 for group in groups)


def _bootstrapped(
    value: float, resampled: Callable[[np.random.Generator], Array], samples: Sequence[Groups]
) -> Estimate:
    if not _have_spread(samples):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(resampled(np.random.default_rng(0)), [0.025, 0.975])
    return Estimate(value, float(low), float(high))
