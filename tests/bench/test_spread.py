"""Intervals of success on one task against published values, closed forms, and the truth they must cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from otpr.training.intervals import newcombe_interval, wilson_interval
from otpr_bench.estimates import FinalRates, Spread, difference, draw_studies, spread_over_seeds, success

UNKNOWN = Spread(0.0, 0.0)


def studies(seed: int, *, share: float, means: tuple[float, ...], seeds: int, runs: int):
    """Made-up studies of a method whose true means and spread between seeds are known."""
    rng = np.random.default_rng(seed)
    scale = 1 / share - 1
    for _ in range(runs):
        true = [rng.beta(mean * scale, (1 - mean) * scale, seeds) for mean in means]
        yield [FinalRates(list(rng.binomial(50, task) / 50), 50) for task in true]


# ------------------------------------------------------------------------------------------- the spread


def test_spread_is_the_variance_over_what_it_could_be_at_most():
    share, freedom = spread_over_seeds([FinalRates([0.2, 0.4, 0.6], 10)])
    assert share == pytest.approx(0.04 / (0.4 * 0.6 + 0.04 / 3))
    assert freedom == pytest.approx(2)
    # every run always or never: as much as there can be
    assert spread_over_seeds([FinalRates([0.0, 1.0], 10)]).share == pytest.approx(1)


def test_spread_of_runs_that_are_alike_is_that_of_their_episodes():
    found = [
        spread_over_seeds(groups).share
        for groups in studies(0, share=1e-6, means=(0.1, 0.5, 0.8), seeds=3, runs=500)
    ]
    assert np.mean(found) == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_spread_finds_the_true_one_with_two_seeds(share: float):
    drawn = studies(1, share=share, means=(0.1, 0.3, 0.5, 0.6, 0.8, 0.9), seeds=2, runs=2000)
    found = [spread_over_seeds(groups).share for groups in drawn]
    assert np.mean(found) == pytest.approx(share + (1 - share) / 50, rel=0.05)


def test_tasks_that_tell_little_add_few_degrees_of_freedom():
    alike = [FinalRates([0.4, 0.5], 50)] * 3
    assert spread_over_seeds(alike).freedom == pytest.approx(3)
    assert spread_over_seeds([alike[0], *[FinalRates([0.0, 0.0], 50)] * 5]).freedom == pytest.approx(1)


@pytest.mark.parametrize("rates", [[[0.4], [0.5]], [[0.0, 0.0], [1.0, 1.0]], []])
def test_spread_is_unknown_where_nothing_tells_it(rates: list[list[float]]):
    assert spread_over_seeds([FinalRates(task, 50) for task in rates]) == UNKNOWN


# ------------------------------------------------------------------------------------------- success


def test_success_solves_the_equation_of_the_score_interval():
    group, spread = FinalRates([0.3, 0.5, 0.7], 100), Spread(0.2, 5)
    estimate = success(group, spread)
    assert estimate.value == pytest.approx(0.5)
    for end in (estimate.low, estimate.high):
        # (mean - end) is t standard errors of a method whose true success is there
        assert abs(0.5 - end) == pytest.approx(2.570582 * np.sqrt(end * (1 - end) * 0.2 / 3), rel=1e-6)


@pytest.mark.parametrize("spread", [UNKNOWN, Spread(0.0, 5), Spread(0.001, 5)])
def test_success_is_never_surer_than_wilsons_interval_of_one_evaluation(spread: Spread):
    assert success(FinalRates([1.0] * 3, 50), spread)[1:] == pytest.approx(wilson_interval(50, 50))
    assert success(FinalRates([0.4], 50), spread)[1:] == pytest.approx(wilson_interval(20, 50))


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_success_covers_the_truth_where_others_do_not(seeds: int, share: float):
    means, runs = (0.3, 0.4, 0.5, 0.6, 0.7, 0.9), 300
    rng = np.random.default_rng(3)
    ours, pooled, usual, width = [], [], [], []
    for groups in studies(2, share=share, means=means, seeds=seeds, runs=runs):
        spread = spread_over_seeds(groups)
        for group, mean in zip(groups, means, strict=True):
            _, low, high = success(group, spread)
            ours.append(low <= mean <= high)
            width.append(high - low)
            wilson = wilson_interval(round(group.mean * 50 * seeds), 50 * seeds)
            pooled.append(wilson.low <= mean <= wilson.high)
            drawn = np.array(group.rates)[rng.integers(0, seeds, (200, seeds))].mean(axis=1)
            usual.append(np.quantile(drawn, 0.025) <= mean <= np.quantile(drawn, 0.975))
    assert np.mean(ours) > 0.94
    assert np.mean(pooled) < 0.9
    assert np.mean(usual) < 0.85
    assert np.mean(width) < 0.5  # Student's of two seeds is 0.7 wide at least


def test_no_run_has_no_success():
    with pytest.raises(ValueError, match="at least one run"):
        success(FinalRates([], 10), UNKNOWN)
    with pytest.raises(ValueError, match="at least one run"):
        difference(FinalRates([0.5], 10), UNKNOWN, FinalRates([], 10), UNKNOWN)


# ------------------------------------------------------------------------------------------- differences

# Newcombe, Statistics in Medicine 17 (1998), table II, method 10: successes and episodes of two samples.
NEWCOMBE = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((10, 10, 0, 10), (0.6075, 1.0000)),
]


@pytest.mark.parametrize(("counts", "published"), NEWCOMBE)
def test_difference_of_single_runs_is_newcombes(counts: tuple[int, ...], published: tuple[float, float]):
    a, m, b, n = counts
    estimate = difference(FinalRates([a / m], m), UNKNOWN, FinalRates([b / n], n), UNKNOWN)
    assert estimate[1:] == pytest.approx(published, abs=5e-5)
    assert newcombe_interval(a / m, wilson_interval(a, m), b / n, wilson_interval(b, n)) == pytest.approx(
        published, abs=5e-5
    )


def test_difference_is_antisymmetric_and_bounded():
    ours, theirs, spread = FinalRates([0.9, 0.95, 1.0], 50), FinalRates([0.0, 0.05, 0.3], 50), Spread(0.1, 4)
    one, two = difference(ours, spread, theirs, UNKNOWN), difference(theirs, UNKNOWN, ours, spread)
    assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
    assert one.high <= 1
    wild = Spread(1.0, 1)
    assert -1 <= difference(ours, wild, theirs, wild).low < 0 < one.low


# ------------------------------------------------------------------------------------------- drawn studies


def test_drawn_studies_have_the_means_and_the_spread_of_the_groups():
    groups = [
        FinalRates([0.2, 0.4, 0.3] * 10, 50),
        FinalRates([0.9, 0.8] * 10, 50),
        FinalRates([0.0, 0.0], 50),
    ]
    drawn = draw_studies(groups, np.random.default_rng(0), 4000)
    assert drawn is not None
    share, freedom = spread_over_seeds(groups)
    share = 1 / 50 + np.mean(
        np.maximum(share * freedom / stats.chi2(freedom).rvs(9999, random_state=0) - 0.02, 0)
    )
    for group, rates in zip(groups, drawn, strict=True):
        assert rates.shape == (4000, len(group.rates))
        assert rates.mean() == pytest.approx(group.mean, abs=0.003)
        assert np.allclose(rates * 50, np.round(rates * 50))
        assert rates.var() == pytest.approx(group.mean * (1 - group.mean) * share, rel=0.05)


def test_nothing_is_drawn_of_an_unknown_spread():
    assert draw_studies([FinalRates([0.4], 50)], np.random.default_rng(0), 10) is None
