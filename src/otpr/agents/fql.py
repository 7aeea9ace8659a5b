"""Flow Q-learning: a one-step policy that maximises Q while it stays close to a flow of the data.

Source: Park, Li, Levine, "Flow Q-Learning", ICML 2025, arXiv 2502.02538. docs/algorithms/fql.md lists what
differs here.

A flow imitates everything seen so far. A second network maps the flow's noise to chunks in one pass: it is
drawn to where the flow ends (distillation) and to where Q is high, and it alone acts. No gradient passes
through the steps of the flow.
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
from otpr.agents.parts.steps import gradient_step
from otpr.agents.parts.td import CriticsConfig, TDCritics, critic_step, new_td_critics, sample_chunks
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion.flow import flow_losses
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import VelocityNetwork
from otpr.policies.generators import Flow, OneStep
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class FQLConfig(CriticsConfig):
    """Settings of the algorithm; docs/algorithms/fql.md says where each comes from."""

    algorithm: ClassVar[str] = "fql"

    # everything is learnt from the demonstrations first
    offline_updates: int = 5_000
    # critics and policies are never updated apart
    warmup_updates: int = 0
    # the paper's ratio is 1
    update_ratio: float = 0.4
    # weight of the distillation against Q
    alpha: float = 3.0
    # Euler steps of the flow
    flow_steps: int = 10

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be a positive number, got {self.alpha}.")


class FQL(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    policy: Policy  # its generator is the one-step policy
    flow: Flow
    critic: QEnsemble
    target_critic: QEnsemble
    policy_state: optax.OptState
    flow_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray
    config: FQLConfig = eqx.field(static=True)
    starts_from_base: ClassVar[bool] = False

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: FQLConfig, key: PRNGKeyArray) -> FQL:
        """An agent that knows nothing; of `base` it takes normalisation, chunks and the networks' sizes."""
        c = config
        state_dim, chunk_dim = keypoints.observation.shape[1], keypoints.chunk.shape[1]
        critic_key, flow_key, policy_key, key = jax.random.split(key, 4)
        critics = new_td_critics(keypoints, c, critic_key)
        mlp = base.diffusion.network.mlp
        sizes = {"width": mlp.width_size, "depth": mlp.depth}
        flow = Flow(VelocityNetwork(state_dim, chunk_dim, **sizes, key=flow_key), c.flow_steps)
        one_step = OneStep.new(state_dim, chunk_dim, **sizes, key=policy_key)
        adam = optax.adam(c.learning_rate)
        return cls(
            policy=dataclasses.replace(base.single(), generator=one_step),
            flow=flow,
            policy_state=adam.init(eqx.filter(one_step, eqx.is_array)),
            flow_state=adam.init(eqx.filter(flow, eqx.is_array)),
            key=key,
            config=c,
            **critics._asdict(),
        )

    def deployed(self) -> Policy:
        """The one-step policy."""
        return self.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrations and replay together, each transition as likely as any other."""
        return Batch(experience.sample_all(key, self.config.batch_size))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[FQL, dict[str, Array]]:
        """One gradient step of Q, of the flow and of the one-step policy, all taken from where they stand."""
        key, next_key, flow_key, noise_key = jax.random.split(self.key, 4)
        c, data = self.config, batch.data
        states, next_states = (self.policy.normalizer(x) for x in (data.observation, data.next_observation))
        next_chunks = sample_chunks(self.policy, next_states, next_key)
        next_q = jnp.mean(self.target_critic(next_states, next_chunks), axis=0)
        critics = TDCritics(self.critic, self.target_critic, self.critic_state)
        critics, metrics = critic_step(critics, data, states, next_q, c)
        agent = dataclasses.replace(self, key=key, **critics._asdict())
        if not update_policy:
            return agent, metrics
        flow, flow_state, flow_loss = self._flow_step(states, data.chunk, flow_key)
        one_step, policy_state, policy_metrics = self._policy_step(states, noise_key)
        agent = dataclasses.replace(
            agent,
            flow=flow,
            flow_state=flow_state,
            policy=dataclasses.replace(self.policy, generator=one_step),
            policy_state=policy_state,
        )
        return agent, {**metrics, "policy/flow_loss": flow_loss, **policy_metrics}

    def _flow_step(
        self, states: Float[Array, "n s"], chunks: Float[Array, "n a"], key: PRNGKeyArray
    ) -> tuple[Flow, optax.OptState, Float[Array, ""]]:
        """Imitation of the batch by the flow."""

        def loss_of(flow: Flow) -> Float[Array, ""]:
            return jnp.mean(flow_losses(flow.network, states, chunks, key))

        loss, gradient = eqx.filter_value_and_grad(loss_of)(self.flow)
        optimizer = optax.adam(self.config.learning_rate)
        return *gradient_step(optimizer, gradient, self.flow_state, self.flow), loss

    def _policy_step(
        self, states: Float[Array, "n s"], key: PRNGKeyArray
    ) -> tuple[OneStep, optax.OptState, dict[str, Array]]:
        """Distillation of the flow, noise by noise, and ascent of Q: the paper's eq. 8."""
        noise = jax.random.normal(key, (states.shape[0], self.flow.network.chunk_dim))

        def end(state: Float[Array, " s"], z: Float[Array, " a"]) -> Float[Array, " a"]:
            return self.flow.from_noise(state, z[None])[0]

        ends = jax.vmap(end)(states, noise)

        def loss_of(one_step: OneStep) -> tuple[Float[Array, ""], dict[str, Array]]:
            chunks = jax.vmap(one_step.unclipped)(states, noise)
            distillation = jnp.mean((chunks - ends) ** 2)
            q = jnp.mean(self.critic(states, jnp.clip(chunks, -1, 1)))
            return self.config.alpha * distillation - q, {"policy/distillation": distillation, "policy/q": q}

        one_step = cast(OneStep, self.policy.generator)
        (loss, metrics), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(one_step)
        optimizer = optax.adam(self.config.learning_rate)
        one_step, state = gradient_step(optimizer, gradient, self.policy_state, one_step)
        return one_step, state, {"policy/loss": loss, **metrics}


AGENT = FQL
PRESETS = {"default": FQLConfig()}
