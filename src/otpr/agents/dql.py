"""DQL (Diffusion-QL): a diffusion policy that imitates and maximises Q, with gradients through sampling.

Source: Wang, Hunt, Zhou, "Diffusion policies as an expressive policy class for offline reinforcement
learning", ICLR 2023, arXiv 2208.06193. docs/algorithms/dql.md lists the differences.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import Actor, ActorConfig, Critics, CriticsConfig, sample_chunks
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, count
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.networks.noise import NoiseNetwork
from otpr.policies.choosers import ByQ, QRule
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class DQLConfig(CriticsConfig, ActorConfig):
    """Settings of the algorithm; `PRESETS` has named ones."""

    algorithm: ClassVar[str] = "dql"

    # gradient steps for each environment step
    update_ratio: float = at_least_zero(0.15)
    # weight of -Q, as a share of |Q|, beside the score matching
    eta: float = at_least_zero(0.1)
    # sampled chunks among which the critics choose when deployed
    candidates: int = count(16)
    # which of them is executed: the one of the "highest" Q, or the most "central" one of the half with the
    # highest Q
    rule: QRule = "highest"

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if self.num_critics < 2:
            raise ValueError(
                f"num_critics must be at least 2 (one climbs, another scales), got {self.num_critics}."
            )


PRESETS: dict[str, DQLConfig] = {"default": DQLConfig()}


class DQL(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor  # the critics' targets sample from its moving average
    critics: Critics
    key: PRNGKeyArray
    config: DQLConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: DQLConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`."""
        critic_key, key = jax.random.split(key)
        critics = Critics.new(base, config, critic_key)
        return cls(actor=Actor.of(base, config), critics=critics, key=key, config=config)

    def deployed(self) -> Policy:
        """The policy that picks a candidate by its Q."""
        chooser = ByQ(self.critics.target, rule=self.config.rule)
        return self.actor.policy.choosing(chooser, self.config.candidates)

    def exploring(self) -> Policy:
        """The policy that draws a single sample."""
        return self.actor.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Demonstrated and replayed transitions."""
        return experience.sample_both(key, self.config.batch_size, self.config.demonstration_share)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of Q and its target and, unless warming up, of the score network."""
        key, next_key, policy_key = jax.random.split(self.key, 3)
        critics, metrics = self.critics.td_step(batch, self.actor.policy, next_key)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        actor, policy_metrics = self.actor.step(
            lambda network: agent._policy_loss(network, batch, policy_key)
        )
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics

    def _policy_loss(
        self, network: NoiseNetwork, data: Transitions, key: PRNGKeyArray
    ) -> tuple[Array, Metrics]:
        """Score matching, and -Q of the network's samples divided by the magnitude of another member's Q."""
        noise_key, sample_key, member_key = jax.random.split(key, 3)
        policy, diffusion = self.actor.policy, self.actor.policy.diffusion
        imitation = jnp.mean(diffusion.losses(network, data.state, data.plan, noise_key))
        learning = policy.with_generator(diffusion.with_network(network))
        # an encoder that learns from this loss gets gradients through the policy's state, not through Q's
        unmoved = jax.lax.stop_gradient(data.state)
        q = self.critics.q(unmoved, sample_chunks(learning, data.state, sample_key))
        q = jax.random.permutation(member_key, q)
        # an untrained critic must not cause a division by zero
        size = jnp.maximum(jnp.mean(jnp.abs(jax.lax.stop_gradient(q[1]))), 1e-3)
        climb = -jnp.mean(q[0]) / size
        metrics = {"policy/imitation_loss": imitation, "policy/q": jnp.mean(q)}
        return imitation + self.config.eta * climb, metrics


AGENT = DQL
