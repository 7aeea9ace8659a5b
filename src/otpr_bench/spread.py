"""The spread of a method's runs between seeds, and intervals for success on one task that include it.

Two or three seeds say little about their spread, so it is pooled over all tasks of a method, as a share of
its largest possible value. docs/statistics.md reports how often the intervals covered a known truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from otpr.training.intervals import Interval, newcombe_interval, score_interval

Array = NDArray[np.float64]


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
