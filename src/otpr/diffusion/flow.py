"""Flow matching: a velocity field that carries noise to chunks along straight lines, and its Euler steps.

    dx/dt = velocity(x, t; s),     x_0 standard normal noise,     x_1 a chunk

Sources: Lipman et al., "Flow matching for generative modeling", 2023, with the straight paths of Liu et al.,
"Flow straight and fast: learning to generate and transfer data with rectified flow", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class VelocityNetwork(eqx.Module):
    """Predicts the velocity of a flattened chunk, given the (normalised) observation and the time in [0, 1].

    An MLP of the three side by side. One call takes one sample; vmap for batches.
    """

    mlp: eqx.nn.MLP

    def __init__(self, observation_dim: int, chunk_dim: int, *, width: int, depth: int, key: PRNGKeyArray):
        # silu as in `NoiseNetwork`
        self.mlp = eqx.nn.MLP(observation_dim + chunk_dim + 1, chunk_dim, width, depth, jax.nn.silu, key=key)

    @property
    def chunk_dim(self) -> int:
        """Length of a flattened chunk."""
        size = self.mlp.out_size
        assert isinstance(size, int)
        return size

    def about(self) -> dict[str, int]:
        """The sizes that are free: with the dimensions, what the constructor takes beside a key."""
        return {"width": self.mlp.width_size, "depth": self.mlp.depth}

    def __call__(
        self, observation: Float[Array, " o"], chunk: Float[Array, " a"], t: Float[Array, ""]
    ) -> Float[Array, " a"]:
        """The velocity predicted at one point."""
        return self.mlp(jnp.concatenate([observation, chunk, t[None]]))

    # Many chunks of one observation are carried together, each several times: what their first layers share
    # is computed once.

    def context(self, observation: Float[Array, " o"]) -> Float[Array, " w"]:
        """What the observation contributes to the first layer."""
        first = self.mlp.layers[0]
        return first.weight[:, : observation.shape[0]] @ observation + cast(Array, first.bias)

    def from_context(
        self, context: Float[Array, " w"], chunks: Float[Array, "n a"], t: Float[Array, ""]
    ) -> Float[Array, "n a"]:
        """The velocities predicted at several points of one time, of which the `context` is known."""
        first, *others = self.mlp.layers
        by_chunk = first.weight[:, -1 - chunks.shape[-1] : -1]
        x = chunks @ by_chunk.T + (context + first.weight[:, -1] * t)
        for layer in others:
            x = jax.nn.silu(x) @ layer.weight.T + cast(Array, layer.bias)
        return x


def flow_losses(
    network: Callable[[Array, Array, Array], Array],
    observations: Float[Array, "n o"],
    chunks: Float[Array, "n a"],
    key: PRNGKeyArray,
) -> Float[Array, " n"]:
    """Squared error of the velocity of each sample at one random time (mean over entries).

    At time t, uniform over [0, 1], the sample is at (1 - t) noise + t chunk, its velocity chunk - noise.

    Args:
        network: predicts the velocity from (observation, point, time).
        observations: normalised observations.
        chunks: flattened action chunks, entries in [-1, 1].
    """
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (chunks.shape[0],))
    noise = jax.random.normal(noise_key, chunks.shape)
    points = (1 - t)[:, None] * noise + t[:, None] * chunks
    predicted = jax.vmap(network)(observations, points, t)
    return jnp.mean((predicted - (chunks - noise)) ** 2, axis=-1)


def integrate(
    velocity: Callable[[Array, Array], Array], noise: Float[Array, "*n a"], steps: int
) -> Float[Array, "*n a"]:
    """Where the flow carries noise from time 0 to time 1, by Euler steps of equal length.

    Args:
        velocity: takes (points of the noise's shape, time) and returns velocities of the same shape.
        noise: where to start.
        steps: how many steps.

    Raises:
        ValueError: there is no step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")

    def step(points: Array, t: Array) -> tuple[Array, None]:
        return points + velocity(points, t) / steps, None

    points, _ = jax.lax.scan(step, noise, jnp.arange(steps) / steps)
    return points
