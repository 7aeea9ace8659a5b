"""Conditional denoising score matching.

    J(theta) = E_k w_k E_{s,a} H E_{a_k | a} || score_theta(a_k; s, k) - grad log p(a_k | a) ||^2

With w_k = sigma_k^2 the term of one sample is the squared error of the predicted noise (Ho et al., 2020,
section 3.2; Vincent, "A connection between score matching and denoising autoencoders", 2011).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.diffusion.schedule import NoiseSchedule


def denoising_losses(
    network: Callable[[Array, Array, Array], Array],
    schedule: NoiseSchedule,
    observations: Float[Array, "n o"],
    chunks: Float[Array, "n a"],
    key: PRNGKeyArray,
) -> Float[Array, " n"]:
    """Squared noise-prediction error of each sample at one random noise level (mean over entries).

    The weighted objective is the mean of weight times this; imitation is weight 1.

    Args:
        network: predicts noise from (observation, noisy chunk, level).
        observations: normalised observations.
        chunks: flattened action chunks, entries in [-1, 1].
    """
    level_key, noise_key = jax.random.split(key)
    k = jax.random.randint(level_key, (chunks.shape[0],), 0, schedule.steps)
    noise = jax.random.normal(noise_key, chunks.shape)
    noisy = schedule.signal(k)[:, None] * chunks + schedule.sigma(k)[:, None] * noise
    predicted = jax.vmap(network)(observations, noisy, k)
    return jnp.mean((predicted - noise) ** 2, axis=-1)
