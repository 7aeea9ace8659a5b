"""QSM: Q-score matching, a diffusion policy whose score is regressed onto the gradient of Q.

Source: Psenka, Escontrela, Abbeel, Ma, "Learning a diffusion model policy from rewards via Q-score matching",
ICML 2024, arXiv 2312.11752. docs/algorithms/qsm.md lists the differences.
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
from otpr.agents.parts.settings import at_least_zero, positive
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.diffusion.matching import noised
from otpr.networks.noise import NoiseNetwork
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class QSMConfig(CriticsConfig, ActorConfig):
    """Settings of the algorithm; `PRESETS` has named ones."""

    algorithm: ClassVar[str] = "qsm"

    # gradient steps for each environment step
    update_ratio: float = at_least_zero(0.5)
    # alpha: the score that is learnt is alpha times the gradient of Q
    q_gradient_scale: float = positive(50.0)


PRESETS: dict[str, QSMConfig] = {"default": QSMConfig()}


class QSM(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor  # the critics' targets sample from its moving average
    critics: Critics
    key: PRNGKeyArray
    config: QSMConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: QSMConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`."""
        critic_key, key = jax.random.split(key)
        critics = Critics.new(base, config, critic_key)
        return cls(actor=Actor.of(base, config), critics=critics, key=key, config=config)

    def deployed(self) -> Policy:
        """A single sample, because Q already shapes the score."""
        return self.actor.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Demonstrated and replayed transitions."""
        return experience.sample_both(key, self.config.batch_size, self.config.demonstration_share)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of Q and its target and, unless warming up, of the score network."""
        key, next_key, noise_key = jax.random.split(self.key, 3)
        critics, metrics = self.critics.td_step(batch, self.actor.policy, next_key)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        actor, policy_metrics = self.actor.step(lambda network: agent._policy_loss(network, batch, noise_key))
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics

    def _policy_loss(
        self, network: NoiseNetwork, data: Transitions, key: PRNGKeyArray
    ) -> tuple[Array, Metrics]:
        """Squared distance between the score and the gradient of Q, at noisy plans of all levels."""
        diffusion, executed = self.actor.policy.diffusion, self.actor.policy.spec.executed
        noisy, k, _ = noised(diffusion.schedule, diffusion.scaled(data.plan), key)

        def mean_q(plans: Float[Array, "n h a"]) -> Float[Array, ""]:
            chunks = diffusion.unscaled(plans)[:, executed].reshape(plans.shape[0], -1)
            return jnp.sum(jnp.mean(self.critics.q(data.state, chunks), axis=0))

        score = jax.lax.stop_gradient(self.config.q_gradient_scale * jax.grad(mean_q)(noisy))
        output = jax.vmap(network)(diffusion.seen(data.state), noisy, k)
        predicted = jax.vmap(diffusion.noise_in)(output, noisy, k)
        # the predicted noise is the negative score in units of the noise level
        metrics = {"policy/q_score": jnp.sqrt(jnp.mean(score**2))}
        return jnp.mean((-predicted - score) ** 2), metrics


AGENT = QSM
