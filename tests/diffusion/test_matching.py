from __future__ import annotations

import equinox as eqx
import jax
import jax.custom_batching
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.diffusion import NoiseSchedule, denoising_losses
from otpr.diffusion.parametrization import Prediction
from otpr.networks.mlp import NoiseMLP
from otpr.networks.noise import NoiseNetwork

SCHEDULE = NoiseSchedule.cosine(20)
ALPHA_BAR = np.asarray(SCHEDULE.alpha_bar, np.float64)


def record(network, observations, chunks, key, prediction: Prediction = "noise"):
    """The losses, and what the network was called with for each sample: noisy chunk and level."""
    calls = []
    recording = jax.custom_batching.custom_vmap(network)

    @recording.def_vmap
    def all_samples_at_once(size, batched, observations, noisy, k):
        assert all(batched)
        calls.append((np.array(noisy, np.float64), np.array(k)))
        return jax.vmap(network)(observations, noisy, k), True

    losses = denoising_losses(recording, SCHEDULE, observations, chunks, key, prediction)
    (call,) = calls
    return np.asarray(losses), *call


def test_forward_process_and_loss_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    observations = jnp.arange(n, dtype=jnp.float32)[:, None]
    chunks = rng.uniform(-1, 1, (n, 3)).astype(np.float32)

    def network(observation, noisy, k):
        return 0.3 * noisy + 0.01 * k + jnp.sin(observation[0])

    losses, noisy, k = record(network, observations, jnp.asarray(chunks), jax.random.key(0))
    sigma = np.sqrt(1 - ALPHA_BAR[k])[:, None]
    noise = (noisy - np.sqrt(ALPHA_BAR[k])[:, None] * chunks) / sigma
    predicted = 0.3 * noisy + 0.01 * k[:, None] + np.sin(np.asarray(observations))
    np.testing.assert_allclose(losses, ((predicted - noise) ** 2).mean(axis=1), rtol=1e-3)
    # sigma^2 times the squared distance of the scores, which is what the objective is made of
    scores = (-predicted / sigma - -noise / sigma) ** 2
    np.testing.assert_allclose(losses, (sigma**2 * scores).mean(axis=1), rtol=1e-3)
    # every sample has noise and level of its own: standard normal, uniform, independent of each other
    assert stats.kstest(noise.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(k, minlength=20)).pvalue > 1e-3
    assert abs(np.corrcoef(k, noise[:, 0])[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(noise.T)[~np.eye(3, dtype=bool)]).max() < 4 / np.sqrt(n)


MEAN, STD = 0.3, 0.4


def exact_predictor(observation, noisy, k):
    """E[noise | noisy] for clean chunks of N(MEAN, STD^2)."""
    alpha_bar = SCHEDULE.alpha_bar[k]
    variance = alpha_bar * STD**2 + 1 - alpha_bar
    return jnp.sqrt(1 - alpha_bar) * (noisy - jnp.sqrt(alpha_bar) * MEAN) / variance


def gaussian_data(n: int) -> tuple[jax.Array, jax.Array]:
    chunks = MEAN + STD * np.random.default_rng(1).normal(size=(n, 2))
    return jnp.zeros((n, 1)), jnp.asarray(chunks, jnp.float32)


def test_exact_predictor_has_the_irreducible_loss() -> None:
    # Var[noise | noisy] = alpha_bar s^2 / (alpha_bar s^2 + 1 - alpha_bar), averaged over the levels
    signal = ALPHA_BAR * STD**2
    irreducible = np.mean(signal / (signal + 1 - ALPHA_BAR))
    observations, chunks = gaussian_data(50_000)

    def mean_and_error(network):
        losses = np.asarray(denoising_losses(network, SCHEDULE, observations, chunks, jax.random.key(1)))
        return losses.mean(), 4 * losses.std() / np.sqrt(len(losses))

    loss, error = mean_and_error(exact_predictor)
    assert loss == pytest.approx(irreducible, abs=error)
    assert error < 0.04 * irreducible
    # any other predictor pays its mean squared distance from the exact one on top
    loss, error = mean_and_error(lambda o, a, k: exact_predictor(o, a, k) + 0.2)
    assert loss == pytest.approx(irreducible + 0.04, abs=error)
    loss, error = mean_and_error(lambda o, a, k: jnp.zeros_like(a))
    assert loss == pytest.approx(1, abs=error)


def exact(prediction: Prediction):
    """What the network is to predict, on average given the noisy sample, of clean ones of N(MEAN, STD^2)."""

    def predict(observation, noisy, k):
        signal, sigma = jnp.sqrt(SCHEDULE.alpha_bar[k]), jnp.sqrt(1 - SCHEDULE.alpha_bar[k])
        noise = exact_predictor(observation, noisy, k)
        clean = MEAN + signal * STD**2 * (noisy - signal * MEAN) / (signal**2 * STD**2 + sigma**2)
        return {"noise": noise, "sample": clean, "velocity": signal * noise - sigma * clean}[prediction]

    return predict


@pytest.mark.parametrize(
    ("prediction", "residual"),
    [
        # of the noise, the clean sample and the velocity, given the noisy sample: the variance that is left
        ("noise", lambda a, v: a * v / (a * v + 1 - a)),
        ("sample", lambda a, v: (1 - a) * v / (a * v + 1 - a)),
        ("velocity", lambda a, v: v / (a * v + 1 - a)),
    ],
)
def test_loss_of_each_prediction_against_its_closed_form(prediction: Prediction, residual) -> None:
    observations, chunks = gaussian_data(50_000)

    def mean_and_error(network):
        losses = np.asarray(
            denoising_losses(network, SCHEDULE, observations, chunks, jax.random.key(1), prediction)
        )
        return losses.mean(), 4 * losses.std() / np.sqrt(len(losses))

    irreducible = np.mean(residual(ALPHA_BAR, STD**2))
    loss, error = mean_and_error(exact(prediction))
    assert loss == pytest.approx(irreducible, abs=error)
    assert error < 0.06 * irreducible
    loss, error = mean_and_error(lambda o, a, k: exact(prediction)(o, a, k) + 0.2)
    assert loss == pytest.approx(irreducible + 0.04, abs=error)


@pytest.mark.parametrize("prediction", ["noise", "sample", "velocity"])
def test_each_sample_is_asked_for_what_the_prediction_says(prediction: Prediction) -> None:
    n = 300
    observations = jnp.zeros((n, 1)) + jnp.arange(n)[:, None]
    chunks = np.random.default_rng(4).uniform(-1, 1, (n, 2, 2)).astype(np.float32)

    def network(observation, noisy, k):
        return 0.3 * noisy + 0.01 * k

    losses, noisy, k = record(network, observations, jnp.asarray(chunks), jax.random.key(0), prediction)
    signal, sigma = (np.sqrt(level)[:, None, None] for level in (ALPHA_BAR[k], 1 - ALPHA_BAR[k]))
    noise = (noisy - signal * chunks) / sigma
    wanted = {"noise": noise, "sample": chunks, "velocity": signal * noise - sigma * chunks}[prediction]
    predicted = 0.3 * noisy + 0.01 * k[:, None, None]
    np.testing.assert_allclose(losses, ((predicted - wanted) ** 2).mean(axis=(1, 2)), rtol=1e-3)


@pytest.mark.parametrize("k", [0, 8, 19])
def test_exact_prediction_stands_for_the_score_of_the_noisy_data(k: int) -> None:
    signal, alpha_bar = np.sqrt(ALPHA_BAR[k]), ALPHA_BAR[k]

    def log_density(a):
        return jnp.sum(
            jax.scipy.stats.norm.logpdf(a, signal * MEAN, np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar))
        )

    noisy = jnp.linspace(-2, 2, 9)
    score = -exact_predictor(None, noisy, jnp.array(k)) / np.sqrt(1 - ALPHA_BAR[k])
    np.testing.assert_allclose(score, jax.grad(log_density)(noisy), rtol=1e-3, atol=1e-4)


