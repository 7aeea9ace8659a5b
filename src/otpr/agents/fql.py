"""Flow Q-learning: a one-step policy that maximises Q and stays close to a flow that imitates the data.

Source: Park, Li, Levine, "Flow Q-Learning", ICML 2025, arXiv 2502.02538. docs/algorithms/fql.md lists the
differences.

A flow imitates all data. A second network, which alone acts, maps the flow's noise to chunks in one pass. It
is trained to match the flow's samples (distillation) and to maximise Q. No gradient passes through the steps
of the flow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import Critics, CriticsConfig, Trained, minimized, sample_chunks
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, count, positive
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.diffusion.flow import flow_losses
from otpr.diffusion.sampling import Noise
from otpr.networks.mlp import VelocityNetwork
from otpr.policies.generators import Flow, OneStep, plan_shape
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class FQLConfig(CriticsConfig):
    """Settings of the algorithm; docs/algorithms/fql.md gives the source of each."""

    algorithm: ClassVar[str] = "fql"

    # everything is learnt from the demonstrations first
    offline_updates: int = count(5_000, least=0)
    # critics and policies are never updated apart
    warmup_updates: int = count(0, least=0)
    # the paper's ratio is 1
    update_ratio: float = at_least_zero(0.4)
    # weight of the distillation against Q
    alpha: float = positive(3.0)
    # Euler steps of the flow
    flow_steps: int = count(10)
    # width and number of the hidden layers of the flow and of the one-step policy
    policy_width: int = count(256)
    policy_depth: int = count(3)


class FQL(OffPolicyAgent):
    """The agent, an immutable pytree."""

    one_step: Trained  # the policy's generator, a `OneStep`
    flow: Trained  # a `Flow`
    critics: Critics
    base: Policy  # provides the encoder and the spec
    key: PRNGKeyArray
    config: FQLConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/flow_loss", "policy/loss")

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: FQLConfig, key: PRNGKeyArray) -> Self:
        """An untrained agent with the encoder and the spec of `base`."""
        c = config
        critic_key, flow_key, policy_key, key = jax.random.split(key, 4)
        shape, sizes = plan_shape(base.spec), {"width": c.policy_width, "depth": c.policy_depth}
        flow = Flow(VelocityNetwork(base.state_dim, shape, **sizes, key=flow_key), c.flow_steps)
        one_step = OneStep.new(base.state_dim, shape, **sizes, key=policy_key)
        return cls(
            one_step=Trained.new(one_step, c.learning_rate),
            flow=Trained.new(flow, c.learning_rate),
            critics=Critics.new(base, c, critic_key),
            base=base.single().with_generator(one_step),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """The one-step policy."""
        return self.base.with_generator(self.one_step.model)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Transitions drawn uniformly from demonstrations and replay together."""
        return experience.sample_all(key, self.config.batch_size)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One simultaneous gradient step of Q, of the flow and of the one-step policy."""
        key, next_key, flow_key, noise_key = jax.random.split(self.key, 4)
        next_chunks = sample_chunks(self.deployed(), batch.next_state, next_key)
        next_q = jnp.mean(self.critics.target(batch.next_state, next_chunks), axis=0)
        critics, metrics = self.critics.step(batch, next_q)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics

        def flow_loss(flow: Flow) -> tuple[Array, None]:
            """Imitation of the batch by the flow."""
            return jnp.mean(flow_losses(flow.network, batch.state, batch.plan, flow_key)), None

        flow, imitation, _ = minimized(self.flow, flow_loss)
        one_step, loss, policy_metrics = minimized(self.one_step, self._policy_loss(batch.state, noise_key))
        agent = dataclasses.replace(agent, flow=flow, one_step=one_step)
        return agent, {**metrics, "policy/flow_loss": imitation, "policy/loss": loss, **policy_metrics}

    def _policy_loss(
        self, states: Float[Array, "n s"], key: PRNGKeyArray
    ) -> Callable[[OneStep], tuple[Array, Metrics]]:
        """Distillation of the flow at equal noise, and ascent of Q (eq. 8 of the paper)."""
        flow, executed = self.flow.model, self.base.spec.executed
        noise = jax.random.normal(key, (states.shape[0], *plan_shape(self.base.spec)))

        def end(state: Float[Array, " s"], z: Float[Array, "h a"]) -> Float[Array, "h a"]:
            return flow.from_noise(state, Noise(z[None]))[0]

        ends = jax.lax.stop_gradient(jax.vmap(end)(states, noise))
        # an encoder that learns from this loss gets gradients through the policy's state, not through Q's
        unmoved = jax.lax.stop_gradient(states)

        def loss_of(one_step: OneStep) -> tuple[Float[Array, ""], Metrics]:
            plans = jax.vmap(one_step.unclipped)(states, noise)
            distillation = jnp.mean((plans - ends) ** 2)
            chunks = jnp.clip(plans[:, executed], -1, 1).reshape(states.shape[0], -1)
            q = jnp.mean(self.critics.q(unmoved, chunks))
            return self.config.alpha * distillation - q, {"policy/distillation": distillation, "policy/q": q}

        return loss_of


AGENT = FQL
PRESETS = {"default": FQLConfig()}
