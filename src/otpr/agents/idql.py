"""IDQL: implicit Q-learning with a choice among several samples of a diffusion policy.

Source: Hansen-Estruch, Kostrikov, Janner, Kuba, Levine, "IDQL: Implicit Q-learning as an actor-critic method
with diffusion policies", arXiv 2304.10573. docs/algorithms/idql.md lists the differences.

The critics learn as in IQL. The diffusion policy imitates demonstrations and replay, regardless of their
quality. The critics only affect the choice among several sampled chunks: exploration draws one by the weights
of V's implicit policy, and the deployed policy takes the one with the highest Q, or by another `rule`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import Actor, ActorConfig, CriticsConfig, ImplicitCritics
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, between, count, share
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.policies.choosers import ByQ, ExpectileWeights, QRule
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class IDQLConfig(CriticsConfig, ActorConfig):
    """Settings of the algorithm; `PRESETS` has named ones."""

    algorithm: ClassVar[str] = "idql"
    only_chooses: ClassVar[bool] = True

    # gradient steps for each environment step
    update_ratio: float = at_least_zero(0.5)
    # tau, of the value function's regression on Q and of the weights when exploring
    expectile: float = between(0.7)
    # sampled chunks among which the critics choose when acting
    candidates: int = count(16)
    # which of them is executed: the one of the "highest" Q (the paper), or the most "central" one of the half
    # with the highest Q
    rule: QRule = "highest"
    # share of demonstrations in every batch
    demonstration_share: float = share(0.5)


PRESETS: dict[str, IDQLConfig] = {"default": IDQLConfig()}


class IDQL(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor
    critics: ImplicitCritics
    key: PRNGKeyArray
    config: IDQLConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss", "critic/value_loss")
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: IDQLConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`."""
        critic_key, key = jax.random.split(key)
        critics = ImplicitCritics.new(base, config, config.expectile, critic_key)
        return cls(actor=Actor.of(base, config), critics=critics, key=key, config=config)

    def deployed(self) -> Policy:
        """The policy that picks a candidate by its Q; with the highest, the paper's greedy evaluation."""
        chooser = ByQ(self.critics.target, rule=self.config.rule)
        return self.actor.policy.choosing(chooser, self.config.candidates)

    def exploring(self) -> Policy:
        """The policy that draws a candidate by the weights of the implicit policy (section 4.1)."""
        chooser = ExpectileWeights(self.critics.target, self.critics.value, self.config.expectile)
        return self.actor.policy.choosing(chooser, self.config.candidates)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Demonstrated and replayed transitions."""
        return experience.sample_both(key, self.config.batch_size, self.config.demonstration_share)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of V, Q and their targets and, unless warming up, of the score network."""
        key, noise_key = jax.random.split(self.key)
        critics, metrics = self.critics.step(batch)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        actor, policy_metrics = self.actor.imitate(batch.state, batch.plan, noise_key)
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics


AGENT = IDQL
