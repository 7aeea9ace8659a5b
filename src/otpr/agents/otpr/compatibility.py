"""The transport cost of a critic, the compatibility H(s, a), and the choice among candidates by H.

`TransportCost.mix` turns Q into the cost both for training potentials (all pairs of a block) and for
evaluating H (candidate actions, replayed pairs), so that both use the same cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.networks.critics import QEnsemble
from otpr.ot import Potentials, guiding_cost, relation
from otpr.policies.choosers import Chooser, Metrics, most_central
from otpr.policies.generators import Entry


class TransportCost(eqx.Module):
    """c(s, a) = (1 - alpha) * (V(s) - min_i Q_i(s, a)) / scale + alpha * g(s, a).

    Subtracting V does not change the plan, because u absorbs any function of s, and u does not have to learn
    V. `scale` is the standard deviation of Q over the replay, which makes epsilon independent of the reward's
    scale. g is the keypoint-guiding cost. States are normalised observations, actions are flattened chunks.
    """

    critic: QEnsemble
    value: eqx.nn.MLP
    scale: Float[Array, ""]
    keypoint_states: Float[Array, "k s"]
    keypoint_actions: Float[Array, "k a"]
    alpha: float = eqx.field(static=True)
    temperature: float = eqx.field(static=True)

    def mix(self, q: Array, value: Array, guide: Array) -> Array:
        """The cost from Q, V and the guiding cost, elementwise."""
        return (1 - self.alpha) * (value - q) / self.scale + self.alpha * guide

    def _relations(self, states: Array, actions: Array) -> tuple[Array, Array]:
        return (
            relation(states, self.keypoint_states, self.temperature),
            relation(actions, self.keypoint_actions, self.temperature),
        )

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """Cost of each pair (s_i, a_i)."""
        q = self.critic.minimum(states, actions)
        value = jax.vmap(self.value)(states)
        guide = jnp.zeros_like(q)
        if self.alpha > 0:
            by_state, by_action = self._relations(states, actions)

            def of_pair(s: Float[Array, " k"], a: Float[Array, " k"]) -> Float[Array, ""]:
                return guiding_cost(s[None], a[None])[0, 0]

            guide = jax.vmap(of_pair)(by_state, by_action)
        return self.mix(q, value, guide)

    def pairwise(self, states: Float[Array, "n s"], actions: Float[Array, "m a"]) -> Float[Array, "n m"]:
        """Cost of every pair (s_i, a_j)."""
        q = self.critic.pairwise_minimum(states, actions)
        return self.mix(q, jax.vmap(self.value)(states)[:, None], self.pairwise_guide(states, actions))

    def pairwise_guide(
        self, states: Float[Array, "n s"], actions: Float[Array, "m a"]
    ) -> Float[Array, "n m"]:
        """The guiding cost g of every pair (s_i, a_j); zeros if alpha is 0."""
        if self.alpha == 0:
            return jnp.zeros((states.shape[0], actions.shape[0]))
        return guiding_cost(*self._relations(states, actions))


Rule = Literal["draw", "highest", "central"]
"""How a candidate is picked by H: "draw" draws one with probability proportional to H (the paper), "highest"
takes the one of the highest H, and "central" the medoid of the half with the highest H (`most_central`),
because the highest of several estimates is often an outlier that is overestimated."""

ZERO = "otpr/zero_compatibility"
"""Name of the metric: whether every candidate's H was zero."""


