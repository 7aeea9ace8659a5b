"""How much a method's runs differ between seeds, and intervals of success on one task that know it.

Two or three seeds say next to nothing about their spread; the seeds of all the tasks together do. So the
spread is that of a method over all its tasks, as a share of what it could be at most, and the intervals are
score intervals with it. docs/statistics.md says how often they were found to cover the truth.
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


class Group(NamedTuple):
    """The final success rates of one method's runs on one task, in [0, 1], each of so many episodes."""

    rates: Sequence[float]
    episodes: int

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.rates))


Groups = Sequence[Group]
"""One method's runs, by task. Every task counts alike, however many seeds it has."""


class Spread(NamedTuple):
    """How much the success of a method's runs differs between seeds.

    Attributes:
        share: the variance of a run's success rate, as a share of mean (1 - mean): 1/n where all that differs
            are n episodes, 1 where every run either always or never succeeds.
        freedom: the degrees of freedom that this is known with; 0 where it is not known.
    """

    share: float
    freedom: float


def spread_over_seeds(groups: Groups) -> Spread:
    """The spread between seeds, as the runs of all tasks say together.

    Variances within tasks over what they could be at most (Fleiss, Levin, Paik, "Statistical Methods for
    Rates and Proportions", 2003, ch. 15, on intraclass correlation); degrees of freedom by Satterthwaite,
    for a task on which every run fails says nothing about the spread elsewhere.

    Returns:
        The spread; its freedom is 0 where no task has several seeds, or all of these succeed or fail alike.
    """
    several = [group for group in groups if len(group.rates) > 1]
    freedom = np.array([len(group.rates) - 1 for group in several])
    variance = np.array([np.var(group.rates, ddof=1) for group in several])
    seeds = freedom + 1
    # the mean of two unlike runs is nearer to a half than they are: variance / seeds makes that good
    most = np.array([group.mean * (1 - group.mean) for group in several]) + variance / seeds
    weight = freedom * most
    if weight.sum() == 0:
        return Spread(0.0, 0.0)
    share = (freedom * variance).sum() / weight.sum()
    return Spread(float(share), float(weight.sum() ** 2 / (weight**2 / np.maximum(freedom, 1)).sum()))


def success(group: Group, spread: Spread) -> Estimate:
    """Mean success over seeds, with a score interval that knows the spread between seeds.

    It is Wilson's interval of as many episodes as the seeds are worth, with Student's t for the normal
    distribution. And it is never narrower than Wilson's of one evaluation: all seeds are evaluated on the
    same initial conditions, and more seeds say nothing about other conditions.

    Args:
        group: the runs.
        spread: of the method's runs, on all tasks. Where it is not known there is Wilson's interval of one
            evaluation, which says nothing about other seeds.

    Raises:
        ValueError: there is no run.
    """
    if not group.rates:
        raise ValueError("A success rate needs at least one run.")
    low, high = score_interval(group.mean, group.episodes, float(stats.norm.ppf(0.975)))
    if spread.freedom > 0 and spread.share > 0:
        worth = len(group.rates) / spread.share
        wider = score_interval(group.mean, worth, float(stats.t.ppf(0.975, spread.freedom)))
        low, high = min(low, wider.low), max(high, wider.high)
    return Estimate(group.mean, low, high)


def difference(group: Group, spread: Spread, other: Group, other_spread: Spread) -> Estimate:
    """How much higher the mean of a group is than that of another, on one task.

    Newcombe's interval (1998, method 10) of both intervals of `success`.

    Args:
        group: the runs of one method, with the spread of that method on all tasks.
        other: those of the other, with its.

    Raises:
        ValueError: one of the two has no run.
    """
    one, two = success(group, spread), success(other, other_spread)
    interval = newcombe_interval(one.value, Interval(*one[1:]), two.value, Interval(*two[1:]))
    return Estimate(one.value - two.value, *interval)


def draw_studies(groups: Groups, rng: np.random.Generator, studies: int) -> list[Array] | None:
    """Success rates of studies like this one: what might have come out with other seeds.

    A parametric bootstrap, stratified by task: within a task the runs' true success is drawn from the beta
    distribution of its mean and the method's spread, and each run's episodes from that. The spread itself is
    uncertain, and is drawn as well: from the inverse chi-squared distribution of its degrees of freedom.

    Returns:
        Of each task the rates of each study, (studies, seeds); None where the spread is not known.
    """
    spread = spread_over_seeds(groups)
    if spread.freedom == 0:
        return None
    share = spread.share * spread.freedom / rng.chisquare(spread.freedom, studies)[:, None]
    drawn: list[Array] = []
    for mean, n, seeds in ((group.mean, group.episodes, len(group.rates)) for group in groups):
        between = np.clip((share - 1 / n) / (1 - 1 / n), 1e-6, 0.99) if n > 1 else np.full_like(share, 1e-6)
        scale = 1 / between - 1
        shape = np.maximum(mean * scale, 1e-9), np.maximum((1 - mean) * scale, 1e-9)
        drawn.append(rng.binomial(n, rng.beta(*shape, (studies, seeds))) / n)
    return drawn


def interval_of(value: float, drawn: Array | None) -> Estimate:
    """An estimate whose interval holds the middle 95% of what was drawn; none where nothing could be."""
    if drawn is None:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
