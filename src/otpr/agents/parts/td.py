"""Q-learning of the policy's own value over action chunks, for algorithms without V.

Source: twin critics as in Fujimoto et al., "Addressing function approximation error in actor-critic methods",
ICML 2018, without its noise: what follows a state is sampled from a policy that is random by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.regression import CriticsConfig, QConfig, q_target, regression_step
from otpr.critics import QEnsemble
from otpr.data.chunks import Transitions
from otpr.policy import Policy


class TDCritics(NamedTuple):
    """What a step of `td_step` changes: fields that an agent has by these names."""

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


def sample_chunks(policy: Policy, states: Float[Array, "n s"], key: PRNGKeyArray) -> Float[Array, "n a"]:
    """One chunk of the policy for each normalised observation."""

    def sample_chunk(state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, " a"]:
        return policy.propose(state, key, 1)[0]

    return jax.vmap(sample_chunk)(states, jax.random.split(key, states.shape[0]))


def td_step(
    critics: TDCritics, data: Transitions, policy: Policy, key: PRNGKeyArray, config: QConfig
) -> tuple[TDCritics, dict[str, Array]]:
    """One gradient step of Q towards the target critics' minimum at a sample of the policy; then of these.

    Args:
        critics: as they are.
        data: the batch; observations raw.
        policy: what is taken to follow; its chooser has no say.
        key: of its samples.
        config: see `value_step`.
    """
    states, next_states = policy.normalizer(data.observation), policy.normalizer(data.next_observation)
    next_q = critics.target_critic.minimum(next_states, sample_chunks(policy, next_states, key))
    critics, metrics = value_step(critics, data, states, next_q, config)
    return critics, metrics | {"critic/value": jnp.mean(next_q)}


def value_step(
    critics: TDCritics,
    data: Transitions,
    states: Float[Array, "n s"],
    next_q: Float[Array, " n"],
    config: QConfig,
) -> tuple[TDCritics, dict[str, Array]]:
    """One gradient step of Q towards what is said to follow; then of the target critics.

    Args:
        critics: as they are.
        data: the batch.
        states: its normalised observations.
        next_q: the value of what follows each transition.
        config: learning rates, and whether Q's target is at least what was really achieved.
    """
    critic, target_critic, critic_state, metrics = regression_step(
        *critics,
        states,
        data.chunk,
        q_target(data, next_q, config.return_bound),
        learning_rate=config.learning_rate,
        target_rate=config.target_rate,
    )
    return TDCritics(critic, target_critic, critic_state), metrics
