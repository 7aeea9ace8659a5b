"""What an agent learns from, and ways to draw from it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from otpr.data.chunks import Transitions
from otpr.data.mixture import Mixture
from otpr.data.replay import Replay


class Experience(NamedTuple):
    """What an agent learns from."""

    replay: Replay  # everything it did
    successes: Replay  # demonstrations that succeeded, then episodes of its own that did
    demonstrations: Mixture  # always kept
    keypoints: Transitions  # those of the demonstrations that its settings select

    def sample_all(self, key: PRNGKeyArray, n: int) -> Transitions:
        """`n` transitions out of demonstrations and replay together, each as likely as any other."""
        demonstrated = self.demonstrations.transitions
        n_demonstrated = demonstrated.reward.shape[0]
        rows = jax.random.randint(key, (n,), 0, n_demonstrated + self.replay.size)
        take_own = rows >= n_demonstrated
        their_rows = jnp.where(take_own, 0, rows)
        own_rows = jnp.where(take_own, rows - n_demonstrated, 0)
        return pick(
            take_own,
            Transitions(*(field[own_rows] for field in self.replay.data)),
            Transitions(*(field[their_rows] for field in demonstrated)),
        )

    def sample_both(self, key: PRNGKeyArray, n: int, demonstration_share: float) -> Transitions:
        """`n` transitions, a fixed share of them demonstrated; all of them while the replay is empty."""
        demonstration_key, replay_key, mix_key = jax.random.split(key, 3)
        demonstrated = self.demonstrations.sample(demonstration_key, n)
        own = self.replay.sample(replay_key, n)
        take_own = (jnp.arange(n) >= round(n * demonstration_share)) & (self.replay.size > 0)
        return pick(jax.random.permutation(mix_key, take_own), own, demonstrated)


def pick(first: Bool[Array, " n"], one: Transitions, other: Transitions) -> Transitions:
    """Row by row, those of `one` where `first` says so, and of `other` elsewhere."""

    def field(a: Array, b: Array) -> Array:
        return jnp.where(first if a.ndim == 1 else first[:, None], a, b)

    return Transitions(*map(field, one, other))
