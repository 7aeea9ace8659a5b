"""How a policy chooses among several sampled chunks.

A chooser is a part of a policy (`otpr.policies.policy.Policy`). Its files have the same form as those of a
generator (`otpr.policies.generators`). OTPR's chooser is in `otpr.agents.otpr.compatibility`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.errors import OtprError
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
    rules: ClassVar[tuple[str, ...]] = ()
    """Names of the rules that its field `rule` may be, if it has several ways to pick a candidate."""

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

    def by(self, rule: str) -> Chooser:
        """The same chooser with another of its `rules`.

        Raises:
            OtprError: it has no such rule.
        """
        if rule not in self.rules:
            have = f"picks by {', '.join(self.rules)}" if self.rules else "has a single rule"
            raise OtprError(f"The policy cannot pick by the rule {rule!r}: its choice ({self.kind}) {have}.")
        return dataclasses.replace(self, rule=rule)  # pyright: ignore[reportCallIssue]

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


QRule = Literal["highest", "central"]
"""How a candidate is picked by Q: "highest" takes the one of the highest Q, "central" the medoid of the half
with the highest Q (`most_central`)."""


class ByQ(Chooser):
    """Picks a candidate by its Q. The choice is deterministic.

    Args:
        critic: the ensemble of Q networks.
        reduction: whether the minimum or the mean of the members' values counts.
        rule: see `QRule`.
    """

    critic: QEnsemble
    reduction: Reduction = eqx.field(static=True, default="minimum")
    rule: QRule = eqx.field(static=True, default="highest")
    kind: ClassVar[str] = "q"
    rules: ClassVar[tuple[str, ...]] = get_args(QRule)
    entries: ClassVar[Mapping[str, Entry]] = {"reduction": "name", "rule": "name"}

    def __check_init__(self):
        _check_name("reduction", self.reduction, get_args(Reduction))
        _check_name("rule", self.rule, self.rules)

    @property
    def chunk_dim(self) -> int:
        """See `Chooser.chunk_dim`."""
        return self.critic.action_dim

    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """Q of each candidate. The rule "central" has the candidates themselves as a second score."""
        where = (candidates,) if self.rule == "central" else ()
        return candidate_values(self.critic, state, candidates, self.reduction), *where

    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """The candidate that the rule picks, of several the first; the noise has no part in it."""
        q, *where = scores
        return (most_central(where[0], q) if where else jnp.argmax(q)), {}

    def about(self) -> dict[str, Any]:
        """Sizes of the critic, the reduction and the rule."""
        return {"critic": self.critic.about(), "reduction": self.reduction, "rule": self.rule}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> ByQ:
        """See `Chooser.skeleton`."""
        critic = QEnsemble(state_dim, chunk_dim, **about["critic"], key=key)
        return cls(critic, about["reduction"], about["rule"])


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


def most_central(candidates: Float[Array, "N a"], scores: Float[Array, " N"]) -> Int[Array, ""]:
    """The index of the medoid of the better half: of least sum of distances to the others.

    Args:
        candidates: flattened chunks.
        scores: the half with the highest ones counts, the larger half of an odd number; -infinity is no
            candidate.
    """
    drawn = jnp.isfinite(scores)
    above = jnp.sum(scores[None] > scores[:, None], axis=1)
    better = drawn & (2 * above < jnp.sum(drawn))
    # what does not count may be infinite as well
    there = jnp.where(better[:, None], candidates, 0.0)
    distances = jnp.linalg.norm(there[:, None] - there[None], axis=-1)
    # as floats, because ONNX has no product with truth values
    return jnp.argmin(jnp.where(better, distances @ better.astype(distances.dtype), jnp.inf))


def _check_name(called: str, given: str, names: tuple[str, ...]) -> None:
    if given not in names:
        raise ValueError(f"{called} must be one of {names}, got {given!r}.")


CHOOSERS: dict[str, type[Chooser]] = {kind.kind: kind for kind in (ByQ, ExpectileWeights)}
"""Choosers by their names in policy files, except OTPR's."""
