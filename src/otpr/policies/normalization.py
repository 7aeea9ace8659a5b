"""Normalisation of observations; its statistics are part of the policy and travel with it."""

from __future__ import annotations

from typing import ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Normalizer(eqx.Module):
    """Observations to about zero mean and unit scale, with the statistics of the demonstrations."""

    mean: Float[Array, " o"]
    scale: Float[Array, " o"]

    LIMIT: ClassVar[float] = (
        10.0  # in scales: a coordinate the demonstrations hardly moved must not drown all others
    )

    @classmethod
    def fit(cls, observations: np.ndarray) -> Self:
        """Statistics over the rows of (n, o). A coordinate that does not vary keeps its own unit."""
        # in float64: a sum of many float32 drifts, and a constant coordinate would then seem to vary
        std = observations.std(axis=0, dtype=np.float64)
        return cls(
            jnp.asarray(observations.mean(axis=0, dtype=np.float64), jnp.float32),
            jnp.asarray(np.where(std > 1e-4, std, 1.0), jnp.float32),
        )

    def __call__(self, observation: Float[Array, "*n o"]) -> Float[Array, "*n o"]:
        """The normalised observations, clipped to `LIMIT`."""
        return jnp.clip((observation - self.mean) / self.scale, -self.LIMIT, self.LIMIT)
