"""How a policy chooses among several sampled chunks.

A chooser is a part of a policy (`otpr.policy.Policy`); OTPR's is `otpr.compatibility.Compatibility`. On disk
it is described as a generator is (`otpr.generators`).
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Chooser(eqx.Module):
    """Scores candidate chunks of a state, and picks one by the scores.

    Two steps, so that candidates can be scored some at a time (`otpr.acting`).
    """

    kind: ClassVar[str]
    """Its name in a policy's file."""

    @abc.abstractmethod
    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, " N"], ...]:
        """Scores of the candidates, each of any sort; the more the better, -infinity is never picked."""

    @abc.abstractmethod
    def pick(
        self, scores: tuple[Float[Array, " N"], ...], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """Which candidate, and whether a rule of last resort decided (it is counted in the metrics)."""

    def choose(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """Score and pick."""
        return self.pick(self.scores(state, candidates), key)

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything about it that is not an array: counts, numbers and short names, JSON-able."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Self:
        """A chooser as `about` describes it; its arrays have the right shapes and types only."""


CHOOSERS: dict[str, type[Chooser]] = {}
"""By their names in policies' files, but for OTPR's."""
