"""The three predictions say the same: one of them is as good as another, to the loss and to the sampler."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.diffusion import NoiseSchedule
from otpr.diffusion.parametrization import Prediction, target, to_noise
from otpr.networks.mlp import NoiseMLP
from otpr.policies.denoising import Diffusion

SCHEDULE = NoiseSchedule.cosine(200)
MEAN, STD = 0.2, 0.15
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_noise_comes_back_from_what_is_to_be_predicted(prediction: Prediction) -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.uniform(-1, 1, (200, 5)), rng.normal(size=(200, 5))
    levels = jnp.arange(200)
    signal, sigma = SCHEDULE.signal(levels)[:, None], SCHEDULE.sigma(levels)[:, None]
    wanted = target(prediction, jnp.asarray(clean), jnp.asarray(noise), signal, sigma)
    found = to_noise(prediction, wanted, signal * clean + sigma * noise, signal, sigma)
    # dividing by the least sigma magnifies the rounding of float32
    np.testing.assert_allclose(found, noise, atol=1e-6 / float(sigma.min()))


def test_the_velocity_is_the_derivative_along_the_angle() -> None:
    """With signal = cos and sigma = sin of an angle, d(noisy)/d(angle): Salimans and Ho, appendix D."""
    clean, noise, angle, step = 0.7, -1.3, 0.4, 1e-4

    def noisy(angle: float) -> float:
        return np.cos(angle) * clean + np.sin(angle) * noise

    slope = (noisy(angle + step) - noisy(angle - step)) / (2 * step)
    parts = (jnp.asarray(x) for x in (clean, noise, np.cos(angle), np.sin(angle)))
    assert float(target("velocity", *parts)) == pytest.approx(slope, abs=1e-6)


class Exact(NoiseMLP):
    """The exact prediction where clean plans are independent N(MEAN, STD^2), whatever the state."""

    prediction: Prediction

    def __init__(self, prediction: Prediction) -> None:
        super().__init__(2, (3, 2), width=4, depth=1, key=jax.random.key(0))
        self.prediction = prediction

    def __call__(self, state: jax.Array, plan: jax.Array, k: jax.Array) -> jax.Array:
        signal, sigma = SCHEDULE.signal(k), SCHEDULE.sigma(k)
        variance = signal**2 * STD**2 + sigma**2
        clean = MEAN + signal * STD**2 * (plan - signal * MEAN) / variance
        noise = sigma * (plan - signal * MEAN) / variance
        return {"noise": noise, "sample": clean, "velocity": signal * noise - sigma * clean}[self.prediction]

    def many(self, state: jax.Array, plans: jax.Array, k: jax.Array) -> jax.Array:
        return jax.vmap(lambda plan: self(state, plan, k))(plans)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_exact_predictors_of_a_gaussian_draw_the_same_plans(sampler: Any) -> None:
    n = 2000
    drawn = {
        prediction: np.asarray(
            Diffusion(Exact(prediction), SCHEDULE, sampler, prediction=prediction, bound=None).propose(
                jnp.zeros(2), jax.random.key(3), n
            )
        )
        for prediction in PREDICTIONS
    }
    assert drawn["noise"].mean() == pytest.approx(MEAN, abs=4 * STD / np.sqrt(6 * n))
    assert drawn["noise"].std() == pytest.approx(STD, rel=0.1)  # steps narrow it a little
    for prediction in PREDICTIONS:
        np.testing.assert_allclose(drawn[prediction], drawn["noise"], atol=1e-4)


def test_a_network_taken_for_another_kind_draws_something_else() -> None:
    drawn = [
        Diffusion(Exact("noise"), SCHEDULE, prediction=prediction).propose(jnp.zeros(2), jax.random.key(3), 4)
        for prediction in PREDICTIONS
    ]
    for other in drawn[1:]:
        assert np.abs(other - drawn[0]).max() > 0.01


@pytest.mark.parametrize(("bound", "largest"), [(0.25, 0.25), (1.0, 1.0), (3.0, 1.0), (None, 1.0)])
def test_plans_stay_in_the_range_of_actions_whatever_the_bound_of_the_estimate(
    bound: float | None, largest: float
) -> None:
    plans = Diffusion(Exact("noise"), SCHEDULE, prediction="sample", bound=bound).propose(
        jnp.zeros(2), jax.random.key(0), 200
    )
    assert np.abs(plans).max() <= largest


def test_losses_of_a_generator_are_those_of_its_prediction() -> None:
    states, plans = jnp.zeros((5000, 2)), MEAN + STD * jax.random.normal(jax.random.key(1), (5000, 3, 2))
    for prediction in PREDICTIONS:
        network = Exact(prediction)
        of = {
            kind: float(
                jnp.mean(
                    Diffusion(network, SCHEDULE, prediction=kind).losses(
                        network, states, plans, jax.random.key(2)
                    )
                )
            )
            for kind in PREDICTIONS
        }
        assert min(of, key=lambda kind: of[kind]) == prediction