class TestWeights:
    """The weighted objective is the mean of weight times loss."""

    observations = jnp.asarray(np.random.default_rng(2).normal(size=(6, 2)), jnp.float32)
    chunks = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (6, 2, 2)), jnp.float32)
    key = jax.random.key(2)

    def network(self) -> NoiseNetwork:
        return NoiseMLP(2, (2, 2), width=16, depth=2, key=jax.random.key(0))

    def losses(self, network) -> jax.Array:
        return denoising_losses(network, SCHEDULE, self.observations, self.chunks, self.key)

    @eqx.filter_jit
    def gradient(self, weights):
        gradient = eqx.filter_grad(lambda network: jnp.mean(weights * self.losses(network)))
        return jax.tree.leaves(gradient(self.network()))

    def test_weight_one_is_imitation(self) -> None:
        # imitation as in Ho et al., algorithm 1, from the recorded noise and levels
        _, noisy, k = record(lambda o, a, k: jnp.zeros_like(a), self.observations, self.chunks, self.key)
        signal, sigma = (np.sqrt(level)[:, None, None] for level in (ALPHA_BAR[k], 1 - ALPHA_BAR[k]))
        noise = jnp.asarray((noisy - signal * np.asarray(self.chunks)) / sigma, jnp.float32)

        def imitation(network):
            predicted = jax.vmap(network)(self.observations, jnp.asarray(noisy, jnp.float32), jnp.asarray(k))
            return jnp.mean((noise - predicted) ** 2)

        expected = jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(imitation))(self.network()))
        for leaf, other in zip(self.gradient(np.ones(6, np.float32)), expected, strict=True):
            np.testing.assert_allclose(leaf, other, atol=1e-5)
        assert max(np.abs(leaf).max() for leaf in expected) > 0.01

    def test_weight_zero_gives_zero_gradient(self) -> None:
        for leaf in self.gradient(np.zeros(6, np.float32)):
            assert np.all(leaf == 0)

    def test_weights_mix_the_gradients_of_the_samples(self) -> None:
        weights = np.array([0, 0.5, 2, 0, 1, 3], np.float32)
        single = [self.gradient(row) for row in np.eye(6, dtype=np.float32)]
        for i, leaf in enumerate(self.gradient(weights)):
            expected = sum(w * gradient[i] for w, gradient in zip(weights, single, strict=True))
            np.testing.assert_allclose(leaf, expected, atol=1e-6)
