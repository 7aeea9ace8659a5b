"""Intervals for success rates and their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest


class Interval(NamedTuple):
    """A confidence interval: low <= high, both in [0, 1] where it is one of a probability."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a success rate (Wilson, JASA 1927).

    Unlike the normal approximation it stays inside [0, 1] and has a positive width even if all outcomes are
    equal.

    Args:
        successes: episodes that succeeded, from 0 to n.
        n: episodes run, >= 1.
        confidence: probability that the interval covers the true rate, in (0, 1).

    Raises:
        ValueError: a count or the confidence is out of range.
    """
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def score_interval(rate: float, n: float, quantile: float) -> Interval:
    """The score interval of a rate for any number of episodes and any quantile; see `wilson_interval`.

    Args:
        rate: a success rate in [0, 1].
        n: effective number of independent episodes, > 0, not necessarily whole.
        quantile: half-width of the interval in standard errors.
    """
    more = quantile**2 / n
    middle = (rate + more / 2) / (1 + more)
    reach = math.sqrt(more * (rate * (1 - rate) + more / 4)) / (1 + more)
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def newcombe_interval(rate: float, interval: Interval, other: float, other_interval: Interval) -> Interval:
    """The interval of `rate - other` from those of both (Newcombe, Statistics in Medicine 1998, method 10).

    Args:
        rate: a success rate in [0, 1].
        interval: its score interval.
        other: the rate it is compared with.
        other_interval: the score interval of that, of the same confidence.
    """
    difference = rate - other
    below = math.hypot(rate - interval.low, other_interval.high - other)
    above = math.hypot(interval.high - rate, other - other_interval.low)
    return Interval(difference - below, difference + above)


def retention(shifted: Sequence[bool], nominal: Sequence[bool]) -> tuple[float, Interval] | None:
    """The share of the success rate that is retained under a shift, from paired episodes.

    Args:
        shifted: success of each shifted episode.
        nominal: success of the unshifted episode with the same start.

    Returns:
        The ratio of shifted to nominal successes and its 95% interval by bootstrap over the pairs (10,000
        draws, seeded; draws without a nominal success are left out); None if no nominal episode succeeded.
    """
    pairs = np.array([shifted, nominal], np.int64)
    if pairs[1].sum() == 0:
        return None
    picked = np.random.default_rng(0).integers(pairs.shape[1], size=(10_000, pairs.shape[1]))
    left, whole = pairs[:, picked].sum(2)
    low, high = np.quantile(left[whole > 0] / whole[whole > 0], [0.025, 0.975])
    return float(pairs[0].sum() / pairs[1].sum()), Interval(float(low), float(high))
