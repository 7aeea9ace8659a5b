"""The yardstick of an update: flow Q-learning, plainly and well.

Source: Park, Li, Levine, "Flow Q-learning", ICML 2025, arXiv 2502.02538 (sections 4.1 and 4.2). A flow policy
imitates the data; a one-step policy is distilled from it and follows the critics' gradient; the critics'
target takes its next action from the one-step policy.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import followed
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.networks.critics import QEnsemble
from otpr.scanning import scan_state

Model = TypeVar("Model")

LEARNING_RATE = 3e-4
TARGET_RATE = 0.005
FLOW_STEPS = 10
"""Euler steps from noise to an action."""
ALPHA = 10.0
"""Weight of the distillation against Q."""


class FlowPolicies(eqx.Module):
    """The velocity field of the flow, and the policy that makes its result in one step."""

    flow: eqx.nn.MLP  # (state, action on the way, time) -> velocity
    one_step: eqx.nn.MLP  # (state, noise) -> action

    def velocity(
        self, states: Float[Array, "n s"], actions: Float[Array, "n a"], times: Float[Array, " n"]
    ) -> Float[Array, "n a"]:
        """How the actions move at those times in [0, 1]."""
        return jax.vmap(self.flow)(jnp.concatenate([states, actions, times[:, None]], axis=1))

    def act(self, states: Float[Array, "n s"], noise: Float[Array, "n a"]) -> Float[Array, "n a"]:
        """The actions of the one-step policy, not clipped."""
        return jax.vmap(self.one_step)(jnp.concatenate([states, noise], axis=1))

    def follow_flow(self, states: Float[Array, "n s"], noise: Float[Array, "n a"]) -> Float[Array, "n a"]:
        """The actions to which the flow carries the noise, in [-1, 1]."""
        actions = noise
        for i in range(FLOW_STEPS):
            times = jnp.full(states.shape[0], i / FLOW_STEPS)
            actions = actions + self.velocity(states, actions, times) / FLOW_STEPS
        return jnp.clip(actions, -1, 1)


class FQL(eqx.Module):
    """The learner, one immutable pytree."""

    policies: FlowPolicies
    critic: QEnsemble
    target_critic: QEnsemble
    policies_state: optax.OptState
    critic_state: optax.OptState
    key: PRNGKeyArray

    @classmethod
    def create(cls, state_dim: int, action_dim: int, *, width: int, depth: int, key: PRNGKeyArray) -> FQL:
        """A learner that knows nothing yet."""
        flow_key, one_step_key, critic_key, key = jax.random.split(key, 4)

        def network(inputs: int, key: PRNGKeyArray) -> eqx.nn.MLP:
            return eqx.nn.MLP(inputs, action_dim, width, depth, jax.nn.silu, key=key)

        policies = FlowPolicies(
            network(state_dim + action_dim + 1, flow_key), network(state_dim + action_dim, one_step_key)
        )
        critic = QEnsemble(state_dim, action_dim, size=2, width=width, depth=depth, key=critic_key)
        optimizer = optax.adam(LEARNING_RATE)
        return cls(
            policies,
            critic,
            critic,
            optimizer.init(eqx.filter(policies, eqx.is_array)),
            optimizer.init(eqx.filter(critic, eqx.is_array)),
            key,
        )

    def update(self, batch: Transitions) -> tuple[FQL, dict[str, Array]]:
        """One gradient step of critics and policies."""
        key, critic_key, actor_key = jax.random.split(self.key, 3)
        critic_loss, critic_gradient = eqx.filter_value_and_grad(self._critic_loss)(
            self.critic, batch, critic_key
        )
        (_, losses), gradient = eqx.filter_value_and_grad(self._actor_loss, has_aux=True)(
            self.policies, batch, actor_key
        )
        critic, critic_state = _step(critic_gradient, self.critic_state, self.critic)
        policies, policies_state = _step(gradient, self.policies_state, self.policies)
        learner = dataclasses.replace(
            self,
            policies=policies,
            policies_state=policies_state,
            critic=critic,
            critic_state=critic_state,
            target_critic=followed(self.target_critic, critic, TARGET_RATE),
            key=key,
        )
        return learner, {"critic": critic_loss, **losses}

    def _critic_loss(self, critic: QEnsemble, batch: Transitions, key: PRNGKeyArray):
        noise = jax.random.normal(key, batch.chunk.shape)
        next_actions = jnp.clip(self.policies.act(batch.next_state, noise), -1, 1)
        next_q = jnp.mean(self.target_critic(batch.next_state, next_actions), axis=0)
        target = batch.reward + batch.discount * next_q
        return jnp.mean((critic(batch.state, batch.chunk) - target) ** 2)

    def _actor_loss(self, policies: FlowPolicies, batch: Transitions, key: PRNGKeyArray):
        states, actions = batch.state, batch.chunk
        start_key, time_key, noise_key = jax.random.split(key, 3)
        start = jax.random.normal(start_key, actions.shape)
        times = jax.random.uniform(time_key, (actions.shape[0],))
        between = start + times[:, None] * (actions - start)
        imitation = jnp.mean((policies.velocity(states, between, times) - (actions - start)) ** 2)
        noise = jax.random.normal(noise_key, actions.shape)
        wanted = self.policies.follow_flow(states, noise)  # of the old weights: no gradient passes through
        made = policies.act(states, noise)
        distillation = jnp.mean((made - wanted) ** 2)
        q = jnp.mean(self.critic(states, jnp.clip(made, -1, 1)))
        losses = {"imitation": imitation, "distillation": distillation, "q": q}
        return imitation + ALPHA * distillation - q, losses


def _step(gradient: Any, state: optax.OptState, model: Model) -> tuple[Model, optax.OptState]:
    updates, state = optax.adam(LEARNING_RATE).update(gradient, state)
    return eqx.apply_updates(model, updates), state


@eqx.filter_jit
def fql_block(learner: FQL, data: Experience, updates: int, batch: int) -> tuple[FQL, dict[str, Array]]:
    """Take `updates` gradient steps on batches drawn from replay, as one compiled program."""

    def step(learner: FQL, key: PRNGKeyArray) -> tuple[FQL, dict[str, Array]]:
        return learner.update(data.sample_replay(key, batch))

    key, scan_key = jax.random.split(learner.key)
    learner = dataclasses.replace(learner, key=key)
    learner, metrics = scan_state(step, learner, jax.random.split(scan_key, updates))
    return learner, jax.tree.map(jnp.mean, metrics)
