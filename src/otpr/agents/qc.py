"""Q-chunking: Q of whole chunks, maximised over samples of a flow that imitates.

Source: Li, Zhou, Levine, "Reinforcement learning with action chunking", NeurIPS 2025, arXiv 2507.07969 (QC,
not QC-FQL). docs/algorithms/qc.md lists what differs here.

A flow imitates everything seen so far, and never learns from rewards. Of several of its chunks the one of
the highest Q is executed, and the targets of Q are made of the same choice in the next state.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.agent import Agent, Batch
from otpr.agents.parts.regression import CriticsConfig, q_target, regression_step
from otpr.agents.parts.steps import gradient_step
from otpr.choosers import HighestQ
from otpr.critics import QEnsemble
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion.flow import VelocityNetwork, flow_losses
from otpr.generators import Flow
from otpr.policy import Policy


@dataclasses.dataclass(frozen=True)
class QCConfig(CriticsConfig):
    """Settings of the algorithm; docs/algorithms/qc.md says where each comes from."""

    algorithm: ClassVar[str] = "qc"

    # everything is learnt from the demonstrations first
    offline_updates: int = 4_000
    # the paper's ratio is 1
    update_ratio: float = 0.2
    # critic and flow are never updated apart
    warmup_updates: int = 0
    # sampled chunks to choose from when acting
    candidates: int = 32
    # and in the next states of the critic's targets
    target_candidates: int = 4
    # Euler steps of the flow
    flow_steps: int = 10


class QC(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    policy: Policy  # its generator is the flow
    critic: QEnsemble
    target_critic: QEnsemble
    flow_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray
    config: QCConfig = eqx.field(static=True)
    starts_from_base: ClassVar[bool] = False

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: QCConfig, key: PRNGKeyArray) -> QC:
        """An agent that knows nothing; of `base` it takes normalisation, chunks and the network's size."""
        c = config
        state_dim, chunk_dim = keypoints.observation.shape[1], keypoints.chunk.shape[1]
        critic_key, flow_key, key = jax.random.split(key, 3)
        sizes = {"width": c.critic_width, "depth": c.critic_depth}
        critic = QEnsemble(state_dim, chunk_dim, size=c.num_critics, **sizes, key=critic_key)
        mlp = base.diffusion.network.mlp
        sizes = {"width": mlp.width_size, "depth": mlp.depth}
        flow = Flow(VelocityNetwork(state_dim, chunk_dim, **sizes, key=flow_key), c.flow_steps)
        adam = optax.adam(c.learning_rate)
        return cls(
            policy=dataclasses.replace(base.single(), generator=flow),
            critic=critic,
            target_critic=critic,
            flow_state=adam.init(eqx.filter(flow, eqx.is_array)),
            critic_state=adam.init(eqx.filter(critic, eqx.is_array)),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """The best of several samples of the flow."""
        chooser = HighestQ(self.critic, "mean")
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrations and replay together, each transition as likely as any other."""
        return Batch(experience.sample_all(key, self.config.batch_size))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[QC, dict[str, Array]]:
        """One gradient step of Q and of the flow, both taken from where they stand."""
        key, next_key, flow_key = jax.random.split(self.key, 3)
        c, data = self.config, batch.data
        states, next_states = (self.policy.normalizer(x) for x in (data.observation, data.next_observation))
        chooser = HighestQ(self.critic, "mean")

        def next_chunk(state: Array, key: PRNGKeyArray) -> Array:
            candidates = self.policy.propose(state, key, c.target_candidates)
            return candidates[chooser.choose(state, candidates, key)[0]]

        next_chunks = jax.vmap(next_chunk)(next_states, jax.random.split(next_key, c.batch_size))
        next_q = jnp.mean(self.target_critic(next_states, next_chunks), axis=0)
        critic, target_critic, critic_state, metrics = regression_step(
            self.critic,
            self.target_critic,
            self.critic_state,
            states,
            data.chunk,
            q_target(data, next_q, c.return_bound),
            learning_rate=c.learning_rate,
            target_rate=c.target_rate,
        )
        agent = dataclasses.replace(
            self, critic=critic, target_critic=target_critic, critic_state=critic_state, key=key
        )
        if not update_policy:
            return agent, metrics

        def loss_of(flow: Flow) -> Float[Array, ""]:
            return jnp.mean(flow_losses(flow.network, states, data.chunk, flow_key))

        flow = cast(Flow, self.policy.generator)
        loss, gradient = eqx.filter_value_and_grad(loss_of)(flow)
        flow, flow_state = gradient_step(optax.adam(c.learning_rate), gradient, self.flow_state, flow)
        policy = dataclasses.replace(self.policy, generator=flow)
        agent = dataclasses.replace(agent, policy=policy, flow_state=flow_state)
        return agent, {**metrics, "policy/loss": loss}


AGENT = QC
PRESETS = {"default": QCConfig()}
