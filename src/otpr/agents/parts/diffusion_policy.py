"""What algorithms share that fine-tune the pre-trained diffusion policy: its settings, and a step of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import optax
from jaxtyping import Array

from otpr.agents.parts.agent import AgentConfig
from otpr.agents.parts.steps import gradient_step
from otpr.networks.critics import polyak
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class DiffusionPolicyConfig(AgentConfig):
    """Settings of an algorithm that trains the diffusion policy; defaults are those of OTPR."""

    policy_learning_rate: float = 3e-4
    # how far the deployed moving average moves towards the trained weights each step
    ema_rate: float = 0.005
    # share of demonstrations in every batch
    demonstration_share: float = 0.25


class TrainedPolicy(NamedTuple):
    """What `policy_step` changes: fields that an agent has by these names."""

    network: NoiseNetwork  # as trained
    policy: Policy  # with the moving average of `network`, without a chooser
    policy_state: optax.OptState


def new_trained_policy(base: Policy, optimizer: optax.GradientTransformation) -> TrainedPolicy:
    """The pre-trained policy, about to be trained on; a chooser that it brings along is left behind.

    Raises:
        OtprError: it is no diffusion policy.
    """
    network = base.diffusion.network
    return TrainedPolicy(network, base.single(), optimizer.init(eqx.filter(network, eqx.is_array)))


def policy_step(
    trained: TrainedPolicy,
    optimizer: optax.GradientTransformation,
    ema_rate: float,
    loss_of: Callable[[NoiseNetwork], tuple[Array, dict[str, Array]]],
) -> tuple[TrainedPolicy, dict[str, Array]]:
    """One gradient step of the network, which the moving average follows.

    Args:
        trained: as it is.
        optimizer: what the state is of.
        ema_rate: how far the moving average moves.
        loss_of: loss of a network, and further metrics.

    Returns:
        The policy one step on, and the metrics, the loss among them as "policy/loss".
    """
    (loss, metrics), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(trained.network)
    network, policy_state = gradient_step(optimizer, gradient, trained.policy_state, trained.network)
    diffusion = trained.policy.diffusion
    average = diffusion.with_network(polyak(diffusion.network, network, ema_rate))
    policy = dataclasses.replace(trained.policy, generator=average)
    return TrainedPolicy(network, policy, policy_state), {"policy/loss": loss, **metrics}
