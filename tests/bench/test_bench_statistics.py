"""The statistics against published and hand-computed values, plain loops, and the truth they should cover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from otpr.bench.statistics import (
    area_under_curve,
    difference,
    interquartile_difference,
    interquartile_estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    steps_to,
    success,
    task_mean,
    time_to_reach,
)
from otpr.report.statistics import newcombe_interval, wilson_interval

RNG = np.random.default_rng(0)
GROUPS = [list(group) for group in RNG.integers(0, 101, (4, 3)) / 100]
OTHERS = [list(group) for group in RNG.integers(0, 101, (4, 2)) / 100]


# ------------------------------------------------------------------------------------------- one task


def test_success_is_the_mean_with_students_interval():
    estimate = success([0.3, 0.5, 0.7], [100] * 3)
    assert estimate.value == pytest.approx(0.5)
    # 4.30265 is the 97.5% point of Student's t with two degrees of freedom; the deviation is 0.2
    reach = 4.30265 * 0.2 / math.sqrt(3)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)


def test_success_of_seeds_that_agree_has_the_wilson_interval_of_one_evaluation():
    assert success([1.0] * 3, [50] * 3) == (1.0, *wilson_interval(50, 50))
    assert success([0.4], [50]) == (0.4, *wilson_interval(20, 50))


def test_success_stays_a_probability():
    estimate = success([0.0, 1.0], [50, 50])
    assert estimate == (0.5, 0.0, 1.0)


def test_success_of_unequal_episodes_is_the_mean_over_seeds():
    estimate = success([0.5, 0.5, 0.6], [10, 1000, 10])
    assert estimate.value == pytest.approx(1.6 / 3)
    assert estimate.low < estimate.value < estimate.high


def test_students_interval_covers_the_truth_where_wilsons_and_a_bootstrap_do_not():
    rng = np.random.default_rng(1)
    truth, spread, n, runs = 0.7, 0.15, 3, 1000
    scale = truth * (1 - truth) / spread**2 - 1
    covered = {"student": 0, "wilson": 0, "bootstrap": 0}
    for _ in range(runs):
        rates = rng.binomial(100, rng.beta(truth * scale, (1 - truth) * scale, n)) / 100
        drawn = rates[rng.integers(0, n, (200, n))].mean(axis=1)
        intervals = {
            "student": success(list(rates), [100] * n)[1:],
            "wilson": wilson_interval(round(100 * rates.sum()), 100 * n),
            "bootstrap": np.quantile(drawn, [0.025, 0.975]),
        }
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth <= high
    assert covered["student"] / runs > 0.92
    assert covered["wilson"] / runs < 0.5
    assert covered["bootstrap"] / runs < 0.8


# Newcombe, Statistics in Medicine 17 (1998), table II, method 10: successes and episodes of two samples.
NEWCOMBE = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((10, 10, 0, 10), (0.6075, 1.0000)),
]


@pytest.mark.parametrize(("counts", "published"), NEWCOMBE)
def test_difference_of_single_runs_is_newcombes(counts, published):
    a, m, b, n = counts
    assert difference([a / m], [m], [b / n], [n])[1:] == pytest.approx(published, abs=5e-5)
    assert newcombe_interval(a / m, wilson_interval(a, m), b / n, wilson_interval(b, n)) == pytest.approx(
        published, abs=5e-5
    )


def test_difference_of_seeds_is_welchs():
    ours, theirs = [0.2, 0.5, 0.8], [0.1, 0.2, 0.9]
    estimate = difference(ours, [100] * 3, theirs, [100] * 3)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert estimate.value == pytest.approx(0.1)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_difference_is_antisymmetric_and_bounded():
    ours, theirs, n = [0.9, 0.95, 1.0], [0.0, 0.05, 0.3], [50] * 3
    one, two = difference(ours, n, theirs, n), difference(theirs, n, ours, n)
    assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
    assert difference([1.0, 0.0], n[:2], [0.0, 1.0], n[:2])[1:] == (-1.0, 1.0)


def test_difference_of_seeds_that_agree_is_that_of_their_episodes():
    estimate = difference([0.5, 0.5], [50, 50], [0.5, 0.5], [50, 50])
    one = wilson_interval(25, 50)
    assert estimate[1:] == pytest.approx(newcombe_interval(0.5, one, 0.5, one))


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


def test_median_of_censored_runs_is_kaplan_and_meiers():
    # Weeks of remission with 6-mercaptopurine (Freireich et al., Blood 1963): in every textbook, median 23.
    relapsed = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    found = time_to_reach([*relapsed, *[None] * 12], [40] * 9 + censored)
    assert found.median == 23
    assert (found.runs, found.reached) == (21, 9)


def test_median_is_the_plain_one_where_nothing_is_censored():
    assert time_to_reach([30, 10, 20], [50] * 3).median == 20
    assert time_to_reach([0], [50]).median == 0


def test_there_is_no_median_where_fewer_than_half_arrive():
    found = time_to_reach([10, None, None], [50, 50, 40])
    assert found == (None, 3, 1, 50)
    assert time_to_reach([None, None], [50, 50]) == (None, 2, 0, 50)
    # half of them is enough
    assert time_to_reach([10, None], [50, 50]).median == 10


# ------------------------------------------------------------------------------------------- all tasks


def test_interquartile_mean_is_the_trimmed_mean_of_equal_groups():
    assert interquartile_mean(GROUPS) == pytest.approx(stats.trim_mean(np.concatenate(GROUPS), 0.25))
    assert interquartile_mean([[0.0, 0.1, 0.2, 1.0]]) == pytest.approx(0.15)


def test_interquartile_mean_counts_part_of_a_run_on_the_border():
    # Six runs: the middle three of them, as the halves of the 2nd and 5th, and the 3rd and 4th.
    runs = [0.0, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert interquartile_mean([runs]) == pytest.approx((0.05 + 0.2 + 0.4 + 0.4) / 3)


def test_interquartile_mean_of_unequal_groups_is_that_of_groups_made_equal():
    groups = [[0.1, 0.9], [0.3, 0.5, 0.4], [0.7]]
    repeated = [group * (6 // len(group)) for group in groups]
    assert interquartile_mean(groups) == pytest.approx(interquartile_mean(repeated))


def exact_interval(values_of_draws: list[float]) -> np.ndarray:
    return np.quantile(values_of_draws, [0.025, 0.975], method="inverted_cdf")


def test_bootstrap_draws_one_less_than_the_seeds_within_each_task():
    groups = [[0.1, 0.2, 0.6], [0.5, 0.9]]
    # every draw there is: two of the three, and one of the two
    draws = list(itertools.product(itertools.product(groups[0], repeat=2), [(0.5,), (0.9,)]))
    means = [(np.mean(a) + np.mean(b)) / 2 for a, b in draws]
    assert task_mean(groups)[1:] == pytest.approx(exact_interval(means))
    middles = [interquartile_mean(draw) for draw in draws]
    assert interquartile_estimate(groups)[1:] == pytest.approx(exact_interval(middles))


def test_task_mean_weighs_tasks_alike():
    assert task_mean([[0.0, 0.0, 0.3], [0.5]]).value == pytest.approx(0.3)


def test_interquartile_mean_covers_the_truth_more_often_than_the_usual_bootstrap():
    rng = np.random.default_rng(2)
    tasks, n, runs, covered, usual = 6, 3, 200, 0, 0
    for _ in range(runs):
        groups = rng.beta(2, 2, (tasks, n))  # whose interquartile mean is 1/2, being symmetric
        _, low, high = interquartile_estimate([list(group) for group in groups])
        covered += low <= 0.5 <= high
        drawn = np.take_along_axis(groups[None], rng.integers(0, n, (1000, tasks, n)), axis=2)
        low, high = np.quantile(stats.trim_mean(drawn.reshape(1000, -1), 0.25, axis=1), [0.025, 0.975])
        usual += low <= 0.5 <= high
    assert covered / runs > 0.9
    assert covered > usual


def test_interquartile_difference():
    estimate = interquartile_difference(GROUPS, OTHERS)
    assert estimate.value == pytest.approx(interquartile_mean(GROUPS) - interquartile_mean(OTHERS))
    back = interquartile_difference(OTHERS, GROUPS)
    assert (back.low, back.high) == pytest.approx((-estimate.high, -estimate.low), abs=0.02)


def test_probability_of_improvement_is_that_of_plain_loops_and_of_mann_and_whitney():
    shares, ranks = [], []
    for ours, theirs in zip(GROUPS, OTHERS, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs]
        shares.append(sum(wins) / len(wins))
        ranks.append(stats.mannwhitneyu(ours, theirs).statistic / len(wins))
    found = probability_of_improvement(GROUPS, OTHERS)
    assert found.value == pytest.approx(np.mean(shares)) == pytest.approx(np.mean(ranks))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_probability_of_improvement_at_its_ends():
    high, low = [[0.9, 0.8]] * 2, [[0.1, 0.2, 0.3]] * 2
    assert probability_of_improvement(high, low) == (1.0, 1.0, 1.0)
    assert probability_of_improvement(low, high) == (0.0, 0.0, 0.0)
    assert probability_of_improvement(high, high).value == 0.5


def test_probability_of_improvement_has_the_interval_of_all_draws():
    ours, theirs = [[0.2, 0.6, 0.9]], [[0.5, 0.7]]
    draws = [
        np.mean([(a > b) for a in drawn for b in other])
        for drawn in itertools.product(ours[0], repeat=2)
        for other in itertools.product(theirs[0], repeat=1)
    ]
    assert probability_of_improvement(ours, theirs)[1:] == pytest.approx(exact_interval(draws))


def test_performance_profile_is_the_share_above_each_threshold():
    groups, thresholds = [[0.3, 0.5], [0.5, 0.6, 0.7]], [0.0, 3 * 0.1, 0.5, 0.65, 1.0]
    profile = performance_profile(groups, thresholds)
    by_hand = [np.mean([np.mean([run > t + 1e-12 for run in group]) for group in groups]) for t in thresholds]
    assert [estimate.value for estimate in profile] == pytest.approx(by_hand)
    assert [estimate.value for estimate in profile] == pytest.approx([1, 0.75, 1 / 3, 1 / 6, 0])
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in profile)


@pytest.mark.parametrize(
    "one", [[[0.3], [0.6]], [[0.3, 0.3], [0.6]], [[0.3, 0.3], [0.6, 0.6]], [[0.3, 0.6], [0.6]]]
)
def test_no_interval_is_made_of_single_seeds_or_of_such_that_do_not_differ(one):
    for estimate in (
        interquartile_estimate(one),
        task_mean(one),
        interquartile_difference(one, one),
        probability_of_improvement(one, one),
        performance_profile(one, [0.5])[0],
    ):
        assert math.isnan(estimate.low) and math.isnan(estimate.high)


def test_the_same_numbers_give_the_same_interval():
    assert interquartile_estimate(GROUPS) == interquartile_estimate(GROUPS)


@pytest.mark.parametrize("groups", [[], [[0.5], []]])
def test_a_task_without_runs_is_refused(groups):
    for statistic in (interquartile_estimate, task_mean, lambda groups: performance_profile(groups, [0.5])):
        with pytest.raises(ValueError, match="at least one run"):
            statistic(groups)
    with pytest.raises(ValueError, match="at least one run"):
        probability_of_improvement(groups, groups)


def test_empty_samples_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        success([], [])
    with pytest.raises(ValueError, match="2 rates, but episodes of 1"):
        success([0.5, 0.6], [10])
    with pytest.raises(ValueError, match="at least one run"):
        difference([0.5], [10], [], [])
    with pytest.raises(ValueError, match="at least one run"):
        time_to_reach([], [])
