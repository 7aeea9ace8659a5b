"""DQL: Diffusion-QL, a diffusion policy that imitates and climbs Q, the gradient taken through its sampling.

Source: Wang, Hunt, Zhou, "Diffusion policies as an expressive policy class for offline reinforcement
learning", ICLR 2023, arXiv 2208.06193. docs/algorithms/dql.md lists what differs here.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.agent import Agent, Batch
from otpr.agents.parts.diffusion_policy import (
    DiffusionPolicyConfig,
    TrainedPolicy,
    new_trained_policy,
    policy_step,
)
from otpr.agents.parts.td import CriticsConfig, TDCritics, new_td_critics, sample_chunks, td_step
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import denoising_losses
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.choosers import HighestQ
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class DQLConfig(CriticsConfig, DiffusionPolicyConfig):
    """Settings of the algorithm; `PRESETS` names some."""

    algorithm: ClassVar[str] = "dql"

    # gradient steps for each environment step
    update_ratio: float = 0.15
    # weight of -Q, as a share of |Q|, beside the score matching
    eta: float = 0.1
    # sampled chunks of which the deployed policy takes the one of the highest Q
    candidates: int = 16

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be a number >= 0, got {self.eta}.")
        if self.num_critics < 2:
            raise ValueError(
                f"num_critics must be at least 2 (one climbs, another scales), got {self.num_critics}."
            )


PRESETS: dict[str, DQLConfig] = {"default": DQLConfig()}


class DQL(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`, without a chooser; targets sample from it
    critic: QEnsemble
    target_critic: QEnsemble
    policy_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray
    config: DQLConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: DQLConfig, key: PRNGKeyArray) -> DQL:
        """See `Agent.create`; of the keypoints, the dimensions alone are used."""
        critic_key, key = jax.random.split(key)
        critics = new_td_critics(keypoints, config, critic_key)
        trained = new_trained_policy(base, optax.adam(config.policy_learning_rate))
        return cls(**trained._asdict(), **critics._asdict(), key=key, config=config)

    def deployed(self) -> Policy:
        """The candidate of the highest Q."""
        chooser = HighestQ(self.target_critic)
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def exploring(self) -> Policy:
        """One sample."""
        return self.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrated and replayed transitions."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[DQL, dict[str, Array]]:
        """One gradient step of Q and its target, and (unless warming up) of the score network."""
        c = self.config
        key, next_key, policy_key = jax.random.split(self.key, 3)
        critics, metrics = td_step(
            TDCritics(self.critic, self.target_critic, self.critic_state),
            batch.data,
            self.policy,
            next_key,
            c,
        )
        agent = dataclasses.replace(self, key=key, **critics._asdict())
        if not update_policy:
            return agent, metrics
        trained, policy_metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            lambda network: agent._policy_loss(network, batch.data, policy_key),
        )
        return dataclasses.replace(agent, **trained._asdict()), metrics | policy_metrics

    def _policy_loss(
        self, network: NoiseNetwork, data: Transitions, key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        """Score matching, and -Q of the network's own samples over the size of another member's Q."""
        noise_key, sample_key, member_key = jax.random.split(key, 3)
        states, diffusion = self.policy.normalizer(data.observation), self.policy.diffusion
        imitation = jnp.mean(denoising_losses(network, diffusion.schedule, states, data.chunk, noise_key))
        learning = dataclasses.replace(self.policy, generator=diffusion.with_network(network))
        q = self.critic(states, sample_chunks(learning, states, sample_key))
        q = jax.random.permutation(member_key, q)
        # a critic that knows nothing yet must not divide by zero
        size = jnp.maximum(jnp.mean(jnp.abs(jax.lax.stop_gradient(q[1]))), 1e-3)
        climb = -jnp.mean(q[0]) / size
        metrics = {"policy/imitation_loss": imitation, "policy/q": jnp.mean(q)}
        return imitation + self.config.eta * climb, metrics


AGENT = DQL
