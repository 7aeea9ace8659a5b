"""Encoders, which turn observations into the state vectors of policies and critics.

An encoder turns the observation of one time step into features. The state of a decision is the concatenated
features of the last `history` observations, oldest first. Episodes are encoded once, when they are collected
or read, so that critics, transport and algorithms only handle vectors.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.policies.generators import Entry
from otpr.spec import Spec

Observations = Mapping[str, Any]
"""Observations by entry name. All entries have the same leading axes before their own."""


class Encoder(eqx.Module):
    """Computes features of observations. An encoder belongs to its policy and is stored with it."""

    kind: ClassVar[str]
    """The encoder's name in a policy's file."""

    entries: ClassVar[Mapping[str, Entry]] = {}
    """The types of entries of `about` that are not counts of at least 1."""

    block: ClassVar[int] = 256
    """Number of observations that `encode` encodes at once."""

    @abc.abstractmethod
    def __call__(self, observations: Observations) -> Float[Array, "n f"]:
        """The features of n observations, each entry (n, *shape), as `on_device` gives them."""

    def on_device(self, observations: Observations) -> Observations:
        """Convert raw observations on the host for compiled code; by default, return them unchanged."""
        return observations

    @property
    @abc.abstractmethod
    def feature_dim(self) -> int:
        """f, the number of features of an observation."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything that is neither an array nor part of the policy's spec, as a JSON document."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> Encoder:
        """An encoder of the structure that `about` describes. Only shapes and types of arrays are valid."""


LIMIT = 10.0
"""In scales. The limit keeps a coordinate that hardly varies in the demonstrations from dominating."""


class Normalizer(eqx.Module):
    """Normalises a vector to about zero mean and unit scale, with the statistics of the demonstrations.

    Args:
        mean: of each coordinate.
        scale: standard deviation of each coordinate; 1 for a coordinate that does not vary.
        rest: for a float64 entry, the part of the mean beyond float32, so that the mean is `mean + rest`;
            None for an entry of another type.
        shift: added to each coordinate at the end; None: nothing. With the minimum as `mean`, half the range
            as `scale` and a shift of -1, the result is in [-1, 1].
        limit: a coordinate is clipped to this many scales from `mean`; None: no clipping.
    """

    mean: Float[Array, " o"]
    scale: Float[Array, " o"]
    rest: Float[Array, " o"] | None = None
    shift: Float[Array, " o"] | None = None
    limit: float | None = eqx.field(static=True, default=LIMIT)

    @classmethod
    def fit(cls, rows: np.ndarray, dtype: str = "float32", resolution: float = 0.0) -> Self:
        """A normaliser with the statistics of rows (n, o). A coordinate that does not vary keeps its unit.

        Args:
            rows: the recorded numbers.
            dtype: type of the entry.
            resolution: see `varies`.

        Raises:
            OtprError: a mean or a deviation exceeds the range of float32.
        """
        mean, deviation = _statistics(rows)
        scale = np.where(varies(rows, dtype, resolution), deviation, 1.0)
        if (beyond := ~(np.abs(mean) + scale <= np.finfo(np.float32).max)).any():
            raise OtprError(
                f"Coordinate {int(beyond.argmax())} of the observations has a mean or a spread beyond "
                "3.4e38, the largest number of float32. Give it in another unit."
            )
        high = mean.astype(np.float32)
        rest = jnp.asarray((mean - high).astype(np.float32)) if dtype == "float64" else None
        return cls(jnp.asarray(high), jnp.asarray(scale, jnp.float32), rest)

    def __call__(self, vector: Float[Array, "..."]) -> Float[Array, "*n o"]:
        """Normalise vectors.

        Args:
            vector: (*n, o); for a float64 entry (*n, o, 2), as `VectorEncoder.on_device` gives it.
        """
        if self.rest is None:
            centred = vector - self.mean
        else:
            assert vector.shape[-2:] == (*self.mean.shape, 2), "float64 is split by `on_device`"
            # the two large parts are subtracted first, which is exact if they are close
            centred = (vector[..., 0] - self.mean) + (vector[..., 1] - self.rest)
        scaled = centred / self.scale
        if self.limit is not None:
            scaled = jnp.clip(scaled, -self.limit, self.limit)
        return scaled if self.shift is None else scaled + self.shift


def varies(rows: np.ndarray, dtype: str, resolution: float) -> NDArray[np.bool_]:
    """Whether each coordinate of rows (n, o) varies by more than rounding: (o,), bool.

    Args:
        rows: the recorded numbers. The coarser of their type and the entry's defines rounding, relative to
            the largest number of a coordinate: 2^-23 for float32, and 2^-48 for float64, the precision in
            which states are computed.
        dtype: type of the entry.
        resolution: deviations up to this number, in the unit of the rows, also count as rounding. Deviations
            up to `_ROUNDING`, which remain where numbers of size 1 cancel, always do.
    """
    return _statistics(rows)[1] > np.maximum(_rounding(rows, dtype), max(resolution, _ROUNDING))


_ROUNDING = 1e-15
"""A deviation, in the numbers' own unit, that always counts as rounding."""


