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

from otpr.agents.parts.steps import gradient_step
from otpr.critics import QEnsemble, polyak
from otpr.data.chunks import Transitions
from otpr.policy import Policy


class TDCritics(NamedTuple):
    """What a step of `td_step` changes: fields that an agent has by these names."""

    critic: QEnsemble
    target_critic: QEnsemble
    critic_state: optax.OptState


def new_td_critics(
    state_dim: int,
    chunk_dim: int,
    *,
    size: int,
    width: int,
    depth: int,
    learning_rate: float,
    key: PRNGKeyArray,
) -> TDCritics:
    """Critics that know nothing: `size` Q networks, and their optimiser."""
    critic = QEnsemble(state_dim, chunk_dim, size=size, width=width, depth=depth, key=key)
    return TDCritics(critic, critic, optax.adam(learning_rate).init(eqx.filter(critic, eqx.is_array)))


def sample_chunks(policy: Policy, states: Float[Array, "n s"], key: PRNGKeyArray) -> Float[Array, "n a"]:
    """One chunk of the policy for each normalised observation."""

    def sample_chunk(state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, " a"]:
        return policy.propose(state, key, 1)[0]

    return jax.vmap(sample_chunk)(states, jax.random.split(key, states.shape[0]))


def td_step(
    critics: TDCritics,
    data: Transitions,
    policy: Policy,
    key: PRNGKeyArray,
    *,
    learning_rate: float,
    target_rate: float,
    return_bound: bool,
) -> tuple[TDCritics, dict[str, Array]]:
    """One gradient step of Q towards the target critics' minimum at a sample of the policy; then of these.

    Args:
        critics: as they are.
        data: the batch; observations raw.
        policy: what is taken to follow; its chooser has no say.
        key: of its samples.
        learning_rate: of Q, by Adam.
        target_rate: how far the target critics move towards the critics.
        return_bound: whether Q's target is at least what was really achieved.
    """
    states, next_states = policy.normalizer(data.observation), policy.normalizer(data.next_observation)
    next_q = critics.target_critic.minimum(next_states, sample_chunks(policy, next_states, key))
    # `discount` is 0 after a termination and gamma^(steps taken) otherwise, time-outs included
    target = data.reward + data.discount * next_q
    if return_bound:
        target = jnp.maximum(target, data.return_to_go)

    def critic_loss(critic: QEnsemble) -> tuple[Array, Array]:
        q = critic(states, data.chunk)
        return jnp.mean((q - target) ** 2), q

    (loss, q), gradient = eqx.filter_value_and_grad(critic_loss, has_aux=True)(critics.critic)
    critic, critic_state = gradient_step(
        optax.adam(learning_rate), gradient, critics.critic_state, critics.critic
    )
    stepped = TDCritics(critic, polyak(critics.target_critic, critic, target_rate), critic_state)
    return stepped, {
        "critic/loss": loss,
        "critic/q": jnp.mean(q),
        "critic/q_max": jnp.max(q),
        "critic/value": jnp.mean(next_q),
    }
