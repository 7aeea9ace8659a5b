"""OTPR's choice, watched: whether the critics agree on what it chooses among."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.agents.otpr.compatibility import Compatibility
from otpr.policies.choosers import Chooser, Metrics
from otpr.policies.policy import Policy

SPREAD = "spread"
"""Name of the metric: the standard deviation of Q over the critics, in units of the cost's scale (the
standard deviation of Q over the replay), as a mean over the candidates of a decision."""


class Watching(Chooser):
    """Chooses as OTPR does, and measures `SPREAD`. It is never saved."""

    inner: Compatibility
    kind: ClassVar[str] = "watching"

    @property
    def chunk_dim(self) -> int:
        """See `Chooser.chunk_dim`."""
        return self.inner.chunk_dim

    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """OTPR's scores, and the spread of each candidate."""
        states = jnp.broadcast_to(state, (candidates.shape[0], state.shape[0]))
        cost = self.inner.cost
        spread = jnp.std(cost.critic(states, candidates), axis=0) / cost.scale
        return *self.inner.scores(state, candidates), spread

    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """OTPR's choice."""
        *own, spread = scores
        row, metrics = self.inner.pick_by(tuple(own), gumbel)
        return row, {**metrics, SPREAD: jnp.mean(spread)}

    def about(self) -> dict[str, Any]:
        """OTPR's."""
        return self.inner.about()

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Watching:
        """See `Chooser.skeleton`."""
        return cls(Compatibility.skeleton(about, state_dim, chunk_dim, key))


def watched(policy: Policy) -> Policy:
    """The policy with OTPR's choice watched; other policies are as they were."""
    if not isinstance(policy.chooser, Compatibility):
        return policy
    return dataclasses.replace(policy, chooser=Watching(policy.chooser))