def told(spec: Spec, observations: Observations, resolution: float) -> list[str]:
    """Notes on normalising by given observations, each entry (n, o): up to two sentences."""
    still: list[str] = []
    coarse: list[str] = []
    for name, entry in spec.observation.items():
        rows = np.asarray(observations[name])
        deviation, moving = _statistics(rows)[1], varies(rows, entry.dtype, resolution)
        few = (deviation > max(resolution, _ROUNDING)) & (deviation < 16 * _rounding(rows, entry.dtype))
        still += _ranges(name, ~moving & ~few)
        coarse += _ranges(name, few)
    lines: list[str] = []
    if still:
        little = f" by more than {resolution:g}" if resolution else ""
        lines.append(
            f"Not varying{little} in the demonstrations, and so left in their own unit: {', '.join(still)}."
        )
    if coarse:
        lines.append(
            f"Varying by few steps of the type they are recorded in: {', '.join(coarse)}. Record and declare "
            "them in float64, or take out their offset."
        )
    return lines


def _ranges(name: str, chosen: NDArray[np.bool_]) -> Iterator[str]:
    """The chosen coordinates of an entry in words, neighbours as ranges: "state[3]", "state[7:18]"."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    for start, end in edges.reshape(-1, 2).tolist():
        yield f"{name}[{start}]" if end == start + 1 else f"{name}[{start}:{end}]"


def _rounding(rows: np.ndarray, dtype: str) -> NDArray[np.float64]:
    """The variation of each coordinate that rounding alone can cause; see `varies`."""
    step = max(2.0**-48, *(float(np.finfo(of).eps) for of in (rows.dtype, dtype)))
    return step * np.abs(rows).max(axis=0).astype(np.float64)


def _statistics(rows: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each coordinate.

    Computed in float64 relative to the first row, so that an offset costs no precision and a constant has
    deviation 0.
    """
    first = rows[0].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is refused later
        from_first = rows - first
        return first + from_first.mean(axis=0), from_first.std(axis=0)


def _split(array: NDArray[Any]) -> NDArray[np.float32]:
    largest = np.finfo(np.float32).max  # the normaliser clips larger numbers in any case
    wide = np.clip(np.asarray(array, np.float64), -largest, largest)
    high = wide.astype(np.float32)
    return np.stack([high, (wide - high).astype(np.float32)], axis=-1)


class VectorEncoder(Encoder):
    """Normalises each vector entry and concatenates them in the order of the spec.

    Args:
        normalizers: by entry name. They share one limit, and either all or none have a shift.
    """

    normalizers: dict[str, Normalizer]
    kind: ClassVar[str] = "vector"
    entries: ClassVar[Mapping[str, Entry]] = {"limit": "optional number", "shifted": "flag"}

    @classmethod
    def fit(cls, spec: Spec, observations: Observations, resolution: float = 0.0) -> Self:
        """An encoder with the statistics of observations, each entry (n, o). For `resolution` see `varies`.

        Raises:
            OtprError: the spec has an entry that is not a vector, or numbers exceed the range of float32.
        """
        _check_vectors(spec)
        return cls(
            {
                name: Normalizer.fit(np.asarray(observations[name]), entry.dtype, resolution)
                for name, entry in spec.observation.items()
            }
        )

    @property
    def feature_dim(self) -> int:
        """The sum of the lengths of all entries."""
        return sum(normalizer.mean.shape[0] for normalizer in self.normalizers.values())

    def on_device(self, observations: Observations) -> Observations:
        """See `Encoder.on_device`. Compiled code uses no float64.

        A float64 entry becomes two float32 numbers in a last axis, the rounded number and the remainder.
        Together they have 48 of its 53 bits.
        """
        wide = {name for name, normalizer in self.normalizers.items() if normalizer.rest is not None}
        return {name: _split(x) if name in wide else x for name, x in observations.items()}

    def __call__(self, observations: Observations) -> Float[Array, "n f"]:
        """See `Encoder.__call__`."""
        parts = [normalizer(observations[name]) for name, normalizer in sorted(self.normalizers.items())]
        return jnp.concatenate(parts, axis=-1)

    def about(self) -> dict[str, Any]:
        """The settings of the normalisation that are not in arrays."""
        one = next(iter(self.normalizers.values()))
        return {"limit": one.limit, "shifted": one.shift is not None}

    @classmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> VectorEncoder:
        """See `Encoder.skeleton`."""
        _check_vectors(spec)
        normalizers: dict[str, Normalizer] = {}
        for name, entry in spec.observation.items():
            rest = jnp.zeros(entry.shape) if entry.dtype == "float64" else None
            shift = jnp.zeros(entry.shape) if about["shifted"] else None
            zeros, ones = jnp.zeros(entry.shape), jnp.ones(entry.shape)
            normalizers[name] = Normalizer(zeros, ones, rest, shift, about["limit"])
        return cls(normalizers)


def _check_vectors(spec: Spec) -> None:
    if images := [name for name, entry in spec.observation.items() if entry.kind != "vector"]:
        raise OtprError(f"The observation entry {images[0]!r} is an image; only vectors can be encoded.")


def encode(encoder: Encoder, observations: Observations) -> NDArray[np.float32]:
    """Encode n observations on the host: (n, f).

    All blocks have the same size, so that an observation's features do not depend on the other observations
    and an episode that is read back from disk is encoded to the same bits.
    """
    n, size = len(next(iter(observations.values()))), encoder.block
    blocks = [
        np.asarray(_encode_block(encoder, encoder.on_device(_block(observations, start, size))))
        for start in range(0, n, size)
    ]
    return np.concatenate(blocks)[:n]


def _block(observations: Observations, start: int, size: int) -> dict[str, np.ndarray]:
    """`size` observations from `start` on, padded with zeros. Nothing else is read from a file."""
    rows = {name: array[start : start + size] for name, array in observations.items()}
    return {
        name: np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1))
        for name, part in rows.items()
    }


@eqx.filter_jit
def _encode_block(encoder: Encoder, observations: Observations) -> Float[Array, "n f"]:
    return encoder(observations)
