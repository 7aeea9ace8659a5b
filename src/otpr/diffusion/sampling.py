"""Samplers: from noise to an action chunk.

Sources: DDPM, Ho et al., 2020 (eq. 6-7, ancestral sampling); DDIM, Song et al., "Denoising diffusion
implicit models", 2021 (eq. 12, eta = 0); DPM-Solver++(2M) and SDE-DPM-Solver++(2M), Lu et al.,
"DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models", 2022 (Algorithm 2 and its
counterpart for the diffusion SDE, arXiv 2211.01095).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion.schedule import NoiseSchedule
from otpr.errors import unknown_name

Sampler = Literal["ddpm", "ddim", "dpm++", "sde-dpm++"]

DRAWING: tuple[Sampler, ...] = ("ddpm", "sde-dpm++")
"""The samplers that draw noise at every step and not only at the start."""

Spacing = Literal["linspace", "leading"]
"""How the visited levels are spaced, by the names of diffusers; see `visited_levels`."""


class Noise(NamedTuple):
    """The noise of a draw, given where a draw must be reproducible outside this function."""

    start: Float[Array, "..."]  # the initial noise
    # of each of the n steps, the noisiest first; None where the steps draw their own
    steps: Float[Array, "n ..."] | None = None


def sample(
    predict_noise: Callable[[Array, Array], Array],
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    key: PRNGKeyArray | None,
    *,
    method: Sampler = "ddpm",
    steps: int | None = None,
    spacing: Spacing = "linspace",
    bound: float | None = 1.0,
    clipped_noise: bool = True,
    least_std: float = 0.0,
    noise_limit: float | None = None,
    noise: Noise | None = None,
) -> Float[Array, "..."]:
    """Draw samples by reversing the noise process.

    Args:
        predict_noise: takes noisy samples of `shape` and their level; returns the predicted noise of the same
            shape.
        shape: shape of the result, e.g. (n, horizon, action_dim).
        key: draws the noise; None where `noise` gives all of it.
        method: "ddpm" and "sde-dpm++" solve the reverse-time SDE to first and to second order and draw noise
            at every step; "ddim" and "dpm++" solve the probability-flow ODE to first and to second order and
            draw noise only at the start.
        steps: number of levels of the schedule to visit, evenly spaced; None visits all.
        spacing: how the visited levels are spaced; see `visited_levels`.
        bound: the estimate of the clean chunk is clipped to [-bound, bound] at every step; None never clips.
        clipped_noise: whether "ddim" continues with the noise that is consistent with the clipped estimate or
            with the predicted noise (`use_clipped_model_output` of diffusers).
        least_std: the smallest standard deviation of a step of "ddpm". Above 0 the last step draws noise too
            and may exceed the bound.
        noise_limit: the noise of each step, except the initial noise, is clipped to [-noise_limit,
            noise_limit], as in the code of Ren et al., DPPO, 2024; None never clips.
        noise: the noise to use instead of drawing it; its start has `shape`.

    Raises:
        OtprError: there is no such method.
        ValueError: the schedule has not that many levels.
    """
    if method not in get_args(Sampler):
        raise unknown_name("sampling method", method, get_args(Sampler))
    visited = visited_levels(schedule, steps, spacing)
    if noise is None:
        assert key is not None
        start_key, key = jax.random.split(key)
        noise = Noise(jax.random.normal(start_key, shape))
    settings = (method, bound, clipped_noise, least_std, noise_limit)
    return _reverse(predict_noise, visited, noise, key, *settings, keep=False)[0]


def sample_chain(
    predict_noise: Callable[[Array, Array], Array],
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    key: PRNGKeyArray,
    *,
    steps: int | None = None,
    spacing: Spacing = "linspace",
    bound: float | None = 1.0,
    least_std: float = 0.0,
    noise_limit: float | None = None,
) -> Float[Array, "..."]:
    """The whole denoising chain of method "ddpm": n + 1 samples for n levels, noise first, the result last.

    The last sample equals the result of `sample` with the same arguments.
    """
    visited = visited_levels(schedule, steps, spacing)
    start_key, key = jax.random.split(key)
    noise = Noise(jax.random.normal(start_key, shape))
    settings = ("ddpm", bound, True, least_std, noise_limit)
    _, way = _reverse(predict_noise, visited, noise, key, *settings, keep=True)
    assert way is not None
    return jnp.concatenate([noise.start[None], way])


class Visited(NamedTuple):
    """The levels that a sampler visits, from noise to clean."""

    levels: Int[Array, " n"]
    alpha_bar: Float[Array, " n"]  # of each level
    alpha_bar_next: Float[Array, " n"]  # after the step; 1 after the last, when the sample is clean


def visited_levels(
    schedule: NoiseSchedule, steps: int | None = None, spacing: Spacing = "linspace"
) -> Visited:
    """The levels that a sampler visits, the noisiest first.

    Args:
        schedule: the noise schedule, with K levels.
        steps: number of levels; None visits all.
        spacing: "linspace" spaces them evenly from K - 1 to 0, rounded; "leading" takes every (K // steps)-th
            level from 0 up, the default of diffusers, which leaves out the noisiest.

    Raises:
        ValueError: the schedule has not that many levels.
    """
    steps = schedule.steps if steps is None else steps
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"steps must lie in 1..{schedule.steps} (the schedule's levels), got {steps}.")
    if spacing == "linspace":
        levels = np.linspace(schedule.steps - 1, 0, steps).round().astype(int)
    else:
        levels = np.arange(steps)[::-1] * (schedule.steps // steps)
    alpha_bar = schedule.alpha_bar[levels]
    return Visited(jnp.asarray(levels), alpha_bar, jnp.append(schedule.alpha_bar[levels[1:]], 1.0))


def ancestral_step(
    noise: Float[Array, "..."],
    chunk: Float[Array, "..."],
    alpha_bar: Float[Array, "..."],
    alpha_bar_next: Float[Array, "..."],
    *,
    bound: float | None = 1.0,
    least_std: float = 0.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean and standard deviation of the Gaussian from which a step of "ddpm" draws the next sample.

    Args:
        noise: the predicted noise in `chunk`.
        chunk: the noisy sample.
        alpha_bar: of the sample's level.
        alpha_bar_next: of the next level.
        bound: as in `sample`.
        least_std: as in `sample`.
    """
    clean, noise = _estimates(noise, chunk, alpha_bar, bound)
    mean, std = _posterior(clean, noise, alpha_bar, alpha_bar_next)
    return mean, jnp.maximum(std, least_std)


def _posterior(clean: Array, noise: Array, alpha_bar: Array, alpha_bar_next: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of q(a_next | a_k, a_0), given a_0 and the noise in a_k."""
    # 0 at the last step
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    direction = jnp.sqrt(jnp.maximum(1 - alpha_bar_next - variance, 0.0))
    return jnp.sqrt(alpha_bar_next) * clean + direction * noise, jnp.sqrt(variance)


def _estimates(noise: Array, chunk: Array, alpha_bar: Array, bound: float | None) -> tuple[Array, Array]:
    """The clipped estimate of the clean sample, and the noise consistent with it."""
    clean = (chunk - jnp.sqrt(1 - alpha_bar) * noise) / jnp.sqrt(alpha_bar)
    if bound is None:
        return clean, noise
    clean = jnp.clip(clean, -bound, bound)
    return clean, _implied_noise(chunk, clean, alpha_bar)


def _implied_noise(chunk: Array, clean: Array, alpha_bar: Array) -> Array:
    return (chunk - jnp.sqrt(alpha_bar) * clean) / jnp.sqrt(1 - alpha_bar)


def _reverse(
    predict_noise: Callable[[Array, Array], Array],
    visited: Visited,
    given: Noise,
    key: PRNGKeyArray | None,
    method: Sampler,
    bound: float | None,
    clipped_noise: bool,
    least_std: float,
    noise_limit: float | None,
    keep: bool,
) -> tuple[Array, Array | None]:
    """The result and, on request, the sample after each step."""

    def step(
        carry: tuple[Array, Array, PRNGKeyArray | None],
        inputs: tuple[Array, Array, Array, Array, Array | None],
    ) -> tuple[tuple[Array, Array, PRNGKeyArray | None], Array | None]:
        chunk, previous, key = carry
        k, ab, ab_next, share, fresh = inputs

        def random(key: PRNGKeyArray | None) -> tuple[PRNGKeyArray | None, Array]:
            added = fresh
            if added is None:
                assert key is not None
                key, noise_key = jax.random.split(key)
                added = jax.random.normal(noise_key, chunk.shape)
            return key, added if noise_limit is None else jnp.clip(added, -noise_limit, noise_limit)

        noise = predict_noise(chunk, k)
        if method == "ddpm":
            key, added = random(key)
            mean, std = ancestral_step(noise, chunk, ab, ab_next, bound=bound, least_std=least_std)
            chunk = mean + std * added
            return (chunk, previous, key), chunk if keep else None
        predicted = noise
        clean, noise = _estimates(noise, chunk, ab, bound)
        ahead = clean
        if method == "ddim":
            noise = noise if clipped_noise else predicted
        else:
            ahead = clean + share * (clean - previous)
            noise = _implied_noise(chunk, ahead, ab)
        if method == "sde-dpm++":  # its first-order step is that of "ddpm"
            key, added = random(key)
            mean, std = _posterior(ahead, noise, ab, ab_next)
            chunk = mean + std * added
        else:
            chunk = jnp.sqrt(ab_next) * ahead + jnp.sqrt(1 - ab_next) * noise
        return (chunk, clean, key), chunk if keep else None

    shares, start = _shares(visited.alpha_bar), given.start
    inputs = (visited.levels, visited.alpha_bar, visited.alpha_bar_next, shares, given.steps)
    if method not in DRAWING or given.steps is not None:
        key = None
    (chunk, _, _), way = jax.lax.scan(step, (start, jnp.zeros_like(start), key), inputs)
    return chunk, way


def _shares(alpha_bar: Float[Array, " n"]) -> Float[Array, " n"]:
    """The extrapolation weight of each second-order step, h_i / (2 h_{i-1}).

    DPM-Solver++(2M) takes DDIM steps, and SDE-DPM-Solver++(2M) ancestral steps, towards an extrapolated
    estimate of the clean sample; h_i is the change of log-SNR, log(alpha / sigma), in step i. The first step
    has nothing to extrapolate from. The last step ends at an infinite log-SNR, where only the first-order
    update is defined.
    """
    h = jnp.diff(jnp.log(alpha_bar) - jnp.log1p(-alpha_bar)) / 2
    # Algorithm 2 has no limit. The limit hardly matters with 20 levels or fewer. With 50 or more, the last
    # steps cover so much log-SNR that unlimited extrapolation can be worse than DDIM.
    ratio = jnp.minimum(h[1:] / h[:-1], 2.0)
    return jnp.zeros_like(alpha_bar).at[1:-1].set(ratio / 2)
