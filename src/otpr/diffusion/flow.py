"""Flow matching: a velocity field that carries noise to samples along straight lines, and its Euler steps.

    dx/dt = velocity(x, t; s),     x_0 standard normal noise,     x_1 a sample

Sources: Lipman et al., "Flow matching for generative modeling", 2023, with the straight paths of Liu et al.,
"Flow straight and fast: learning to generate and transfer data with rectified flow", 2023.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def flow_losses(
    network: Callable[[Array, Array, Array], Array],
    states: Float[Array, "n s"],
    samples: Float[Array, "n ..."],
    key: PRNGKeyArray,
) -> Float[Array, " n"]:
    """Squared error of each sample's velocity at one random time: (n,), each the mean over entries.

    At time t, uniform over [0, 1], the point is (1 - t) noise + t sample and its velocity is sample - noise.

    Args:
        network: predicts the velocity from (state, point, time).
        states: the condition of each sample.
        samples: e.g. plans, entries in [-1, 1].
        key: draws the times and the noise.
    """
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (samples.shape[0],))
    beside = t.reshape(-1, *[1] * (samples.ndim - 1))
    noise = jax.random.normal(noise_key, samples.shape)
    points = (1 - beside) * noise + beside * samples
    errors = jax.vmap(network)(states, points, t) - (samples - noise)
    return jnp.mean(errors**2, axis=tuple(range(1, errors.ndim)))


def integrate(
    velocity: Callable[[Array, Array], Array], noise: Float[Array, "..."], steps: int
) -> Float[Array, "..."]:
    """Integrate the flow from noise at time 0 to a sample at time 1, by Euler steps of equal length.

    Args:
        velocity: takes points of the noise's shape and the time; returns velocities of the same shape.
        noise: the starting points.
        steps: number of steps, at least 1.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")

    def step(points: Array, t: Array) -> tuple[Array, None]:
        return points + velocity(points, t) / steps, None

    points, _ = jax.lax.scan(step, noise, jnp.arange(steps) / steps)
    return points
