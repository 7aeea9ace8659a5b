"""Components of algorithms: a trainable diffusion policy, critics for Q, and a value function V.

Each component is one module with its networks, their targets or moving averages, and the optimiser's state.
Sources: twin critics from Fujimoto et al., "Addressing function approximation error in actor-critic methods",
ICML 2018, without the target noise, because next actions are sampled from a stochastic policy; V by expectile
regression from Kostrikov, Nair, Levine, "Offline reinforcement learning with implicit Q-learning", ICLR 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.agent import AgentConfig, Metrics
from otpr.agents.parts.settings import count, positive, rate, share
from otpr.data.store import Transitions
from otpr.networks.critics import QEnsemble
from otpr.networks.noise import NoiseNetwork
from otpr.policies.policy import Policy

Model = TypeVar("Model")


class Trained(eqx.Module):
    """A model that Adam trains, with the optimiser's state.

    Args:
        model: any pytree.
        state: the optimiser's state.
        learning_rate: the learning rate of Adam.
    """

    model: Any
    state: optax.OptState
    learning_rate: float = eqx.field(static=True)

    @classmethod
    def new(cls, model: Any, learning_rate: float) -> Self:
        """A model before its first training step."""
        return cls(model, optax.adam(learning_rate).init(eqx.filter(model, eqx.is_array)), learning_rate)

    def step(self, gradient: Any) -> Self:
        """The result of one step of Adam."""
        gradients, weights = cast(optax.Updates, gradient), cast(optax.Params, self.model)
        gradients = jax.lax.stop_gradient(gradients)
        updates, state = optax.adam(self.learning_rate).update(gradients, self.state, weights)
        return dataclasses.replace(self, model=eqx.apply_updates(self.model, updates), state=state)


def minimized(trained: Trained, loss_of: Callable[[Any], tuple[Array, Any]]) -> tuple[Trained, Array, Any]:
    """One gradient step; also returns the loss before it and the auxiliary output of `loss_of`."""
    (loss, more), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(trained.model)
    return trained.step(gradient), loss, more


def followed(target: Model, online: Model, rate: float) -> Model:
    """Move `target` towards `online`: target + rate * (online - target) for each array."""
    arrays, static = eqx.partition(target, eqx.is_inexact_array)
    moved: Any = optax.incremental_update(eqx.filter(online, eqx.is_inexact_array), arrays, rate)
    return eqx.combine(moved, static)


# ------------------------------------------------------------------------------------------------- the policy


@dataclasses.dataclass(frozen=True)
class ActorConfig(AgentConfig):
    """Settings of algorithms that train the diffusion policy. The defaults are those of OTPR."""

    # Adam's, of the score network
    policy_learning_rate: float = positive(3e-4)
    # how far the deployed moving average moves towards the trained weights each step
    ema_rate: float = rate(0.005)
    # share of demonstrations in every batch
    demonstration_share: float = share(0.25)


class Actor(eqx.Module):
    """A trainable diffusion policy; its moving average acts.

    Args:
        trained: the trained network, a `NoiseNetwork`.
        policy: the policy with the network's moving average, without a chooser.
        ema_rate: rate of the moving average, per step.
    """

    trained: Trained
    policy: Policy
    ema_rate: float = eqx.field(static=True)

    @classmethod
    def of(cls, base: Policy, config: ActorConfig) -> Self:
        """An actor that starts from a pre-trained policy. Its chooser, if any, is dropped.

        An external policy cannot be trained and is kept unchanged.

        Raises:
            OtprError: the policy is not a diffusion policy.
        """
        network = None if base.asks else base.diffusion.network
        return cls(Trained.new(network, config.policy_learning_rate), base.single(), config.ema_rate)

    @property
    def network(self) -> NoiseNetwork:
        """The trained network."""
        return self.trained.model

    def step(self, loss_of: Callable[[NoiseNetwork], tuple[Array, Metrics]]) -> tuple[Self, Metrics]:
        """One gradient step of the network and one update of its moving average.

        Args:
            loss_of: maps a network to its loss and further metrics.

        Returns:
            The updated actor, and the metrics including the loss as "policy/loss".
        """
        trained, loss, metrics = minimized(self.trained, loss_of)
        diffusion = self.policy.diffusion
        average = followed(diffusion.network, trained.model, self.ema_rate)
        policy = self.policy.with_generator(diffusion.with_network(average))
        actor = dataclasses.replace(self, trained=trained, policy=policy)
        return actor, {"policy/loss": loss, **metrics}

    def imitate(
        self, states: Float[Array, "n s"], plans: Float[Array, "n h a"], key: PRNGKeyArray
    ) -> tuple[Self, Metrics]:
        """One step of score matching on unmodified (state, plan) pairs."""
        diffusion = self.policy.diffusion
        return self.step(lambda network: (jnp.mean(diffusion.losses(network, states, plans, key)), {}))


def sample_chunks(policy: Policy, states: Float[Array, "n s"], key: PRNGKeyArray) -> Float[Array, "n c"]:
    """Sample one chunk for each state: the executed part of a plan, flattened."""

    def of_one(state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, " c"]:
        return policy.generator.propose(state, key, 1)[0, policy.spec.executed].ravel()

    return jax.vmap(of_one)(states, jax.random.split(key, states.shape[0]))


# ------------------------------------------------------------------------------------------------ the critics


@dataclasses.dataclass(frozen=True)
class QConfig(AgentConfig):
    """Settings of algorithms that learn Q."""

    # Q networks; what is made of their values is each algorithm's own
    num_critics: int = count(2)
    # Adam's, of the critics
    learning_rate: float = positive(3e-4)
    # how far the target critics move towards the critics each step
    target_rate: float = rate(0.005)
    # Q is at least what was really achieved from a pair (true where the dynamics are deterministic)
    return_bound: bool = True


@dataclasses.dataclass(frozen=True)
class CriticsConfig(QConfig):
    """Settings of algorithms that learn Q with critics of their own size."""

    # width and number of the hidden layers of the critics
    critic_width: int = count(256)
    critic_depth: int = count(2)


class Critics(eqx.Module):
    """An ensemble of Q functions over (state, chunk), and its slowly following target ensemble.

    Args:
        trained: the ensemble, a `QEnsemble`.
        target: the target ensemble.
        target_rate: rate at which the target follows, per step.
        return_bound: whether targets are bounded below by the achieved return.
    """

    trained: Trained
    target: QEnsemble
    target_rate: float = eqx.field(static=True)
    return_bound: bool = eqx.field(static=True)

    @classmethod
    def of(cls, critic: QEnsemble, config: QConfig) -> Self:
        """Critics before their first training step."""
        return cls(Trained.new(critic, config.learning_rate), critic, config.target_rate, config.return_bound)

    @classmethod
    def new(cls, policy: Policy, config: CriticsConfig, key: PRNGKeyArray) -> Self:
        """Untrained critics for a policy's states and chunks."""
        sizes = {"size": config.num_critics, "width": config.critic_width, "depth": config.critic_depth}
        return cls.of(QEnsemble(policy.state_dim, policy.spec.chunk_dim, **sizes, key=key), config)

    @property
    def q(self) -> QEnsemble:
        """The trained ensemble."""
        return self.trained.model

    def step(self, data: Transitions, next_value: Float[Array, " n"]) -> tuple[Self, Metrics]:
        """Regress every member onto reward + discount * next value, and update the target ensemble.

        Args:
            data: the batch.
            next_value: the algorithm's estimate of the next states' values.

        Returns:
            The updated critics; the metrics critic/loss (mean squared error over members and batch, before
            the step), critic/q and critic/q_max (mean and largest Q of the batch), and critic/value (mean of
            the targets).
        """
        # `discount` is 0 after a termination and gamma^(steps taken) otherwise, also after a truncation
        target = data.reward + data.discount * next_value
        if self.return_bound:
            target = jnp.maximum(target, data.return_to_go)

        def loss_of(critic: QEnsemble) -> tuple[Array, Array]:
            q = critic(data.state, data.chunk)
            return jnp.mean((q - target) ** 2), q

        trained, loss, q = minimized(self.trained, loss_of)
        critics = dataclasses.replace(
            self, trained=trained, target=followed(self.target, trained.model, self.target_rate)
        )
        metrics = {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/q_max": jnp.max(q)}
        return critics, {**metrics, "critic/value": jnp.mean(target)}

    def td_step(self, data: Transitions, policy: Policy, key: PRNGKeyArray) -> tuple[Self, Metrics]:
        """`step` with the target critics' minimum at a sample of the policy, which ignores the chooser."""
        next_q = self.target.minimum(data.next_state, sample_chunks(policy, data.next_state, key))
        critics, metrics = self.step(data, next_q)
        return critics, metrics | {"critic/value": jnp.mean(next_q)}


class ImplicitCritics(eqx.Module):
    """Implicit Q-learning over action chunks: V follows Q by expectile regression, Q follows V.

    Args:
        critics: Q and its target.
        value: V of a state, a trained `eqx.nn.MLP`.
        expectile: of V's regression on the target critics' minimum, in (0, 1].
    """

    critics: Critics
    trained_value: Trained
    expectile: float = eqx.field(static=True)

    @classmethod
    def new(cls, policy: Policy, config: CriticsConfig, expectile: float, key: PRNGKeyArray) -> Self:
        """Untrained critics for a policy's states and chunks."""
        critic_key, value_key = jax.random.split(key)
        value = new_value(policy.state_dim, config.critic_width, config.critic_depth, value_key)
        return cls(
            Critics.new(policy, config, critic_key), Trained.new(value, config.learning_rate), expectile
        )

    @property
    def q(self) -> QEnsemble:
        """The trained ensemble."""
        return self.critics.q

    @property
    def target(self) -> QEnsemble:
        """The target ensemble."""
        return self.critics.target

    @property
    def value(self) -> eqx.nn.MLP:
        """V of a state."""
        return self.trained_value.model

    def step(self, data: Transitions) -> tuple[Self, Metrics]:
        """One gradient step of V, then of Q, then an update of the targets, with chunk-level rewards."""
        target_q = jax.lax.stop_gradient(self.target.minimum(data.state, data.chunk))

        def loss_of(value: eqx.nn.MLP) -> tuple[Array, Array]:
            v = jax.vmap(value)(data.state)
            return jnp.mean(expectile_loss(target_q - v, self.expectile)), jnp.mean(v)

        trained_value, loss, mean_v = minimized(self.trained_value, loss_of)
        critics, metrics = self.critics.step(data, jax.vmap(trained_value.model)(data.next_state))
        after = dataclasses.replace(self, critics=critics, trained_value=trained_value)
        return after, metrics | {"critic/value_loss": loss, "critic/value": mean_v}


def new_value(state_dim: int, width: int, depth: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    """V of a state, with random weights."""
    return eqx.nn.MLP(state_dim, "scalar", width, depth, jax.nn.relu, key=key)


def expectile_loss(difference: Float[Array, "*n"], expectile: float) -> Float[Array, "*n"]:
    """|expectile - 1(difference < 0)| * difference^2, where difference = target - estimate (IQL, eq. 3)."""
    return jnp.where(difference >= 0, expectile, 1 - expectile) * difference**2
