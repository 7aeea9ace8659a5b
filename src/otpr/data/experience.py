"""What an agent learns from, and ways to draw from it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from otpr.data.chunks import Transitions
from otpr.data.mixture import Mixture
from otpr.data.replay import Replay


class Experience(NamedTuple):
    """What an agent learns from."""

    replay: Replay  # everything it did
    successes: Replay  # the demonstrations, then the episodes of its own that succeeded
    demonstrations: Mixture  # always kept
    keypoints: Transitions  # those of the demonstrations that its settings select

    def sample_all(self, key: PRNGKeyArray, n: int) -> Transitions:
        """`n` transitions out of demonstrations and replay together, each as likely as any other."""
        demonstrated = self.demonstrations.transitions
        n_demonstrated = demonstrated.reward.shape[0]
        rows = jax.random.randint(key, (n,), 0, n_demonstrated + self.replay.size)
        own = rows >= n_demonstrated

        def pick(theirs: jax.Array, ours: jax.Array) -> jax.Array:
            among_theirs = theirs[jnp.where(own, 0, rows)]
            among_ours = ours[jnp.where(own, rows - n_demonstrated, 0)]
            return jnp.where(own if theirs.ndim == 1 else own[:, None], among_ours, among_theirs)

        return Transitions(*map(pick, demonstrated, self.replay.data))

    def sample_both(self, key: PRNGKeyArray, n: int, demonstration_share: float) -> Transitions:
        """`n` transitions, a fixed share of them demonstrated; all of them while the replay is empty."""
        demonstration_key, replay_key, mix_key = jax.random.split(key, 3)
        demonstrated = self.demonstrations.sample(demonstration_key, n)
        own = self.replay.sample(replay_key, n)
        take_own = (jnp.arange(n) >= round(n * demonstration_share)) & (self.replay.size > 0)
        take_own = jax.random.permutation(mix_key, take_own)

        def pick(theirs: jax.Array, ours: jax.Array) -> jax.Array:
            return jnp.where(take_own if theirs.ndim == 1 else take_own[:, None], ours, theirs)

        return Transitions(*map(pick, demonstrated, own))
