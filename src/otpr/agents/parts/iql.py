"""Implicit Q-learning over action chunks, for every algorithm that has its critics.

Source: Kostrikov, Nair, Levine, "Offline reinforcement learning with implicit Q-learning", ICLR 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from otpr.agents.parts.steps import gradient_step
from otpr.agents.parts.td import CriticsConfig, TDCritics, critic_step, new_td_critics
from otpr.data.chunks import Transitions
from otpr.networks.critics import QEnsemble, expectile_loss
from otpr.policies.normalization import Normalizer


class IQLCritics(NamedTuple):
    """What a step of `iql_step` changes: fields that an agent has by these names."""

    critic: QEnsemble
    target_critic: QEnsemble
    critic_state: optax.OptState
    value: eqx.nn.MLP
    value_state: optax.OptState


def new_iql_critics(keypoints: Transitions, config: CriticsConfig, key: PRNGKeyArray) -> IQLCritics:
    """Critics that know nothing, and their optimisers; of the keypoints, the dimensions alone are used."""
    critic_key, value_key = jax.random.split(key)
    state_dim, width, depth = keypoints.observation.shape[1], config.critic_width, config.critic_depth
    value = eqx.nn.MLP(state_dim, "scalar", width, depth, jax.nn.relu, key=value_key)
    value_state = optax.adam(config.learning_rate).init(eqx.filter(value, eqx.is_array))
    return IQLCritics(*new_td_critics(keypoints, config, critic_key), value, value_state)


def iql_step(
    critics: IQLCritics, data: Transitions, normalizer: Normalizer, config: CriticsConfig, *, expectile: float
) -> tuple[IQLCritics, dict[str, Array]]:
    """One gradient step of V, then of Q, then their targets, with chunk-level rewards and discounts.

    Args:
        critics: as they are.
        data: the batch; observations raw.
        normalizer: of the observations.
        config: learning rates, the same for Q and V; and Q's targets, see `critic_step`.
        expectile: of V's regression on the target critics' minimum.
    """
    states = normalizer(data.observation)
    next_states = normalizer(data.next_observation)
    target_q = critics.target_critic.minimum(states, data.chunk)

    def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
        v = jax.vmap(value)(states)
        return jnp.mean(expectile_loss(target_q - v, expectile)), jnp.mean(v)

    (v_loss, mean_v), gradient = eqx.filter_value_and_grad(value_loss, has_aux=True)(critics.value)
    optimizer = optax.adam(config.learning_rate)
    value, value_state = gradient_step(optimizer, gradient, critics.value_state, critics.value)

    q = TDCritics(critics.critic, critics.target_critic, critics.critic_state)
    q, metrics = critic_step(q, data, states, jax.vmap(value)(next_states), config)
    metrics |= {"critic/value_loss": v_loss, "critic/value": mean_v}
    return IQLCritics(*q, value, value_state), metrics
