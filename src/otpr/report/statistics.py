"""Intervals for success rates."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import binomtest


class Interval(NamedTuple):
    """A confidence interval of a probability: 0 <= low <= high <= 1."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a success rate (Wilson, JASA 1927).

    Unlike the normal approximation it stays inside [0, 1] and keeps a width when every episode ends alike.

    Args:
        successes: episodes that succeeded, from 0 to n.
        n: episodes run, >= 1.
        confidence: probability that the interval covers the true rate, in (0, 1).

    Raises:
        ValueError: a count or the confidence is out of range.
    """
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))
