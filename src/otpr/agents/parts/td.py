"""Temporal-difference learning of Q over action chunks, for every algorithm that has a Q.

Source: twin critics as in Fujimoto et al., "Addressing function approximation error in actor-critic methods",
ICML 2018, without its noise: what follows a state is sampled from a policy that is random by itself.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.agent import AgentConfig
from otpr.agents.parts.steps import gradient_step
from otpr.data.chunks import Transitions
from otpr.networks.critics import QEnsemble, polyak
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class QConfig(AgentConfig):
    """Settings of an algorithm that learns Q."""

    # Q networks; what is made of their values is each algorithm's own
    num_critics: int = 2
    learning_rate: float = 3e-4
    # how far the target critics move towards the critics each step
    target_rate: float = 0.005
    # Q is at least what was really achieved from a pair (true where the dynamics are deterministic)
    return_bound: bool = True


@dataclasses.dataclass(frozen=True)
class CriticsConfig(QConfig):
    """The same where the critics have a size of their own."""

    # width and number of the hidden layers of the critics
    critic_width: int = 256
    critic_depth: int = 2


class TDCritics(NamedTuple):
    """What a step of `critic_step` changes: fields that an agent has by these names."""

    critic: QEnsemble
    target_critic: QEnsemble
    critic_state: optax.OptState


def new_td_critics(keypoints: Transitions, config: CriticsConfig, key: PRNGKeyArray) -> TDCritics:
    """Critics that know nothing, and their optimiser; of the keypoints, the dimensions alone are used."""
    critic = QEnsemble(
        keypoints.observation.shape[1],
        keypoints.chunk.shape[1],
        size=config.num_critics,
        width=config.critic_width,
        depth=config.critic_depth,
        key=key,
    )
    critic_state = optax.adam(config.learning_rate).init(eqx.filter(critic, eqx.is_array))
    return TDCritics(critic, critic, critic_state)


def critic_step(
    critics: TDCritics,
    data: Transitions,
    states: Float[Array, "n s"],
    next_value: Float[Array, " n"],
    config: QConfig,
) -> tuple[TDCritics, dict[str, Array]]:
    """Regress every member on reward + discount * next value, and let the target ensemble follow.

    Args:
        critics: as they are.
        data: the batch.
        states: its normalised observations.
        next_value: what an algorithm takes to be the value of the states that follow.
        config: learning rates, and whether the target is at least what was really achieved.

    Returns:
        The critics one step on; the metrics critic/loss (mean squared error over members and batch, before
        the step), critic/q and critic/q_max (mean and largest Q of the batch), and critic/value (mean of the
        targets).
    """
    # `discount` is 0 after a termination and gamma^(steps taken) otherwise, time-outs included
    target = data.reward + data.discount * next_value
    if config.return_bound:
        target = jnp.maximum(target, data.return_to_go)

    def loss_of(critic: QEnsemble) -> tuple[Float[Array, ""], Float[Array, "size n"]]:
        q = critic(states, data.chunk)
        return jnp.mean((q - target) ** 2), q

    (loss, q), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(critics.critic)
    optimizer = optax.adam(config.learning_rate)
    critic, critic_state = gradient_step(optimizer, gradient, critics.critic_state, critics.critic)
    metrics = {
        "critic/loss": loss,
        "critic/q": jnp.mean(q),
        "critic/q_max": jnp.max(q),
        "critic/value": jnp.mean(target),
    }
    target_critic = polyak(critics.target_critic, critic, config.target_rate)
    return TDCritics(critic, target_critic, critic_state), metrics


def sample_chunks(policy: Policy, states: Float[Array, "n s"], key: PRNGKeyArray) -> Float[Array, "n a"]:
    """One chunk of the policy for each normalised observation."""

    def sample_chunk(state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, " a"]:
        return policy.propose(state, key, 1)[0]

    return jax.vmap(sample_chunk)(states, jax.random.split(key, states.shape[0]))


def td_step(
    critics: TDCritics, data: Transitions, policy: Policy, key: PRNGKeyArray, config: QConfig
) -> tuple[TDCritics, dict[str, Array]]:
    """`critic_step` towards the target critics' minimum at a sample of the policy.

    Args:
        critics: as they are.
        data: the batch; observations raw.
        policy: what is taken to follow; its chooser has no say.
        key: of its samples.
        config: see `critic_step`.
    """
    states, next_states = policy.normalizer(data.observation), policy.normalizer(data.next_observation)
    next_q = critics.target_critic.minimum(next_states, sample_chunks(policy, next_states, key))
    critics, metrics = critic_step(critics, data, states, next_q, config)
    return critics, metrics | {"critic/value": jnp.mean(next_q)}
