"""The statistics against published and hand-computed values, plain loops, and the truth they should cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from otpr_bench import estimates
from otpr_bench.estimates import (
    FinalRates,
    area_under_curve,
    interquartile_difference,
    interquartile_mean,
    probability_of_improvement,
    steps_to,
    task_mean,
    time_to_reach,
)

RNG = np.random.default_rng(0)
GROUPS = [FinalRates(list(rates), 100) for rates in RNG.integers(0, 101, (4, 3)) / 100]
OTHERS = [FinalRates(list(rates), 100) for rates in RNG.integers(0, 101, (4, 2)) / 100]


# ------------------------------------------------------------------------------------------- one run


def test_area_under_the_curve_is_a_mean_over_steps():
    assert area_under_curve([0, 10, 30], [0.0, 1.0, 0.5]) == pytest.approx((5 + 15) / 30)
    assert area_under_curve([0, 7, 9], [1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert area_under_curve([0], [0.3]) == 0.3


@pytest.mark.parametrize("steps", [[], [5, 10], [0, 10, 10]])
def test_area_refuses_steps_that_do_not_ascend_from_0(steps):
    with pytest.raises(ValueError, match="ascending steps from 0"):
        area_under_curve(steps, [0.5] * len(steps))


def test_steps_to_a_threshold_are_those_of_the_first_evaluation_there():
    steps, rates = [0, 10, 20, 30], [0.1, 0.5, 0.4, 0.9]
    assert steps_to(steps, rates, 0.5) == 10
    assert steps_to(steps, rates, 0.75) == 30
    assert steps_to(steps, rates, 0.95) is None
    assert steps_to(steps, rates, 0.05) == 0
    # nine times a tenth is a little less than 0.9
    assert steps_to([0], [sum([0.1] * 9)], 0.9) == 0


def test_half_of_the_runs_have_reached_a_threshold_by_their_median():
    assert time_to_reach([30, 10, 20]) == (20, 3)
    assert time_to_reach([0]) == (0, 1)
    # who never arrives is later than all
    assert time_to_reach([30, None, 10, None, 20]) == (30, 3)
    assert time_to_reach([10, None]) == (10, 1)


def test_there_is_no_median_where_fewer_than_half_arrive():
    assert time_to_reach([10, None, None]) == (None, 1)
    assert time_to_reach([None, None]) == (None, 0)


def test_a_higher_threshold_is_never_reached_earlier():
    curves = np.random.default_rng(0).uniform(size=(30, 9, 6))
    steps = [0, 10, 20, 30, 40, 50]
    for curve in curves:
        # a third of the runs is shorter
        runs = [(steps[: 3 if place % 3 == 0 else 6], rates) for place, rates in enumerate(curve)]
        halves = [
            time_to_reach([steps_to(at, rates[: len(at)], threshold) for at, rates in runs])[0]
            for threshold in (0.3, 0.6, 0.8, 0.9, 0.95, 0.99)
        ]
        reached = [half for half in halves if half is not None]
        assert reached == sorted(reached) == halves[: len(reached)]


# ------------------------------------------------------------------------------------------- all tasks


def of(*rates: list[float], episodes: int = 100) -> list[FinalRates]:
    return [FinalRates(task, episodes) for task in rates]


def test_interquartile_mean_is_the_trimmed_mean_of_equal_groups():
    rates = np.concatenate([group.rates for group in GROUPS])
    assert interquartile_mean(GROUPS).value == pytest.approx(stats.trim_mean(rates, 0.25))
    assert interquartile_mean(of([0.0, 0.1, 0.2, 1.0])).value == pytest.approx(0.15)


def test_interquartile_mean_counts_part_of_a_run_on_the_border():
    # Six runs: the middle three of them, as the halves of the 2nd and 5th, and the 3rd and 4th.
    runs = [0.0, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert interquartile_mean(of(runs)).value == pytest.approx((0.05 + 0.2 + 0.4 + 0.4) / 3)


def test_interquartile_mean_of_unequal_groups_is_that_of_groups_made_equal():
    groups = [[0.1, 0.9], [0.3, 0.5, 0.4], [0.7]]
    repeated = [group * (6 // len(group)) for group in groups]
    assert interquartile_mean(of(*groups)).value == pytest.approx(interquartile_mean(of(*repeated)).value)


def test_interquartile_mean_covers_the_truth_where_a_bootstrap_over_seeds_does_not(monkeypatch):
    monkeypatch.setattr(estimates, "RESAMPLES", 1000)
    rng = np.random.default_rng(2)
    tasks, n, runs, covered, usual = 6, 2, 300, 0, 0
    for _ in range(runs):
        # alike above and below a half, and so is their interquartile mean
        true = rng.beta(12, 12, (tasks, n)) + np.array([-0.2, -0.1, 0, 0, 0.1, 0.2])[:, None]
        groups = rng.binomial(50, np.clip(true, 0, 1)) / 50
        _, low, high = interquartile_mean(of(*[list(group) for group in groups], episodes=50))
        covered += low <= 0.5 <= high
        drawn = np.take_along_axis(groups[None], rng.integers(0, n, (1000, tasks, n)), axis=2)
        low, high = np.quantile(stats.trim_mean(drawn.reshape(1000, -1), 0.25, axis=1), [0.025, 0.975])
        usual += low <= 0.5 <= high
    assert covered / runs > 0.93
    assert usual / runs < 0.85


def test_interquartile_difference():
    estimate = interquartile_difference(GROUPS, OTHERS)
    assert estimate.value == pytest.approx(
        interquartile_mean(GROUPS).value - interquartile_mean(OTHERS).value
    )
    back = interquartile_difference(OTHERS, GROUPS)
    assert (back.low, back.high) == pytest.approx((-estimate.high, -estimate.low), abs=0.02)


def test_task_mean_has_students_interval_of_tasks_weighing_alike():
    assert task_mean([[0.0, 0.0, 0.3], [0.5]]).value == pytest.approx(0.3)
    # of two tasks the half sum, and its degrees of freedom are those of Welch's difference
    one, two = [0.4, 0.45, 0.5], [0.5, 0.55]
    expected = stats.ttest_ind(one, [-rate for rate in two], equal_var=False).confidence_interval()
    estimate = task_mean([one, two])
    assert estimate == pytest.approx((0.4875, expected.low / 2, expected.high / 2))
    assert task_mean([[0.0, 0.4], [0.0, 0.1]]).low == 0


def test_probability_of_improvement_is_that_of_plain_loops_and_of_mann_and_whitney():
    shares, ranks = [], []
    for ours, theirs in zip(GROUPS, OTHERS, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours.rates for b in theirs.rates]
        shares.append(sum(wins) / len(wins))
        ranks.append(stats.mannwhitneyu(ours.rates, theirs.rates).statistic / len(wins))
    found = probability_of_improvement(GROUPS, OTHERS)
    assert found.value == pytest.approx(np.mean(shares)) == pytest.approx(np.mean(ranks))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_probability_of_improvement_at_its_ends():
    high, low = of(*[[0.9, 0.92]] * 2), of(*[[0.1, 0.2, 0.15]] * 2)
    assert probability_of_improvement(high, low) == (1.0, 1.0, 1.0)
    assert probability_of_improvement(low, high) == (0.0, 0.0, 0.0)
    assert probability_of_improvement(high, high).value == 0.5


@pytest.mark.parametrize("one", [of([0.3], [0.6]), of([0.0, 0.0], [1.0, 1.0]), of([0.0, 0.0], [0.6])])
def test_no_interval_is_made_where_no_task_tells_the_spread_between_seeds(one):
    for estimate in (
        interquartile_mean(one),
        interquartile_difference(one, one),
        probability_of_improvement(one, one),
        task_mean([[0.3], [0.5, 0.6]]),
        task_mean([[0.5, 0.5], [0.7, 0.7]]),
    ):
        assert math.isnan(estimate.low) and math.isnan(estimate.high)


def test_a_task_with_one_seed_has_the_spread_of_the_others():
    several = [[0.3, 0.5, 0.4]] * 4
    _, low, high = interquartile_mean(of(*several, [0.6]))
    assert 0.3 < low < 0.44 < high < 0.6


def test_the_same_numbers_give_the_same_interval():
    assert interquartile_mean(GROUPS) == interquartile_mean(GROUPS)


@pytest.mark.parametrize("rates", [[], [[0.5], []]])
def test_a_task_without_runs_is_refused(rates):
    groups = of(*rates)
    with pytest.raises(ValueError, match="at least one run"):
        interquartile_mean(groups)
    with pytest.raises(ValueError, match="at least one run"):
        probability_of_improvement(groups, groups)
    with pytest.raises(ValueError, match="at least one run"):
        task_mean(rates)


def test_steps_of_no_run_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        time_to_reach([])
