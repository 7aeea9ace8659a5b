"""QSM: Q-score matching, a diffusion policy whose score is regressed onto the gradient of Q.

Source: Psenka, Escontrela, Abbeel, Ma, "Learning a diffusion model policy from rewards via Q-score matching",
ICML 2024, arXiv 2312.11752. docs/algorithms/qsm.md lists what differs here.
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
from otpr.agents.parts.td import CriticsConfig, TDCritics, new_td_critics, td_step
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class QSMConfig(CriticsConfig, DiffusionPolicyConfig):
    """Settings of the algorithm; `PRESETS` names some."""

    algorithm: ClassVar[str] = "qsm"

    # gradient steps for each environment step
    update_ratio: float = 0.5
    # alpha: the score that is learnt is alpha times the gradient of Q
    q_gradient_scale: float = 50.0

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 < self.q_gradient_scale < float("inf"):
            raise ValueError(f"q_gradient_scale must be a positive number, got {self.q_gradient_scale}.")


PRESETS: dict[str, QSMConfig] = {"default": QSMConfig()}


class QSM(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`; targets sample from it
    critic: QEnsemble
    target_critic: QEnsemble
    policy_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray
    config: QSMConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: QSMConfig, key: PRNGKeyArray) -> QSM:
        """See `Agent.create`; of the keypoints, the dimensions alone are used."""
        critic_key, key = jax.random.split(key)
        critics = new_td_critics(keypoints, config, critic_key)
        trained = new_trained_policy(base, optax.adam(config.policy_learning_rate))
        return cls(**trained._asdict(), **critics._asdict(), key=key, config=config)

    def deployed(self) -> Policy:
        """One sample: Q has gone into the score."""
        return self.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrated and replayed transitions."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[QSM, dict[str, Array]]:
        """One gradient step of Q and its target, and (unless warming up) of the score network."""
        c = self.config
        key, next_key, noise_key = jax.random.split(self.key, 3)
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
        states = self.policy.normalizer(batch.data.observation)
        noisy, k = self._noisy(batch.data.chunk, noise_key)

        def mean_q(chunks: Float[Array, "n a"]) -> Float[Array, ""]:
            return jnp.sum(jnp.mean(agent.critic(states, chunks), axis=0))

        score = c.q_gradient_scale * jax.grad(mean_q)(noisy)

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            # the noise that the network predicts is minus the score, in units of the noise level
            predicted = jax.vmap(network)(states, noisy, k)
            metrics = {"policy/q_score": jnp.sqrt(jnp.mean(score**2))}
            return jnp.mean((-predicted - score) ** 2), metrics

        trained, policy_metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        return dataclasses.replace(agent, **trained._asdict()), metrics | policy_metrics

    def _noisy(self, chunks: Float[Array, "n a"], key: PRNGKeyArray) -> tuple[Float[Array, "n a"], Array]:
        """Chunks as the sampler meets them, each at a random noise level; and the levels."""
        level_key, noise_key = jax.random.split(key)
        schedule = self.policy.diffusion.schedule
        k = jax.random.randint(level_key, (chunks.shape[0],), 0, schedule.steps)
        noise = jax.random.normal(noise_key, chunks.shape)
        return schedule.signal(k)[:, None] * chunks + schedule.sigma(k)[:, None] * noise, k


AGENT = QSM
