from __future__ import annotations

import pytest

from otpr.training.intervals import wilson_interval


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
# Table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_agrees_with_the_published_values(successes: int, n: int, low: float, high: float):
    interval = wilson_interval(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_failures_mirror_successes():
    few, many = wilson_interval(7, 100), wilson_interval(93, 100)
    assert (1 - few.high, 1 - few.low) == pytest.approx((many.low, many.high))


def test_more_confidence_is_wider():
    narrow, wide = wilson_interval(31, 100, confidence=0.5), wilson_interval(31, 100, confidence=0.99)
    assert wide.low < narrow.low < 0.31 < narrow.high < wide.high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(successes: int, n: int):
    with pytest.raises(ValueError, match="must"):
        wilson_interval(successes, n)
