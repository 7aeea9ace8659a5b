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
"""Those that draw noise at every step, not at the start alone."""

Spacing = Literal["linspace", "leading"]
"""How the levels that a sampler visits are spread, as diffusers names it; see `visited_levels`."""


class Noise(NamedTuple):
    """The noise of a draw, for draws that are to be made again elsewhere."""

    start: Float[Array, "..."]  # where it begins
    # of each step, n levels and so n steps, the noisiest first; None where they draw it themselves
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
    """Draw chunks by reversing the noise process.

    Args:
        predict_noise: takes (noisy chunks of `shape`, level) and returns the predicted noise of the
            same shape.
        shape: shape of the result, e.g. (n, horizon, action_dim).
        key: of what is drawn; None where all of it is given.
        method: "ddpm" and "sde-dpm++" draw fresh noise at every step: they follow the reverse-time SDE, to
            first and to second order; "ddim" and "dpm++" draw at the start alone, and follow the
            probability-flow ODE, to first and to second order.
        steps: how many of the schedule's levels to visit, evenly spaced; None visits all.
        spacing: how they are spread; see `visited_levels`.
        bound: the estimate of the clean chunk is clipped to [-bound, bound] at every step; None never clips.
        clipped_noise: whether "ddim" goes on with the noise that belongs to the clipped estimate, or with the
            noise as it was predicted (`use_clipped_model_output` of diffusers).
        least_std: "ddpm" draws no step with a smaller standard deviation. Above 0 the last step draws too,
            and may leave the bound.
        noise_limit: the noise of each step, not that of the start, is clipped to [-noise_limit, noise_limit],
            as in the code of Ren et al., DPPO, 2024; None never clips.
        noise: what is drawn otherwise, the start of `shape`.

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
    """The whole way of `sample` with method "ddpm": n + 1 chunks for n levels, noise first, the result last.

    With the same arguments the last chunk is the one that `sample` draws.
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
    alpha_bar: Float[Array, " n"]  # of each
    alpha_bar_next: Float[Array, " n"]  # after the step from it; 1 after the last, when the chunk is clean


def visited_levels(
    schedule: NoiseSchedule, steps: int | None = None, spacing: Spacing = "linspace"
) -> Visited:
    """`steps` of the schedule's levels, evenly spaced, the noisiest first; None visits all.

    Args:
        schedule: of K levels.
        steps: how many.
        spacing: "linspace" spreads them from K - 1 to 0, rounded; "leading" takes every K // steps-th from 0
            up, as diffusers does by default, so that the noisiest are left out.

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
    """Mean and standard deviation of the Gaussian that a step of "ddpm" draws the next chunk from.

    Args:
        noise: predicted in `chunk`.
        chunk: the noisy one.
        alpha_bar: of its level.
        alpha_bar_next: of the next one.
        bound: as in `sample`.
        least_std: as in `sample`.
    """
    clean, noise = _estimates(noise, chunk, alpha_bar, bound)
    mean, std = _posterior(clean, noise, alpha_bar, alpha_bar_next)
    return mean, jnp.maximum(std, least_std)


def _posterior(clean: Array, noise: Array, alpha_bar: Array, alpha_bar_next: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of q(a_next | a_k, a_0), given a_0 and the noise that a_k then holds."""
    # 0 at the last step
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    direction = jnp.sqrt(jnp.maximum(1 - alpha_bar_next - variance, 0.0))
    return jnp.sqrt(alpha_bar_next) * clean + direction * noise, jnp.sqrt(variance)


def _estimates(noise: Array, chunk: Array, alpha_bar: Array, bound: float | None) -> tuple[Array, Array]:
    """The clean chunk, clipped, and the noise that goes with it."""
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
    """The result, and where asked for the chunk after each step."""

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
        if method == "sde-dpm++":  # to first order it is "ddpm"
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
    """How much of the estimate's last change each second-order step expects to come again: h_i / (2 h_{i-1}).

    A step of DPM-Solver++(2M) is a DDIM step, one of SDE-DPM-Solver++(2M) an ancestral step, towards the
    clean chunk as extrapolated over the h_i that the step covers in log-SNR, log(alpha / sigma). The first
    step has nothing to extrapolate from; the last ends at an infinite log-SNR, where only the first-order
    update is defined.
    """
    h = jnp.diff(jnp.log(alpha_bar) - jnp.log1p(-alpha_bar)) / 2
    # Algorithm 2 has no limit. With 20 levels or fewer the limit hardly shows; with 50 or more, the few steps
    # have such a long last stretch in log-SNR that unlimited extrapolation can fall behind DDIM.
    ratio = jnp.minimum(h[1:] / h[:-1], 2.0)
    return jnp.zeros_like(alpha_bar).at[1:-1].set(ratio / 2)
