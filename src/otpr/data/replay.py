"""The replay buffer: a ring of transitions on the device, so that a block of updates never leaves it."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from otpr.data.chunks import Transitions


class Replay(eqx.Module):
    """A ring of at most `capacity` transitions, the oldest overwritten first. An immutable pytree."""

    data: Transitions  # fields of `capacity` rows, those beyond `size` zero
    size: Int[Array, ""]
    position: Int[Array, ""]  # where the next transition goes

    @classmethod
    def create(cls, capacity: int, observation_dim: int, chunk_dim: int) -> Replay:
        """An empty buffer."""
        data = Transitions(
            observation=jnp.zeros((capacity, observation_dim)),
            chunk=jnp.zeros((capacity, chunk_dim)),
            reward=jnp.zeros(capacity),
            discount=jnp.zeros(capacity),
            next_observation=jnp.zeros((capacity, observation_dim)),
            return_to_go=jnp.zeros(capacity),
        )
        return cls(data, jnp.asarray(0, jnp.int32), jnp.asarray(0, jnp.int32))

    @property
    def capacity(self) -> int:
        """The most transitions it holds."""
        return self.data.reward.shape[0]

    def add(self, transitions: Transitions) -> Replay:
        """A buffer with the transitions appended. The old buffer is consumed: its memory is reused."""
        n = len(transitions.reward)
        if n > self.capacity:  # only the newest could survive
            transitions = Transitions(*(field[-self.capacity :] for field in transitions))
            n = self.capacity
        replay = self
        for start in range(0, n, _ROWS):  # blocks of one size: the insertion compiles once
            block = Transitions(*(_pad(np.asarray(field[start : start + _ROWS])) for field in transitions))
            replay = _insert(replay, block, min(_ROWS, n - start))
        return replay

    def sample(self, key: PRNGKeyArray, n: int) -> Transitions:
        """`n` transitions, uniformly with replacement. The buffer must not be empty."""
        rows = jax.random.randint(key, (n,), 0, jnp.maximum(self.size, 1))
        return Transitions(*(field[rows] for field in self.data))


_ROWS = 256


def _pad(field: np.ndarray) -> np.ndarray:
    return np.pad(field, [(0, _ROWS - len(field))] + [(0, 0)] * (field.ndim - 1))


@functools.partial(jax.jit, donate_argnums=0)
def _insert(replay: Replay, block: Transitions, n: Int[Array, ""]) -> Replay:
    capacity = replay.capacity
    offset = jnp.arange(_ROWS)
    # rows of padding are sent out of bounds, where `drop` ignores them
    rows = jnp.where(offset < n, (replay.position + offset) % capacity, capacity)
    data = Transitions(
        *(old.at[rows].set(new, mode="drop") for old, new in zip(replay.data, block, strict=True))
    )
    return Replay(data, jnp.minimum(replay.size + n, capacity), (replay.position + n) % capacity)
