"""Episodes on the device, with each step stored once, and transitions that are gathered when drawn.

A row of the store is one time step. An episode of T steps takes T + 1 consecutive rows with the features of
its observations (`otpr.policies.encoder`), and the action, the reward and more of the step that follows. The
last row only has an observation. Transitions, replay and data sets are row numbers, never copies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.row_sets import BLOCK, padded
from otpr.devices import by_rows, row_sharding, shards, written
from otpr.spec import Spec


class Transitions(NamedTuple):
    """n transitions, each from one decision to the next, starting at any step of an episode.

    The reward is the discounted sum over the executed actions, and the bootstrap discount is gamma^(steps
    taken), or 0 after a termination. A truncation keeps its bootstrap.
    """

    state: Float[Array, "n s"]  # features of the last `history` observations, oldest first
    chunk: Float[Array, "n c"]  # the executed actions, flattened; past the episode's end the last repeats
    # `horizon` actions from `offset` steps before; outside the episode, its first or last action repeats
    plan: Float[Array, "n h a"]
    reward: Float[Array, " n"]  # sum_i gamma^i r_i over the steps taken
    discount: Float[Array, " n"]  # gamma^(steps taken), 0 where the episode terminated inside the chunk
    next_state: Float[Array, "n s"]  # after the chunk, or at the episode's last observation
    # achieved return: discounted sum of the rewards to the episode's end; -inf in a truncated episode with a
    # negative reward, because its unseen rest may cost more and the return is then no lower bound
    return_to_go: Float[Array, " n"]
    row: Int[Array, " n"] | None = None  # start row in the store; None outside a store


class EpisodeStore(eqx.Module):
    """A store of a fixed capacity of rows, filled from the first on. An immutable pytree.

    Args:
        features: (rows, f).
        actions: (rows, action_dim), of the step that follows; meaningless in an episode's last row.
        rewards: (rows,), of the same step.
        return_to_go: (rows,), see `Transitions`.
        first: (rows,), the first row of the row's episode.
        last: (rows,), the last row of the row's episode, that of its last observation.
        terminated: (rows,) whether the row's episode ended in a terminal state.
        success: (rows,) whether it solved the task.
        startable: (rows,) whether a transition can start there; see `startable`.
        size: number of rows in use.
        spec: the policy's spec.
        gamma: discount of one step, in (0, 1].
        mesh: the devices among which the rows are divided; None: a single device.
    """

    features: Float[Array, "rows f"]
    actions: Float[Array, "rows a"]
    rewards: Float[Array, " rows"]
    return_to_go: Float[Array, " rows"]
    first: Int[Array, " rows"]
    last: Int[Array, " rows"]
    terminated: Bool[Array, " rows"]
    success: Bool[Array, " rows"]
    startable: Bool[Array, " rows"]
    size: Int[Array, ""]
    spec: Spec = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @classmethod
    def empty(
        cls, spec: Spec, gamma: float, feature_dim: int, capacity: int, mesh: Mesh | None = None
    ) -> EpisodeStore:
        """An empty store with room for `capacity` rows, which grows as needed."""
        rows = capacity + BLOCK  # whole blocks are written
        rows += -rows % shards(mesh)
        zeros = functools.partial(jnp.zeros, device=row_sharding(mesh))
        return cls(
            features=zeros((rows, feature_dim)),
            actions=zeros((rows, spec.action_dim)),
            rewards=zeros(rows),
            return_to_go=zeros(rows),
            first=zeros(rows, jnp.int32),
            last=zeros(rows, jnp.int32),
            terminated=zeros(rows, jnp.bool_),
            success=zeros(rows, jnp.bool_),
            startable=zeros(rows, jnp.bool_),
            size=by_rows(jnp.asarray(0, jnp.int32), mesh),
            spec=spec,
            gamma=gamma,
            mesh=mesh,
        )

    @property
    def capacity(self) -> int:
        """The number of rows that the store holds without growing."""
        return self.rewards.shape[0] - BLOCK

    @property
    def state_dim(self) -> int:
        """Length of a state."""
        return self.spec.history * self.features.shape[1]

    def with_features(self, features: Float[np.ndarray, "t f"]) -> EpisodeStore:
        """The same episodes with other features of their observations.

        Args:
            features: features of each row in use, in order.
        """
        rows = [(0, self.features.shape[0] - len(features)), (0, 0)]
        placed = jax.device_put(np.pad(features, rows), row_sharding(self.mesh))
        return dataclasses.replace(self, features=placed)

    def add(self, features: Float[np.ndarray, "t f"], episode: Episode) -> EpisodeStore:
        """Append an episode. The old store is consumed, because its memory is reused.

        Args:
            features: features of the episode's observations, (T + 1, f).
            episode: the episode.
        """
        start, rows = int(self.size), len(episode) + 1
        store = self if start + rows <= self.capacity else self._grown(start + rows)
        columns = _columns(features, episode, self.spec, self.gamma, start)
        for begin in range(0, rows, BLOCK):  # blocks of equal size, so that the insertion compiles once
            block = {name: padded(column[begin : begin + BLOCK]) for name, column in columns.items()}
            store = _insert(store, block, min(BLOCK, rows - begin))
        return store

    def _grown(self, needed: int) -> EpisodeStore:
        """The store with half as much capacity again, and at least `needed` rows."""
        more = max(needed, self.capacity * 3 // 2) - self.capacity
        more += -more % shards(self.mesh)

        def grow(leaf: Array) -> Array:
            return leaf if leaf.ndim == 0 else jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1))

        return by_rows(jax.tree.map(grow, self), self.mesh)

    def states(self, rows: Int[Array, " n"]) -> Float[Array, "n s"]:
        """The states of some rows; an episode's first observation is repeated before its start."""
        history = self.spec.history
        if history == 1:
            return self.features[rows]
        before = jnp.arange(history - 1, -1, -1)
        window = jnp.maximum(rows[:, None] - before, self.first[rows][:, None])
        return self.features[window].reshape(rows.shape[0], self.state_dim)

    def plans(self, rows: Int[Array, " n"]) -> Float[Array, "n h a"]:
        """The plans of some rows: `horizon` actions from `offset` steps before the row.

        Before an episode's start its first action repeats, past its end the last.
        """
        steps = rows[:, None] + (jnp.arange(self.spec.horizon) - self.spec.offset)
        if self.spec.offset:
            steps = jnp.maximum(steps, self.first[rows][:, None])
        return self.actions[jnp.minimum(steps, self.last[rows][:, None] - 1)]

    def chunks(self, rows: Int[Array, " n"]) -> Float[Array, "n c"]:
        """The actions executed from some rows on, flattened."""
        return self.plans(rows)[:, self.spec.executed].reshape(rows.shape[0], self.spec.chunk_dim)

    def transitions(self, rows: Int[Array, " n"]) -> Transitions:
        """The transitions that start at some rows, which must not be an episode's last."""
        execute, last = self.spec.execute, self.last[rows]
        plan = self.plans(rows)
        ends = jnp.minimum(rows + execute, last)
        taken = ends - rows
        steps = rows[:, None] + jnp.arange(execute)
        powers = jnp.asarray(self.gamma ** np.arange(execute + 1), jnp.float32)
        rewards = jnp.where(steps < last[:, None], self.rewards[steps], 0.0)
        over = self.terminated[rows] & (ends == last)
        return Transitions(
            state=self.states(rows),
            chunk=plan[:, self.spec.executed].reshape(rows.shape[0], self.spec.chunk_dim),
            plan=plan,
            reward=rewards @ powers[:-1],
            discount=jnp.where(over, 0.0, powers[taken]),
            next_state=self.states(ends),
            return_to_go=self.return_to_go[rows],
            row=rows,
        )

    def every_reward(self) -> tuple[Float[Array, " rows"], Float[Array, " rows"], Bool[Array, " rows"]]:
        """Reward and discount of the transition from each row, and whether one can start there.

        The values equal those of `transitions` for all rows, but are computed by shifts instead of gathers.
        """
        rows, execute = jnp.arange(self.rewards.shape[0]), self.spec.execute
        left = self.last - rows
        reward = sum(
            self.gamma**i * jnp.where(i < left, jnp.roll(self.rewards, -i), 0.0) for i in range(execute)
        )
        powers = jnp.asarray(self.gamma ** np.arange(execute + 1), jnp.float32)
        going_on = powers[jnp.clip(left, 0, execute)]
        over = self.terminated & (left <= execute)
        return jnp.asarray(reward), jnp.where(over, 0.0, going_on), self.starts()

    def starts(self) -> Bool[Array, " rows"]:
        """The rows at which a transition can start."""
        return self.startable & (jnp.arange(self.rewards.shape[0]) < self.size)


