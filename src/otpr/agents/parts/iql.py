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

from otpr.agents.parts.regression import q_target, regression_step
from otpr.agents.parts.steps import gradient_step
from otpr.critics import QEnsemble, expectile_loss
from otpr.data.chunks import Transitions
from otpr.normalization import Normalizer


class IQLCritics(NamedTuple):
    """What a step of `iql_step` changes: fields that an agent has by these names."""

    critic: QEnsemble
    target_critic: QEnsemble
    value: eqx.nn.MLP
    critic_state: optax.OptState
    value_state: optax.OptState


def iql_step(
    critics: IQLCritics,
    data: Transitions,
    normalizer: Normalizer,
    *,
    expectile: float,
    learning_rate: float,
    target_rate: float,
    return_bound: bool,
) -> tuple[IQLCritics, dict[str, Array]]:
    """One gradient step of V, then of Q, then their targets, with chunk-level rewards and discounts.

    Args:
        critics: as they are.
        data: the batch; observations raw.
        normalizer: of the observations.
        expectile: of V's regression on the target critics' minimum.
        learning_rate: of Q and V, by Adam.
        target_rate: how far the target critics move towards the critics.
        return_bound: whether Q's target is at least what was really achieved.
    """
    states = normalizer(data.observation)
    next_states = normalizer(data.next_observation)
    target_q = critics.target_critic.minimum(states, data.chunk)

    def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
        v = jax.vmap(value)(states)
        return jnp.mean(expectile_loss(target_q - v, expectile)), jnp.mean(v)

    (v_loss, mean_v), gradient = eqx.filter_value_and_grad(value_loss, has_aux=True)(critics.value)
    value, value_state = gradient_step(
        optax.adam(learning_rate), gradient, critics.value_state, critics.value
    )

    critic, target_critic, critic_state, metrics = regression_step(
        critics.critic,
        critics.target_critic,
        critics.critic_state,
        states,
        data.chunk,
        q_target(data, jax.vmap(value)(next_states), return_bound),
        learning_rate=learning_rate,
        target_rate=target_rate,
    )
    stepped = IQLCritics(critic, target_critic, value, critic_state, value_state)
    return stepped, metrics | {"critic/value_loss": v_loss, "critic/value": mean_v}


def new_iql_critics(
    state_dim: int,
    chunk_dim: int,
    *,
    size: int,
    width: int,
    depth: int,
    learning_rate: float,
    key: PRNGKeyArray,
) -> IQLCritics:
    """Critics that know nothing, with the optimisers' states for `learning_rate`."""
    critic_key, value_key = jax.random.split(key)
    critic = QEnsemble(state_dim, chunk_dim, size=size, width=width, depth=depth, key=critic_key)
    value = eqx.nn.MLP(state_dim, "scalar", width, depth, jax.nn.relu, key=value_key)
    return IQLCritics(
        critic,
        critic,
        value,
        optax.adam(learning_rate).init(eqx.filter(critic, eqx.is_array)),
        optax.adam(learning_rate).init(eqx.filter(value, eqx.is_array)),
    )
