"""The Gaussian steps of ancestral sampling: their parameters, the least deviation, and whole chains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.diffusion import NoiseSchedule, sample
from otpr.diffusion.sampling import ancestral_step, sample_chain, visited_levels

N = 4000


def predictor(chunk, k):
    return 0.6 * chunk + 0.2 * jnp.cos(chunk + k)


def textbook(chunk, noise, ab, ab_next, bound):
    """Ho et al., eq. 6 and 7: mean and standard deviation of q(a_next | a_k, a_0), a_0 clipped."""
    clean = np.clip((chunk - np.sqrt(1 - ab) * noise) / np.sqrt(ab), -bound, bound)
    alpha = ab / ab_next
    mean = np.sqrt(ab_next) * (1 - alpha) / (1 - ab) * clean
    mean += np.sqrt(alpha) * (1 - ab_next) / (1 - ab) * chunk
    return mean, np.sqrt((1 - ab_next) / (1 - ab) * (1 - alpha))


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("least_std", [0.0, 0.15])
def test_each_step_of_a_chain_draws_from_its_gaussian(steps, least_std):
    schedule = NoiseSchedule.cosine(8)
    chain = sample_chain(
        predictor, schedule, (N, 2), jax.random.key(0), steps=steps, least_std=least_std, bound=0.7
    )
    visited = visited_levels(schedule, steps)
    assert chain.shape == ((steps or 8) + 1, N, 2)
    assert stats.kstest(np.asarray(chain[0]).ravel(), stats.norm.cdf).pvalue > 1e-3
    raised = 0
    for i, (k, ab, ab_next) in enumerate(zip(*visited, strict=True)):
        noise = predictor(chain[i], k)
        expected, std = textbook(
            *(np.asarray(x, np.float64) for x in (chain[i], noise, ab, ab_next)), bound=0.7
        )
        raised += std < least_std
        std = max(std, least_std)
        mean, given_std = ancestral_step(noise, chain[i], ab, ab_next, bound=0.7, least_std=least_std)
        np.testing.assert_allclose(mean, expected, atol=1e-4)
        np.testing.assert_allclose(given_std, std, atol=1e-6)
        if std == 0:
            np.testing.assert_allclose(chain[i + 1], expected, atol=1e-4)
            continue
        fresh = (np.asarray(chain[i + 1]) - expected) / std
        assert stats.kstest(fresh.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert raised == 0 if least_std == 0 else raised >= 1  # the last step at least


@pytest.mark.parametrize("least_std", [0.0, 0.1])
def test_a_chain_ends_where_the_sample_does(least_std):
    schedule, key = NoiseSchedule.cosine(10), jax.random.key(1)
    options = {"steps": 4, "least_std": least_std, "bound": 0.5}
    chunk = sample(predictor, schedule, (5, 3), key, method="ddpm", **options)
    chain = sample_chain(predictor, schedule, (5, 3), key, **options)
    np.testing.assert_allclose(chain[-1], chunk, rtol=1e-6)
    assert np.abs(chain[-2] - chunk).max() > 0.01


def test_noise_at_the_last_step_may_leave_the_bound_and_only_that():
    schedule = NoiseSchedule.cosine(5)

    def upwards(chunk, k):
        return -30 * jnp.ones_like(chunk)

    quiet = sample(upwards, schedule, (500, 1), jax.random.key(0))
    noisy = sample(upwards, schedule, (500, 1), jax.random.key(0), least_std=0.1)
    np.testing.assert_array_equal(quiet, np.ones((500, 1)))
    assert np.std(noisy) == pytest.approx(0.1, rel=4 / np.sqrt(1000))
    assert np.mean(noisy) == pytest.approx(1.0, abs=4 * 0.1 / np.sqrt(500))
