"""Samplers: from noise to an action chunk.

Sources: DDPM, Ho et al., 2020 (eq. 6-7, ancestral sampling); DDIM, Song et al., "Denoising diffusion
implicit models", 2021 (eq. 12, eta = 0); DPM-Solver++(2M), Lu et al., "DPM-Solver++: Fast solver for guided
sampling of diffusion probabilistic models", 2022 (Algorithm 2, arXiv 2211.01095).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.diffusion.schedule import NoiseSchedule
from otpr.errors import unknown_name

Method = Literal["ddpm", "ddim", "dpm++"]


def sample(
    predict_noise: Callable[[Array, Array], Array],
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    key: PRNGKeyArray,
    *,
    method: Method = "ddpm",
    steps: int | None = None,
    bound: float | None = 1.0,
) -> Float[Array, "..."]:
    """Draw chunks by reversing the noise process.

    Args:
        predict_noise: takes (noisy chunks of `shape`, level) and returns the predicted noise of the same
        shape.
        shape: shape of the result; the last axis is the flattened chunk.
        method: "ddpm" draws fresh noise at every step; "ddim" and "dpm++" only at the start: they follow the
        probability-flow ODE, to first and to second order. With few steps "dpm++" is the most accurate.
        steps: how many of the schedule's levels to visit, evenly spaced; None visits all.
        bound: the estimate of the clean chunk is clipped to [-bound, bound] at every step; None never clips.

    Raises:
        OtprError: there is no such method.
        ValueError: the schedule has not that many levels.
    """
    if method not in get_args(Method):
        raise unknown_name("sampling method", method, get_args(Method))
    steps = schedule.steps if steps is None else steps
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"steps must lie in 1..{schedule.steps} (the schedule's levels), got {steps}.")
    levels = (
        np.linspace(schedule.steps - 1, 0, steps).round().astype(int) if steps > 1 else [schedule.steps - 1]
    )
    levels = np.asarray(levels)
    alpha_bar = schedule.alpha_bar[levels]
    alpha_bar_next = jnp.append(schedule.alpha_bar[levels[1:]], 1.0)  # after the last step the chunk is clean

    def step(
        carry: tuple[Array, Array, PRNGKeyArray], inputs: tuple[Array, Array, Array, Array]
    ) -> tuple[tuple[Array, Array, PRNGKeyArray], None]:
        chunk, previous, key = carry
        k, ab, ab_next, share = inputs
        noise = predict_noise(chunk, k)
        clean = (chunk - jnp.sqrt(1 - ab) * noise) / jnp.sqrt(ab)
        if bound is not None:
            clean = jnp.clip(clean, -bound, bound)
        ahead = clean + share * (clean - previous) if method == "dpm++" else clean
        if bound is not None or method == "dpm++":
            noise = (chunk - jnp.sqrt(ab) * ahead) / jnp.sqrt(1 - ab)  # the noise that estimate implies
        if method != "ddpm":
            return (jnp.sqrt(ab_next) * ahead + jnp.sqrt(1 - ab_next) * noise, clean, key), None
        key, noise_key = jax.random.split(key)
        variance = (
            (1 - ab_next) / (1 - ab) * (1 - ab / ab_next)
        )  # of q(a_next | a_k, a_0); 0 at the last step
        direction = jnp.sqrt(jnp.maximum(1 - ab_next - variance, 0.0))
        fresh = jnp.sqrt(variance) * jax.random.normal(noise_key, chunk.shape)
        return (jnp.sqrt(ab_next) * clean + direction * noise + fresh, clean, key), None

    start_key, key = jax.random.split(key)
    start = jax.random.normal(start_key, shape)
    inputs = (jnp.asarray(levels), alpha_bar, alpha_bar_next, _shares(alpha_bar))
    (chunk, _, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start), key), inputs)
    return chunk


def _shares(alpha_bar: Float[Array, " n"]) -> Float[Array, " n"]:
    """How much of the estimate's last change each "dpm++" step expects to come once more: h_i / (2 h_{i-1}).

    A step of DPM-Solver++(2M) is a DDIM step towards the clean chunk as extrapolated over the h_i that the
    step covers in log-SNR, log(alpha / sigma). The first step has nothing to extrapolate from; the last ends
    at an infinite log-SNR, where only the first-order update is defined.
    """
    h = jnp.diff(jnp.log(alpha_bar) - jnp.log1p(-alpha_bar)) / 2
    # Algorithm 2 has no limit. With 20 levels or fewer the limit hardly shows; with 50 or more, the few steps
    # have such a long last stretch in log-SNR that unlimited extrapolation can fall behind DDIM.
    ratio = jnp.minimum(h[1:] / h[:-1], 2.0)
    return jnp.zeros_like(alpha_bar).at[1:-1].set(ratio / 2)
