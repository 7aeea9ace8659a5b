"""From observations to the state vectors that everything else is about.

An encoder turns each observation, one time step, into features; the state of a decision is the features of
the last `history` observations side by side, oldest first. Episodes are encoded once, when they are collected
or read, so that critics, transport and algorithms see vectors only.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.spec import Spec

Observations = Mapping[str, Any]
"""Observations by entry name, each entry with the same leading axes before its own."""


class Encoder(eqx.Module):
    """Features of one observation. A policy owns its encoder, and it is stored with the policy."""

    kind: ClassVar[str]
    """Its name in a policy's file."""

    @abc.abstractmethod
    def __call__(self, observation: Observations) -> Float[Array, " f"]:
        """The features of one observation, raw as the environment gives it."""

    @property
    @abc.abstractmethod
    def feature_dim(self) -> int:
        """f, how many features an observation becomes."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything about it that is neither an array nor in the policy's spec, JSON-able."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> Encoder:
        """An encoder as `about` describes it; its arrays have the right shapes and types only."""


class Normalizer(eqx.Module):
    """A vector to about zero mean and unit scale, with the statistics of the demonstrations."""

    mean: Float[Array, " o"]
    scale: Float[Array, " o"]

    LIMIT: ClassVar[float] = (
        10.0  # in scales: a coordinate the demonstrations hardly moved must not drown all others
    )

    @classmethod
    def fit(cls, rows: np.ndarray) -> Self:
        """Statistics over the rows of (n, o). A coordinate that does not vary keeps its own unit."""
        # in float64: a sum of many float32 drifts, and a constant coordinate would then seem to vary
        std = rows.std(axis=0, dtype=np.float64)
        return cls(
            jnp.asarray(rows.mean(axis=0, dtype=np.float64), jnp.float32),
            jnp.asarray(np.where(std > 1e-4, std, 1.0), jnp.float32),
        )

    def __call__(self, vector: Float[Array, "*n o"]) -> Float[Array, "*n o"]:
        """The normalised vectors, clipped to `LIMIT`."""
        return jnp.clip((vector - self.mean) / self.scale, -self.LIMIT, self.LIMIT)


class VectorEncoder(Encoder):
    """Vector entries, each normalised, side by side in the order of the spec.

    Args:
        normalizers: by entry name.
    """

    normalizers: dict[str, Normalizer]
    kind: ClassVar[str] = "vector"

    @classmethod
    def fit(cls, spec: Spec, observations: Observations) -> Self:
        """With the statistics of some observations, each entry (n, o).

        Raises:
            OtprError: the spec has an entry that is no vector.
        """
        _check_vectors(spec)
        return cls({name: Normalizer.fit(np.asarray(observations[name])) for name in spec.observation})

    @property
    def feature_dim(self) -> int:
        """The lengths of all entries together."""
        return sum(normalizer.mean.shape[0] for normalizer in self.normalizers.values())

    def __call__(self, observation: Observations) -> Float[Array, " f"]:
        """See `Encoder.__call__`."""
        parts = [normalizer(observation[name]) for name, normalizer in sorted(self.normalizers.items())]
        return jnp.concatenate(parts)

    def about(self) -> dict[str, Any]:
        """Nothing: the spec says it all."""
        return {}

    @classmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> VectorEncoder:
        """See `Encoder.skeleton`."""
        _check_vectors(spec)
        shapes = {name: entry.shape for name, entry in spec.observation.items()}
        return cls({name: Normalizer(jnp.zeros(shape), jnp.ones(shape)) for name, shape in shapes.items()})


def _check_vectors(spec: Spec) -> None:
    if images := [name for name, entry in spec.observation.items() if entry.kind != "vector"]:
        raise OtprError(f"The observation entry {images[0]!r} is an image; only vectors can be encoded.")


ENCODERS: dict[str, type[Encoder]] = {VectorEncoder.kind: VectorEncoder}
"""By their names in policies' files."""


def encode(encoder: Encoder, observations: Observations) -> NDArray[np.float32]:
    """The features of n observations, (n, f), on the host.

    An observation's features do not depend on what is encoded beside it: they are computed in blocks of one
    size, so that an episode read back from disk is encoded to the same bits.
    """
    n = len(next(iter(observations.values())))
    blocks = [
        np.asarray(_encode_block(encoder, {name: _block(x, start) for name, x in observations.items()}))
        for start in range(0, n, _ROWS)
    ]
    return np.concatenate(blocks)[:n]


_ROWS = 256


def _block(array: np.ndarray, start: int) -> np.ndarray:
    rows = array[start : start + _ROWS]
    return np.pad(rows, [(0, _ROWS - len(rows))] + [(0, 0)] * (rows.ndim - 1))


@eqx.filter_jit
def _encode_block(encoder: Encoder, observations: Observations) -> Float[Array, "n f"]:
    return jax.vmap(encoder)(observations)
