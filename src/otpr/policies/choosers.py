"""How a policy chooses among several sampled chunks.

A chooser is a part of a policy (`otpr.policies.policy.Policy`). Its files have the same form as those of a
generator (`otpr.policies.generators`). OTPR's chooser is in `otpr.agents.otpr.compatibility`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.networks.critics import QEnsemble
from otpr.policies.generators import Entry

Metrics = dict[str, Float[Array, ""]]
"""Metrics of a choice by name; they are averaged over the decisions of a rollout."""


class Chooser(eqx.Module):
    """Scores the candidate chunks of a state and picks one of them.

    A chunk is the executed part of a plan, flattened. Scoring and picking are separate steps, so that
    candidates can be scored in slices (`otpr.policies.acting`).
    """

    kind: ClassVar[str]
    """The chooser's name in a policy's file."""
    entries: ClassVar[Mapping[str, Entry]] = {}
    """The types of entries of `about` by name, at any depth; all other entries are counts."""

    @property
    @abc.abstractmethod
    def chunk_dim(self) -> int:
        """Length of the chunks that the chooser scores."""

    @abc.abstractmethod
    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """One or more scores for each candidate. A candidate with scores of -infinity is never picked."""

    def pick(
        self, scores: tuple[Float[Array, "N ..."], ...], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Metrics]:
        """The index of the picked candidate, and the metrics of the choice, the same at every call."""
        return self.pick_by(scores, jax.random.gumbel(key, scores[0].shape))

    @abc.abstractmethod
    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """`pick` with given noise from the standard Gumbel distribution.

        The largest of log(w_i) + gumbel_i is i with probability proportional to w_i.
        """

    def choose(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Metrics]:
        """Score the candidates and pick one."""
        return self.pick(self.scores(state, candidates), key)

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything except arrays as a JSON document of counts, numbers and short names."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Chooser:
        """A chooser of the structure that `about` describes. Only shapes and types of arrays are valid."""


Reduction = Literal["minimum", "mean"]
"""How the values of the ensemble's members are reduced to one."""


def candidate_values(
    critic: QEnsemble, state: Float[Array, " s"], candidates: Float[Array, "N a"], reduction: Reduction
) -> Float[Array, " N"]:
    """Q of each candidate of one state. The state's part of the first layers is computed once."""
    q = jnp.stack(
        [
            member.from_parts(member.state_part(state[None]) + member.action_part(candidates))
            for member in critic.unstacked
        ]
    )
    return jnp.min(q, axis=0) if reduction == "minimum" else jnp.mean(q, axis=0)


class HighestQ(Chooser):
    """Picks the candidate with the highest Q.

    Args:
        critic: the ensemble of Q networks.
        reduction: whether the minimum or the mean of the members' values counts.
    """

    critic: QEnsemble
    reduction: Reduction = eqx.field(static=True, default="minimum")
    kind: ClassVar[str] = "highest-q"
    entries: ClassVar[Mapping[str, Entry]] = {"reduction": "name"}

    def __check_init__(self):
        _check_reduction(self.reduction)

    @property
    def chunk_dim(self) -> int:
        """See `Chooser.chunk_dim`."""
        return self.critic.action_dim

    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """Q of each candidate."""
        return (candidate_values(self.critic, state, candidates, self.reduction),)

    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """The first candidate with the highest Q. The choice is deterministic."""
        return jnp.argmax(scores[0]), {}

    def about(self) -> dict[str, Any]:
        """Sizes of the critic, and the reduction."""
        return {"critic": self.critic.about(), "reduction": self.reduction}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> HighestQ:
        """See `Chooser.skeleton`."""
        return cls(QEnsemble(state_dim, chunk_dim, **about["critic"], key=key), about["reduction"])


class ExpectileWeights(Chooser):
    """Draws a candidate with the weight |tau - 1(Q < V)|: tau where Q is at least V, 1 - tau elsewhere.

    These are the weights of the implicit policy that corresponds to V by expectile regression (Hansen-Estruch
    et al., IDQL, 2023, section 4.1).

    Args:
        critic: the ensemble of Q networks, of which the minimum counts.
        value: V of a normalised observation.
        expectile: tau, in (0, 1).
    """

    critic: QEnsemble
    value: eqx.nn.MLP
    expectile: float = eqx.field(static=True)
    kind: ClassVar[str] = "expectile-weights"
    entries: ClassVar[Mapping[str, Entry]] = {"expectile": "number"}

    def __check_init__(self):
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie in (0, 1), got {self.expectile}.")

    @property
    def chunk_dim(self) -> int:
        """See `Chooser.chunk_dim`."""
        return self.critic.action_dim

    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """Logarithms of the weights."""
        q = candidate_values(self.critic, state, candidates, "minimum")
        return (jnp.log(jnp.where(q < self.value(state), 1 - self.expectile, self.expectile)),)

    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """A candidate drawn with probability proportional to its weight."""
        return jnp.argmax(scores[0] + gumbel), {}

    def about(self) -> dict[str, Any]:
        """Sizes of the networks, and the expectile."""
        return {
            "critic": self.critic.about(),
            "value": {"width_size": self.value.width_size, "depth": self.value.depth},
            "expectile": self.expectile,
        }

    @classmethod
    def skeleton(
        cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray
    ) -> ExpectileWeights:
        """See `Chooser.skeleton`."""
        return cls(
            QEnsemble(state_dim, chunk_dim, **about["critic"], key=key),
            eqx.nn.MLP(state_dim, "scalar", activation=jax.nn.relu, **about["value"], key=key),
            about["expectile"],
        )


def _check_reduction(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}.")


CHOOSERS: dict[str, type[Chooser]] = {kind.kind: kind for kind in (HighestQ, ExpectileWeights)}
"""Choosers by their names in policy files, except OTPR's."""
