"""MLPs over flattened action chunks: of the noise in one, and of the velocity of a flow."""

from __future__ import annotations

from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def time_embedding(k: Int[Array, ""], width: int, max_period: float = 100.0) -> Float[Array, " width"]:
    """Sines and cosines of the noise level at geometrically spaced frequencies (Vaswani et al., 2017)."""
    half = width // 2
    frequencies = max_period ** (-jnp.arange(half) / half)
    angles = k * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class NoiseNetwork(eqx.Module):
    """Predicts the noise in a flattened chunk, given the (normalised) observation and the noise level.

    The prediction stands for the score through `NoiseSchedule.score`. One call takes one sample; vmap for
    batches.
    """

    mlp: eqx.nn.MLP
    time_width: int = eqx.field(static=True)

    def __init__(
        self,
        observation_dim: int,
        chunk_dim: int,
        *,
        width: int,
        depth: int,
        time_width: int = 16,
        key: PRNGKeyArray,
    ):
        self.time_width = time_width
        # silu rather than mish: as good here, and the cheapest smooth activation on a CPU
        self.mlp = eqx.nn.MLP(
            observation_dim + chunk_dim + time_width, chunk_dim, width, depth, jax.nn.silu, key=key
        )

    @property
    def chunk_dim(self) -> int:
        """Length of a flattened chunk."""
        size = self.mlp.out_size
        assert isinstance(size, int)
        return size

    def about(self) -> dict[str, int]:
        """The sizes that are free: with the dimensions, what the constructor takes beside a key."""
        return {"width": self.mlp.width_size, "depth": self.mlp.depth, "time_width": self.time_width}

    def __call__(
        self, observation: Float[Array, " o"], chunk: Float[Array, " a"], k: Int[Array, ""]
    ) -> Float[Array, " a"]:
        """The noise predicted in one noisy chunk."""
        return self.mlp(jnp.concatenate([observation, chunk, time_embedding(k, self.time_width)]))

    # Many chunks of one observation are denoised together when acting: what their first layers share is then
    # computed once. Training, with one chunk an observation, is an eighth slower this way.

    def context(self, observation: Float[Array, " o"], k: Int[Array, ""]) -> Float[Array, " w"]:
        """What the observation and the noise level contribute to the first layer."""
        first = self.mlp.layers[0]
        by_observation = first.weight[:, : observation.shape[0]] @ observation
        by_level = first.weight[:, -self.time_width :] @ time_embedding(k, self.time_width)
        return by_observation + by_level + cast(Array, first.bias)

    def from_context(self, context: Float[Array, " w"], chunk: Float[Array, " a"]) -> Float[Array, " a"]:
        """The noise predicted in one noisy chunk of which the `context` is known."""
        first, *others = self.mlp.layers
        x = context + first.weight[:, -self.time_width - chunk.shape[0] : -self.time_width] @ chunk
        for layer in others:
            x = layer(self.mlp.activation(x))
        return x


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