def episode_starts(store: EpisodeStore) -> list[tuple[int, int]]:
    """First and last row of every episode, in order, on the host."""
    first, last = np.asarray(store.first), np.asarray(store.last)
    found: list[tuple[int, int]] = []
    row = 0
    while row < int(store.size):
        found.append((int(first[row]), int(last[row])))
        row = int(last[row]) + 1
    return found


def _columns(
    features: np.ndarray, episode: Episode, spec: Spec, gamma: float, start: int
) -> dict[str, np.ndarray]:
    """Fields of the store for the rows of an episode that begins at row `start`."""
    T = len(episode)
    return_to_go = np.zeros(T + 1)
    for t in reversed(range(T)):
        return_to_go[t] = episode.rewards[t] + gamma * return_to_go[t + 1]
    if not episode.terminated and (episode.rewards < 0).any():
        return_to_go[:] = -np.inf
    rows = T + 1
    return {
        "features": np.asarray(features, np.float32),
        "actions": np.concatenate([episode.actions, episode.actions[-1:]]).astype(np.float32),
        "rewards": np.append(episode.rewards, 0.0).astype(np.float32),
        "return_to_go": return_to_go.astype(np.float32),
        "first": np.full(rows, start, np.int32),
        "last": np.full(rows, start + T, np.int32),
        "terminated": np.full(rows, episode.terminated),
        "success": np.full(rows, episode.success),
        "startable": np.append(startable(episode, spec), False),
    }


def startable(episode: Episode, spec: Spec) -> NDArray[np.bool_]:
    """The steps of an episode before which a decision can be: (T,), bool.

    At these steps, and after the executed actions, the state is known. If only some steps have images, they
    are the steps of the agent's decisions.
    """
    T = len(episode)
    if episode.looked is None:
        return np.ones(T, np.bool_)
    before = np.arange(spec.history)
    window = np.maximum(np.arange(T + 1)[:, None] - before, 0)
    seen: NDArray[np.bool_] = np.asarray(episode.looks[window].all(axis=1))
    after = np.minimum(np.arange(T) + spec.execute, T)
    # if the environment itself truncated the episode, its last images may be older than the history
    return seen[:T] & (seen[after] | (after == T))


@functools.partial(jax.jit, donate_argnums=0)
def _insert(store: EpisodeStore, block: Mapping[str, Array], n: Int[Array, ""]) -> EpisodeStore:
    """Write a block at the end; the next one overwrites its padding."""
    at, mesh = store.size, store.mesh
    columns = {name: written(getattr(store, name), rows, at, mesh) for name, rows in block.items()}
    return dataclasses.replace(store, **columns, size=at + n)