class Compatibility(Chooser):
    """H(s, a) = (u(s) + v(a) - c(s, a))_+ / (2 epsilon), and the choice among candidate actions by H.

    A candidate is picked by its rule, see `Rule`. If every H is zero, the excess u + v - c takes its place:
    the larger it is, the smaller the growth of u(s) that would make the candidate compatible. Before the
    potentials are trained, IDQL's rule is used: weight 0.7 where Q > V, 0.3 elsewhere (Hansen-Estruch et al.,
    2023, with expectile 0.7).
    """

    cost: TransportCost
    potentials: Potentials
    trained: Bool[Array, ""]  # False until the potentials are trained
    epsilon: float = eqx.field(static=True)
    rule: Rule = eqx.field(static=True, default="draw")
    kind: ClassVar[str] = "otpr/compatibility"
    rules: ClassVar[tuple[str, ...]] = get_args(Rule)
    entries: ClassVar[Mapping[str, Entry]] = {
        "alpha": "number",
        "temperature": "number",
        "epsilon": "number",
        "rule": "name",
    }

    def __check_init__(self):
        if self.rule not in self.rules:
            raise ValueError(f"rule must be one of {self.rules}, got {self.rule!r}.")

    @property
    def chunk_dim(self) -> int:
        """See `Chooser.chunk_dim`."""
        return self.cost.critic.action_dim

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """H of each pair (s_i, a_i)."""
        excess = self.potentials.u(states) + self.potentials.v(actions) - self.cost(states, actions)
        return jnp.maximum(excess, 0.0) / (2 * self.epsilon)

    def pairwise(
        self,
        states: Float[Array, "n s"],
        actions: Float[Array, "m a"],
        mask: Bool[Array, "n m"] | None = None,
    ) -> Float[Array, "n m"]:
        """H of every pair (s_i, a_j), 0 outside the mask."""
        cost = self.cost.pairwise(states, actions)
        return self.potentials.compatibility(states, actions, cost, self.epsilon, mask)

    def scores(
        self, state: Float[Array, " s"], candidates: Float[Array, "N a"]
    ) -> tuple[Float[Array, "N ..."], ...]:
        """The excess u + v - c (-infinity before training) and the logarithms of IDQL's weights.

        The rule "central" has the candidates themselves as a third score.
        """
        # u, V and the critics' part of the state are computed once for all candidates
        states = state[None]
        q = self.cost.critic.pairwise_minimum(states, candidates)
        value = self.cost.value(state)
        cost = self.cost.mix(q, value, self.cost.pairwise_guide(states, candidates))[0]
        excess = self.potentials.u(states) + self.potentials.v(candidates) - cost
        idql = jnp.where(q[0] > value, 0.7, 0.3)
        where = (candidates,) if self.rule == "central" else ()
        return jnp.where(self.trained, excess, -jnp.inf), jnp.log(idql), *where

    def pick_by(
        self, scores: tuple[Float[Array, "N ..."], ...], gumbel: Float[Array, " N"]
    ) -> tuple[Int[Array, ""], Metrics]:
        """The index of the candidate that the rule picks; and whether every H was zero."""
        excess, by_idql, *where = scores
        none = self.trained & (jnp.max(excess) <= 0)
        by_H = jnp.log(jnp.maximum(excess, 0.0))
        row = jnp.argmax(jnp.where(self.trained, by_H, by_idql) + gumbel)
        best = most_central(where[0], excess) if where else jnp.argmax(excess)
        takes_best = none | (self.trained & (self.rule != "draw"))
        return jnp.where(takes_best, best, row), {ZERO: none.astype(jnp.float32)}

    def about(self) -> dict[str, Any]:
        """The sizes of the networks, and the settings."""
        cost = self.cost
        return {
            "critic": cost.critic.about(),
            "value": {"width_size": cost.value.width_size, "depth": cost.value.depth},
            "potentials": {
                "width": self.potentials.state_network.width_size,
                "depth": self.potentials.state_network.depth,
            },
            "keypoints": cost.keypoint_states.shape[0],
            "alpha": cost.alpha,
            "temperature": cost.temperature,
            "epsilon": self.epsilon,
            "rule": self.rule,
        }

    @classmethod
    def skeleton(
        cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray
    ) -> Compatibility:
        """See `Chooser.skeleton`."""
        cost = TransportCost(
            critic=QEnsemble(state_dim, chunk_dim, **about["critic"], key=key),
            value=eqx.nn.MLP(state_dim, "scalar", activation=jax.nn.relu, **about["value"], key=key),
            scale=jnp.asarray(1.0),
            keypoint_states=jnp.zeros((about["keypoints"], state_dim)),
            keypoint_actions=jnp.zeros((about["keypoints"], chunk_dim)),
            alpha=about["alpha"],
            temperature=about["temperature"],
        )
        potentials = Potentials(state_dim, chunk_dim, **about["potentials"], key=key)
        return cls(cost, potentials, jnp.asarray(False), about["epsilon"], about["rule"])
