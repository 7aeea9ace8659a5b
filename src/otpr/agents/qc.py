"""Q-chunking: Q of whole chunks, maximised over samples of an imitating policy.

Source: Li, Zhou, Levine, "Reinforcement learning with action chunking", NeurIPS 2025, arXiv 2507.07969 (QC,
not QC-FQL). docs/algorithms/qc.md lists the differences.

The diffusion policy imitates all data and does not learn from rewards. The agent executes the sampled chunk
with the highest Q, and the targets of Q use the same choice in the next state.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import Actor, ActorConfig, Critics, CriticsConfig
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, count, share
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.policies.choosers import ByQ, QRule, candidate_values
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class QCConfig(CriticsConfig, ActorConfig):
    """Settings of the algorithm; docs/algorithms/qc.md gives the source of each."""

    algorithm: ClassVar[str] = "qc"

    # the paper's ratio is 1
    update_ratio: float = at_least_zero(0.2)
    # sampled chunks to choose from when acting
    candidates: int = count(32)
    # which of them is executed: the one of the "highest" Q (the paper), or the most "central" one of the half
    # with the highest Q
    rule: QRule = "highest"
    # sampled chunks to choose from in the next states of the critic's targets
    target_candidates: int = count(4)
    # share of demonstrations in every batch
    demonstration_share: float = share(0.5)


class QC(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor
    critics: Critics
    key: PRNGKeyArray
    config: QCConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: QCConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`."""
        critic_key, key = jax.random.split(key)
        critics = Critics.new(base, config, critic_key)
        return cls(actor=Actor.of(base, config), critics=critics, key=key, config=config)

    def deployed(self) -> Policy:
        """The policy that picks a sample by its Q, also during training."""
        chooser = ByQ(self.critics.q, "mean", self.config.rule)
        return self.actor.policy.choosing(chooser, self.config.candidates)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Demonstrated and replayed transitions."""
        return experience.sample_both(key, self.config.batch_size, self.config.demonstration_share)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One simultaneous gradient step of Q and, unless warming up, of the score network."""
        key, next_key, noise_key = jax.random.split(self.key, 3)
        policy = self.actor.policy

        def next_chunk(state: Array, key: PRNGKeyArray) -> Float[Array, " c"]:
            plans = policy.generator.propose(state, key, self.config.target_candidates)
            chunks = plans[:, policy.spec.executed].reshape(plans.shape[0], -1)
            return chunks[jnp.argmax(candidate_values(self.critics.q, state, chunks, "mean"))]

        keys = jax.random.split(next_key, batch.reward.shape[0])
        next_chunks = jax.vmap(next_chunk)(batch.next_state, keys)
        next_q = jnp.mean(self.critics.target(batch.next_state, next_chunks), axis=0)
        critics, metrics = self.critics.step(batch, next_q)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        actor, policy_metrics = self.actor.imitate(batch.state, batch.plan, noise_key)
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics


AGENT = QC
PRESETS = {"default": QCConfig()}
