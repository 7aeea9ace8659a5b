"""Q-chunking: Q of whole chunks, maximised over samples of a policy that imitates.

Source: Li, Zhou, Levine, "Reinforcement learning with action chunking", NeurIPS 2025, arXiv 2507.07969 (QC,
not QC-FQL). docs/algorithms/qc.md lists what differs here.

The diffusion policy imitates everything seen so far, and never learns from rewards. Of several of its chunks
the one of the highest Q is executed, and the targets of Q are made of the same choice in the next state.
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
from otpr.agents.parts.td import CriticsConfig, TDCritics, critic_step, new_td_critics
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import denoising_losses
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.choosers import HighestQ
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class QCConfig(CriticsConfig, DiffusionPolicyConfig):
    """Settings of the algorithm; docs/algorithms/qc.md says where each comes from."""

    algorithm: ClassVar[str] = "qc"

    # the paper's ratio is 1
    update_ratio: float = 0.2
    # sampled chunks to choose from when acting
    candidates: int = 32
    # and in the next states of the critic's targets
    target_candidates: int = 4
    # share of demonstrations in every batch
    demonstration_share: float = 0.5


class QC(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`, without a chooser
    critic: QEnsemble
    target_critic: QEnsemble
    policy_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray
    config: QCConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: QCConfig, key: PRNGKeyArray) -> QC:
        """See `Agent.create`; of the keypoints, the dimensions alone are used."""
        critic_key, key = jax.random.split(key)
        critics = new_td_critics(keypoints, config, critic_key)
        trained = new_trained_policy(base, optax.adam(config.policy_learning_rate))
        return cls(**trained._asdict(), **critics._asdict(), key=key, config=config)

    def deployed(self) -> Policy:
        """The best of several samples, in training too."""
        chooser = HighestQ(self.critic, "mean")
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrated and replayed transitions."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[QC, dict[str, Array]]:
        """One gradient step of Q and (unless warming up) of the score network, from where both stand."""
        key, next_key, noise_key = jax.random.split(self.key, 3)
        c, data = self.config, batch.data
        states, next_states = (self.policy.normalizer(x) for x in (data.observation, data.next_observation))
        chooser = HighestQ(self.critic, "mean")

        def next_chunk(state: Array, key: PRNGKeyArray) -> Array:
            candidates = self.policy.propose(state, key, c.target_candidates)
            return candidates[chooser.choose(state, candidates, key)[0]]

        next_chunks = jax.vmap(next_chunk)(next_states, jax.random.split(next_key, c.batch_size))
        next_q = jnp.mean(self.target_critic(next_states, next_chunks), axis=0)
        critics = TDCritics(self.critic, self.target_critic, self.critic_state)
        critics, metrics = critic_step(critics, data, states, next_q, c)
        agent = dataclasses.replace(self, key=key, **critics._asdict())
        if not update_policy:
            return agent, metrics
        schedule = self.policy.diffusion.schedule

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            return jnp.mean(denoising_losses(network, schedule, states, data.chunk, noise_key)), {}

        trained, policy_metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        return dataclasses.replace(agent, **trained._asdict()), metrics | policy_metrics


AGENT = QC
PRESETS = {"default": QCConfig()}
