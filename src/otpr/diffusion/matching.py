"""Conditional denoising score matching.

    J(theta) = E_k w_k E_{s,a} H E_{a_k | a} || score_theta(a_k; s, k) - grad log p(a_k | a) ||^2

With w_k = sigma_k^2, the loss of one sample is the squared error of the predicted noise (Ho et al., 2020,
section 3.2; Vincent, "A connection between score matching and denoising autoencoders", 2011). Networks that
predict the clean sample or the velocity have other w_k.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.diffusion.parametrization import Prediction, target
from otpr.diffusion.schedule import NoiseSchedule


def denoising_losses(
    network: Callable[[Array, Array, Array], Array],
    schedule: NoiseSchedule,
    states: Float[Array, "n s"],
    samples: Float[Array, "n ..."],
    key: PRNGKeyArray,
    prediction: Prediction = "noise",
) -> Float[Array, " n"]:
    """Squared error of each sample's prediction at one random noise level: (n,), each the mean over entries.

    A weighted objective is the mean of the weight times this loss. Behaviour cloning has weight 1.

    Args:
        network: predicts from a state, a noisy sample and its level.
        schedule: the noise levels.
        states: the condition of each sample.
        samples: clean samples, e.g. plans, entries in [-1, 1].
        key: draws the levels and the noise.
        prediction: what the network predicts.
    """
    noisy, k, noise = noised(schedule, samples, key)
    predicted = jax.vmap(network)(states, noisy, k)
    signal, sigma = (_beside(level(k), samples) for level in (schedule.signal, schedule.sigma))
    errors = predicted - target(prediction, samples, noise, signal, sigma)
    return jnp.mean(errors**2, axis=tuple(range(1, errors.ndim)))


def noised(
    schedule: NoiseSchedule, samples: Float[Array, "n ..."], key: PRNGKeyArray
) -> tuple[Array, Array, Array]:
    """Add noise at a random level to each sample: the noisy samples, their levels (n,), and the noise."""
    level_key, noise_key = jax.random.split(key)
    k = jax.random.randint(level_key, (samples.shape[0],), 0, schedule.steps)
    noise = jax.random.normal(noise_key, samples.shape)
    return (
        _beside(schedule.signal(k), samples) * samples + _beside(schedule.sigma(k), samples) * noise,
        k,
        noise,
    )


def _beside(level: Float[Array, " n"], samples: Float[Array, "n ..."]) -> Array:
    return level.reshape(-1, *[1] * (samples.ndim - 1))
