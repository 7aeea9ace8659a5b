"""A step of an ensemble of Q towards targets that an algorithm makes of values of its own."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from otpr.agents.parts.agent import AgentConfig
from otpr.agents.parts.steps import gradient_step
from otpr.critics import QEnsemble, polyak
from otpr.data.chunks import Transitions


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


def q_target(data: Transitions, next_q: Float[Array, " n"], return_bound: bool) -> Float[Array, " n"]:
    """Reward + discount * next value; at least what was really achieved, where there is such a bound."""
    # `discount` is 0 after a termination and gamma^(steps taken) otherwise, time-outs included
    target = data.reward + data.discount * next_q
    return jnp.maximum(target, data.return_to_go) if return_bound else target


def regression_step(
    critic: QEnsemble,
    target_critic: QEnsemble,
    critic_state: optax.OptState,
    states: Float[Array, "n s"],
    chunks: Float[Array, "n a"],
    target: Float[Array, " n"],
    *,
    learning_rate: float,
    target_rate: float,
) -> tuple[QEnsemble, QEnsemble, optax.OptState, dict[str, Array]]:
    """Regress every member on the same targets, and let the target ensemble follow.

    Args:
        critic: the ensemble.
        target_critic: its slow copy.
        critic_state: of Adam.
        states: normalised observations.
        chunks: flattened chunks.
        target: as `q_target` makes it.
        learning_rate: of Adam.
        target_rate: how far the slow copy moves.

    Returns:
        critic, target critic and Adam's state one step on; the metrics critic/loss (mean squared error over
        members and batch, before the step), critic/q and critic/q_max (mean and largest Q of the batch), and
        critic/value (mean of the targets).
    """

    def loss_of(critic: QEnsemble) -> tuple[Float[Array, ""], Float[Array, "size n"]]:
        q = critic(states, chunks)
        return jnp.mean((q - target) ** 2), q

    (loss, q), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(critic)
    critic, critic_state = gradient_step(optax.adam(learning_rate), gradient, critic_state, critic)
    metrics = {
        "critic/loss": loss,
        "critic/q": jnp.mean(q),
        "critic/q_max": jnp.max(q),
        "critic/value": jnp.mean(target),
    }
    return critic, polyak(target_critic, critic, target_rate), critic_state, metrics
