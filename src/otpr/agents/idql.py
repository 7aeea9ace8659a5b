"""IDQL: implicit Q-learning with a diffusion policy that is asked several times.

Source: Hansen-Estruch, Kostrikov, Janner, Kuba, Levine, "IDQL: Implicit Q-learning as an actor-critic method
with diffusion policies", arXiv 2304.10573. docs/algorithms/idql.md lists what differs here.

The critics learn as in IQL. The diffusion policy imitates whatever was done, good or bad: the demonstrations
and the replay. The critics come in when acting alone: of several sampled chunks, one is drawn by the weights
of the policy that V implicitly stands for (exploring), or the one of the highest Q is taken (deployed).
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
from otpr.agents.parts.iql import IQLCritics, iql_step, new_iql_critics
from otpr.agents.parts.td import CriticsConfig
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import denoising_losses
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.choosers import ExpectileWeights, HighestQ
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class IDQLConfig(CriticsConfig, DiffusionPolicyConfig):
    """Settings of the algorithm; `PRESETS` names some."""

    algorithm: ClassVar[str] = "idql"

    # gradient steps for each environment step
    update_ratio: float = 0.5
    # tau, of the value function's regression on Q and of the weights when exploring
    expectile: float = 0.7
    # sampled chunks among which the critics choose when acting
    candidates: int = 16
    # share of demonstrations in every batch
    demonstration_share: float = 0.5

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie in (0, 1), got {self.expectile}.")


PRESETS: dict[str, IDQLConfig] = {"default": IDQLConfig()}


class IDQL(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`, without a chooser
    critic: QEnsemble
    target_critic: QEnsemble
    value: eqx.nn.MLP
    policy_state: optax.OptState
    critic_state: optax.OptState
    value_state: optax.OptState
    key: PRNGKeyArray
    config: IDQLConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: IDQLConfig, key: PRNGKeyArray) -> IDQL:
        """See `Agent.create`; of the keypoints, the dimensions alone are used."""
        critic_key, key = jax.random.split(key)
        critics = new_iql_critics(keypoints, config, critic_key)
        trained = new_trained_policy(base, optax.adam(config.policy_learning_rate))
        return cls(**trained._asdict(), **critics._asdict(), key=key, config=config)

    def deployed(self) -> Policy:
        """The candidate of the highest Q: the paper's greedy evaluation."""
        chooser = HighestQ(self.target_critic)
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def exploring(self) -> Policy:
        """A candidate drawn by the weights of the implicit policy (section 4.1)."""
        chooser = ExpectileWeights(self.target_critic, self.value, self.config.expectile)
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrated and replayed transitions."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[IDQL, dict[str, Array]]:
        """One gradient step of V, Q and their targets, and (unless warming up) of the score network."""
        c = self.config
        key, noise_key = jax.random.split(self.key)
        critics, metrics = iql_step(
            IQLCritics(self.critic, self.target_critic, self.critic_state, self.value, self.value_state),
            batch.data,
            self.policy.normalizer,
            c,
            expectile=c.expectile,
        )
        agent = dataclasses.replace(self, key=key, **critics._asdict())
        if not update_policy:
            return agent, metrics
        states = self.policy.normalizer(batch.data.observation)
        schedule = self.policy.diffusion.schedule

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            return jnp.mean(denoising_losses(network, schedule, states, batch.data.chunk, noise_key)), {}

        trained, policy_metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        return dataclasses.replace(agent, **trained._asdict()), metrics | policy_metrics


AGENT = IDQL
