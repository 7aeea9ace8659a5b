"""The samplers, driven by exact noise predictors of known distributions instead of networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.diffusion import NoiseSchedule, sample

METHODS = ["ddpm", "ddim", "dpm++", "sde-dpm++"]


def trajectory(predict_noise, schedule: NoiseSchedule, shape, *, seed: int = 0, **options):
    """Every chunk on the way, from the initial noise to the result, and the levels visited."""
    chunks, levels = [], []

    def keep(chunk, k):
        chunks.append(np.array(chunk, np.float64))
        levels.append(int(k))

    def recording(chunk, k):
        jax.debug.callback(keep, chunk, k, ordered=True)
        return predict_noise(chunk, k)

    result = sample(recording, schedule, shape, jax.random.key(seed), **options)
    jax.effects_barrier()
    return [*chunks, np.asarray(result, np.float64)], levels


def arbitrary_predictor(chunk, k):
    return 0.6 * chunk + 0.2 * jnp.cos(chunk + k)


def alpha_bars(schedule: NoiseSchedule, levels: list[int]):
    """alpha_bar at each level and after each step; 1 after the last, when the chunk is clean."""
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)[levels]
    return zip(alpha_bar, np.append(alpha_bar[1:], 1.0), strict=True)


@pytest.mark.parametrize(
    ("steps", "levels"),
    [(None, [6, 5, 4, 3, 2, 1, 0]), (7, [6, 5, 4, 3, 2, 1, 0]), (4, [6, 4, 2, 0]), (2, [6, 0]), (1, [6])],
)
def test_levels_are_evenly_spaced_from_noise_to_clean(steps, levels) -> None:
    _, visited = trajectory(arbitrary_predictor, NoiseSchedule.cosine(7), (2, 1), steps=steps)
    assert visited == levels


@pytest.mark.parametrize("steps", [None, 3])
def test_ddim_steps_by_the_textbook(steps) -> None:
    schedule = NoiseSchedule.cosine(8)
    chunks, levels = trajectory(
        arbitrary_predictor, schedule, (50, 2), method="ddim", steps=steps, bound=None
    )
    for i, (ab, ab_next) in enumerate(alpha_bars(schedule, levels)):
        noise = np.asarray(arbitrary_predictor(jnp.asarray(chunks[i]), levels[i]))
        # Song et al., eq. 12 with eta = 0
        expected = np.sqrt(ab_next / ab) * chunks[i]
        expected += (np.sqrt(1 - ab_next) - np.sqrt(ab_next * (1 - ab) / ab)) * noise
        np.testing.assert_allclose(chunks[i + 1], expected, rtol=1e-4, atol=1e-4 / np.sqrt(ab))


@pytest.mark.parametrize("steps", [None, 3])
def test_ddpm_steps_draw_from_the_textbook_posterior(steps) -> None:
    schedule = NoiseSchedule.cosine(8)
    chunks, levels = trajectory(
        arbitrary_predictor, schedule, (4000, 2), method="ddpm", steps=steps, bound=None
    )
    previous = None
    for i, (ab, ab_next) in enumerate(alpha_bars(schedule, levels)):
        noise = np.asarray(arbitrary_predictor(jnp.asarray(chunks[i]), levels[i]))
        clean = (chunks[i] - np.sqrt(1 - ab) * noise) / np.sqrt(ab)
        # Ho et al., eq. 6 and 7, with alpha = ab / ab_next
        alpha = ab / ab_next
        mean = np.sqrt(ab_next) * (1 - alpha) / (1 - ab) * clean
        mean += np.sqrt(alpha) * (1 - ab_next) / (1 - ab) * chunks[i]
        variance = (1 - ab_next) / (1 - ab) * (1 - alpha)
        if ab_next == 1:  # nothing is drawn at the last step
            np.testing.assert_allclose(chunks[i + 1], clean, atol=1e-4)
            return
        fresh = (chunks[i + 1] - mean) / np.sqrt(variance)
        assert stats.kstest(fresh.ravel(), stats.norm.cdf).pvalue > 1e-3
        assert abs(np.corrcoef(fresh.ravel(), chunks[i].ravel())[0, 1]) < 4 / np.sqrt(fresh.size)
        if previous is not None:  # each step has noise of its own
            assert abs(np.corrcoef(fresh.ravel(), previous.ravel())[0, 1]) < 4 / np.sqrt(fresh.size)
        previous = fresh


@pytest.mark.parametrize("method", METHODS)
def test_starts_from_standard_normal_noise(method) -> None:
    chunks, _ = trajectory(arbitrary_predictor, NoiseSchedule.cosine(2), (5000, 2), method=method)
    assert stats.kstest(chunks[0].ravel(), stats.norm.cdf).pvalue > 1e-3


def test_bound_clips_the_estimate_and_keeps_the_chunk() -> None:
    schedule = NoiseSchedule.cosine(8)
    chunks, levels = trajectory(arbitrary_predictor, schedule, (50, 2), method="ddim", bound=0.5)
    clipped = 0
    for i, (ab, ab_next) in enumerate(alpha_bars(schedule, levels)):
        noise = np.asarray(arbitrary_predictor(jnp.asarray(chunks[i]), levels[i]))
        estimate = (chunks[i] - np.sqrt(1 - ab) * noise) / np.sqrt(ab)
        clean = np.clip(estimate, -0.5, 0.5)
        # the noise that goes with the clipped estimate still explains the chunk
        implied = (chunks[i] - np.sqrt(ab) * clean) / np.sqrt(1 - ab)
        np.testing.assert_allclose(
            chunks[i + 1], np.sqrt(ab_next) * clean + np.sqrt(1 - ab_next) * implied, atol=1e-4
        )
        clipped += np.mean(clean != estimate)
    assert clipped > 1
    assert np.abs(chunks[-1]).max() <= 0.5


@pytest.mark.parametrize("method", METHODS)
def test_default_bound_is_the_range_of_actions(method) -> None:
    def extreme(chunk, k):
        return -3 * jnp.ones_like(chunk)  # pushes the chunk up

    chunks = sample(extreme, NoiseSchedule.cosine(10), (20, 3), jax.random.key(0), method=method)
    np.testing.assert_array_equal(chunks, np.ones((20, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_never_met_changes_nothing(method) -> None:
    schedule, key = NoiseSchedule.cosine(10), jax.random.key(0)
    free, bounded = (
        sample(gaussian_predictor(schedule), schedule, (20, 2), key, method=method, bound=bound)
        for bound in (None, 50.0)
    )
    np.testing.assert_allclose(free, bounded, atol=1e-4)


def test_the_key_fixes_the_sample() -> None:
    schedule = NoiseSchedule.cosine(5)

    def draw(seed: int, method):
        return np.asarray(
            sample(arbitrary_predictor, schedule, (4, 2), jax.random.key(seed), method=method, bound=None)
        )

    for method in METHODS:
        np.testing.assert_array_equal(draw(0, method), draw(0, method))
        assert np.abs(draw(0, method) - draw(1, method)).max() > 0.1
    assert np.abs(draw(0, "ddpm") - draw(0, "ddim")).max() > 0.01


# --------------------------------------------------------------------------- known distributions

MEAN = np.array([0.3, -0.5])
COVARIANCE = np.array([[0.04, 0.03], [0.03, 0.09]])


def gaussian_predictor(schedule: NoiseSchedule):
    """E[noise | noisy chunk] where clean chunks are N(MEAN, COVARIANCE)."""
    every = np.asarray(schedule.alpha_bar, np.float64)[:, None, None]
    precisions = jnp.asarray(np.linalg.inv(every * COVARIANCE + (1 - every) * np.eye(2)), jnp.float32)

    def predict(chunk, k):
        alpha_bar = schedule.alpha_bar[k]
        centred = chunk - jnp.sqrt(alpha_bar) * MEAN
        return jnp.sqrt(1 - alpha_bar) * centred @ precisions[k]

    return predict


def variance_of_sampler(alpha_bar, clean_variance: float, method: str) -> float:
    """Variance that the discretised sampler has in one dimension, with few steps not yet the data's."""
    variance = 1.0
    for ab, ab_next in zip(alpha_bar, np.append(alpha_bar[1:], 1.0), strict=True):
        noise_gain = np.sqrt(1 - ab) / (ab * clean_variance + 1 - ab)  # d predicted noise / d chunk
        clean_gain = (1 - np.sqrt(1 - ab) * noise_gain) / np.sqrt(ab)
        if method == "ddim":
            gain = np.sqrt(ab_next) * clean_gain + np.sqrt(1 - ab_next) * noise_gain
            variance *= gain**2
        else:
            alpha = ab / ab_next
            gain = np.sqrt(ab_next) * (1 - alpha) / (1 - ab) * clean_gain
            gain += np.sqrt(alpha) * (1 - ab_next) / (1 - ab)
            variance = gain**2 * variance + (1 - ab_next) / (1 - ab) * (1 - alpha)
    return variance


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize(("levels", "steps"), [(10, None), (40, None), (60, 10)])
def test_few_steps_have_exactly_the_variance_of_their_discretisation(method, levels, steps) -> None:
    schedule = NoiseSchedule.cosine(levels)
    chunks = np.asarray(
        sample(gaussian_predictor(schedule), schedule, (40_000, 2), jax.random.key(0), method=method,
               steps=steps, bound=None)
    )  # fmt: skip
    visited = np.linspace(levels - 1, 0, steps or levels).round().astype(int)
    eigenvalues, directions = np.linalg.eigh(COVARIANCE)
    along = (chunks - chunks.mean(axis=0)) @ directions  # one-dimensional problems, independent of each other
    for i, eigenvalue in enumerate(eigenvalues):
        expected = variance_of_sampler(
            np.asarray(schedule.alpha_bar, np.float64)[visited], eigenvalue, method
        )
        assert along[:, i].var() == pytest.approx(expected, rel=4 * np.sqrt(2 / 40_000))


