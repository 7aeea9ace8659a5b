"""Sets of row numbers of an episode store: as a list, or as a mark on each row."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray
from numpy.typing import NDArray

from otpr.devices import by_rows, row_sharding, running_count, shards, written

BLOCK = 256
"""Number of rows that are written at once."""


def padded(rows: np.ndarray) -> np.ndarray:
    """Pad rows with zeros to the size of a block."""
    return np.pad(rows, [(0, BLOCK - len(rows))] + [(0, 0)] * (rows.ndim - 1))


class IndexSet(eqx.Module):
    """A list of row numbers of a store, of which the first `size` are valid.

    Args:
        rows: the numbers; those beyond `size` are meaningless.
        size: number of valid rows.
        mesh: the devices among which the numbers are divided.
    """

    rows: Int[Array, " capacity"]
    size: Int[Array, ""]
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @classmethod
    def empty(cls, capacity: int, mesh: Mesh | None = None) -> IndexSet:
        """An empty set with the given capacity, which grows as needed."""
        room = capacity + BLOCK
        rows = jnp.zeros(room + -room % shards(mesh), jnp.int32, device=row_sharding(mesh))
        return cls(rows, by_rows(jnp.asarray(0, jnp.int32), mesh), mesh)

    def add(self, rows: NDArray[np.int32]) -> IndexSet:
        """Append row numbers. The old set is consumed."""
        size = int(self.size)
        grown = self
        if size + len(rows) > self.rows.shape[0] - BLOCK:
            more = max(len(rows), self.rows.shape[0] // 2)
            more += -more % shards(self.mesh)
            longer = by_rows(jnp.pad(self.rows, (0, more)), self.mesh)
            grown = dataclasses.replace(self, rows=longer)
        for begin in range(0, len(rows), BLOCK):
            block = rows[begin : begin + BLOCK]
            grown = _append(grown, padded(block), len(block))
        return grown

    def draw(self, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
        """Draw `n` rows uniformly with replacement. The result is meaningless for an empty set."""
        return self.rows[jax.random.randint(key, (n,), 0, jnp.maximum(self.size, 1))]


class Marked(eqx.Module):
    """Rows of a store chosen by a mark on each row. Works in compiled code.

    Args:
        count: number of chosen rows up to each row, itself included.
    """

    count: Int[Array, " rows"]

    @classmethod
    def of(cls, chosen: Bool[Array, " rows"], mesh: Mesh | None = None) -> Marked:
        """The set of rows where `chosen` is true; `mesh` is that of the store."""
        return cls(running_count(chosen, mesh))

    @property
    def size(self) -> Int[Array, ""]:
        """The number of chosen rows."""
        return self.count[-1]

    def draw(self, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
        """Draw `n` rows uniformly with replacement. The result is meaningless for an empty set."""
        number = jax.random.randint(key, (n,), 0, jnp.maximum(self.size, 1))
        rows = jnp.searchsorted(self.count, number, side="right").astype(jnp.int32)
        return jnp.minimum(rows, self.count.shape[0] - 1)


@functools.partial(jax.jit, donate_argnums=0)
def _append(indices: IndexSet, numbers: Int[Array, " n"], n: Int[Array, ""]) -> IndexSet:
    rows = written(indices.rows, numbers, indices.size, indices.mesh)
    return dataclasses.replace(indices, rows=rows, size=indices.size + n)