@pytest.mark.parametrize("method", METHODS)
def test_recovers_a_gaussian(method) -> None:
    schedule, n = NoiseSchedule.cosine(400), 5000
    chunks = np.asarray(
        sample(gaussian_predictor(schedule), schedule, (n, 2), jax.random.key(3), method=method, bound=None)
    )
    std = np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_array_less(np.abs(chunks.mean(0) - MEAN), 4 * std / np.sqrt(n))
    np.testing.assert_allclose(np.cov(chunks.T), COVARIANCE, rtol=0.1)
    for i in range(2):
        assert stats.kstest(chunks[:, i], stats.norm(MEAN[i], std[i]).cdf).pvalue > 0.01


WEIGHTS, CENTRES, WIDTHS = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.1, 0.15])


def mixture_predictor(schedule: NoiseSchedule):
    """E[noise | noisy chunk] where clean chunks are the mixture of two Gaussians."""

    def predict(chunk, k):
        alpha_bar = schedule.alpha_bar[k]
        variance = alpha_bar * WIDTHS**2 + 1 - alpha_bar
        centred = chunk - jnp.sqrt(alpha_bar) * CENTRES  # (n, 1) against the two modes
        logits = jnp.log(WEIGHTS) - jnp.log(variance) / 2 - centred**2 / (2 * variance)
        noise = jnp.sqrt(1 - alpha_bar) * centred / variance
        return jnp.sum(jax.nn.softmax(logits, axis=-1) * noise, axis=-1, keepdims=True)

    return predict


def mixture_cdf(x):
    return sum(w * stats.norm.cdf(x, c, s) for w, c, s in zip(WEIGHTS, CENTRES, WIDTHS, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_recovers_two_modes(method) -> None:
    schedule, n = NoiseSchedule.cosine(1000), 5000
    chunks = np.asarray(
        sample(mixture_predictor(schedule), schedule, (n, 1), jax.random.key(4), method=method, bound=None)
    )[:, 0]
    left, right = chunks[chunks < 0], chunks[chunks >= 0]
    assert len(left) / n == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / n))
    for mode, centre, width in [(left, -0.6, 0.1), (right, 0.5, 0.15)]:
        assert mode.mean() == pytest.approx(centre, abs=0.01)
        assert mode.std() == pytest.approx(width, rel=0.01 + 4 / np.sqrt(2 * len(mode)))
    mean = WEIGHTS @ CENTRES
    assert chunks.mean() == pytest.approx(mean, abs=0.03)
    assert chunks.var() == pytest.approx(WEIGHTS @ (WIDTHS**2 + (CENTRES - mean) ** 2), rel=0.05)
    assert stats.kstest(chunks, mixture_cdf).pvalue > 0.01
    assert stats.kstest(chunks, stats.norm(chunks.mean(), chunks.std()).cdf).pvalue < 1e-10  # it can tell


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.10 .*got {steps}"):
        sample(arbitrary_predictor, NoiseSchedule.cosine(10), (2, 1), jax.random.key(0), steps=steps)
