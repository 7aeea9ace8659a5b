"""What algorithms are made of: a diffusion policy that is trained, critics that learn Q, and V beside them.

Each part is one module with its networks, what follows them slowly, and its optimiser's state. Sources: twin
critics as in Fujimoto et al., "Addressing function approximation error in actor-critic methods", ICML 2018,
without its noise (what follows a state is sampled from a policy that is random by itself); V by expectile
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
    """Something that Adam trains, with the optimiser's state.

    Args:
        model: any pytree.
        state: of the optimiser.
        learning_rate: Adam's.
    """

    model: Any
    state: optax.OptState
    learning_rate: float = eqx.field(static=True)

    @classmethod
    def new(cls, model: Any, learning_rate: float) -> Self:
        """Before the first step."""
        return cls(model, optax.adam(learning_rate).init(eqx.filter(model, eqx.is_array)), learning_rate)

    def step(self, gradient: Any) -> Self:
        """One step of Adam further. What follows is no function of what the gradient was taken at."""
        gradients, weights = cast(optax.Updates, gradient), cast(optax.Params, self.model)
        gradients = jax.lax.stop_gradient(gradients)
        updates, state = optax.adam(self.learning_rate).update(gradients, self.state, weights)
        return dataclasses.replace(self, model=eqx.apply_updates(self.model, updates), state=state)


def minimized(trained: Trained, loss_of: Callable[[Any], tuple[Array, Any]]) -> tuple[Trained, Array, Any]:
    """One gradient step; also the loss before it, and what `loss_of` gives beside the loss."""
    (loss, more), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(trained.model)
    return trained.step(gradient), loss, more


def followed(target: Model, online: Model, rate: float) -> Model:
    """`target` moved towards `online`: target + rate * (online - target), array by array."""
    arrays, static = eqx.partition(target, eqx.is_inexact_array)
    moved: Any = optax.incremental_update(eqx.filter(online, eqx.is_inexact_array), arrays, rate)
    return eqx.combine(moved, static)


# ------------------------------------------------------------------------------------------------- the policy


@dataclasses.dataclass(frozen=True)
class ActorConfig(AgentConfig):
    """Settings of an algorithm that trains the diffusion policy; defaults are those of OTPR."""

    # Adam's, of the score network
    policy_learning_rate: float = positive(3e-4)
    # how far the deployed moving average moves towards the trained weights each step
    ema_rate: float = rate(0.005)
    # share of demonstrations in every batch
    demonstration_share: float = share(0.25)


class Actor(eqx.Module):
    """A diffusion policy that is trained; what acts is a moving average of it.

    Args:
        trained: the network as trained, a `NoiseNetwork`.
        policy: with the moving average of the network, without a chooser.
        ema_rate: how far the moving average moves each step.
    """

    trained: Trained
    policy: Policy
    ema_rate: float = eqx.field(static=True)

    @classmethod
    def of(cls, base: Policy, config: ActorConfig) -> Self:
        """The pre-trained policy, about to be trained on; a chooser that it brings along is left behind.

        Of a policy that only answers there is nothing to train: it stays as it is.

        Raises:
            OtprError: it is no diffusion policy.
        """
        network = None if base.asks else base.diffusion.network
        return cls(Trained.new(network, config.policy_learning_rate), base.single(), config.ema_rate)

    @property
    def network(self) -> NoiseNetwork:
        """The network as trained."""
        return self.trained.model

    def step(self, loss_of: Callable[[NoiseNetwork], tuple[Array, Metrics]]) -> tuple[Self, Metrics]:
        """One gradient step of the network, which the moving average follows.

        Args:
            loss_of: loss of a network, and further metrics.

        Returns:
            The actor one step on, and the metrics, the loss among them as "policy/loss".
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
        """One step of score matching on (state, plan) pairs as they are."""
        diffusion = self.policy.diffusion
        return self.step(lambda network: (jnp.mean(diffusion.losses(network, states, plans, key)), {}))


def sample_chunks(policy: Policy, states: Float[Array, "n s"], key: PRNGKeyArray) -> Float[Array, "n c"]:
    """The executed part of one plan of the policy for each state, flattened."""

    def of_one(state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, " c"]:
        return policy.generator.propose(state, key, 1)[0, policy.spec.executed].ravel()

    return jax.vmap(of_one)(states, jax.random.split(key, states.shape[0]))


# ------------------------------------------------------------------------------------------------ the critics


@dataclasses.dataclass(frozen=True)
class QConfig(AgentConfig):
    """Settings of an algorithm that learns Q."""

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
    """The same where the critics have a size of their own."""

    # width and number of the hidden layers of the critics
    critic_width: int = count(256)
    critic_depth: int = count(2)


class Critics(eqx.Module):
    """Q over (state, chunk), an ensemble, and its target ensemble, which follows it slowly.

    Args:
        trained: the ensemble, a `QEnsemble`.
        target: the target ensemble.
        target_rate: how far the target moves each step.
        return_bound: whether Q is at least what was really achieved.
    """

    trained: Trained
    target: QEnsemble
    target_rate: float = eqx.field(static=True)
    return_bound: bool = eqx.field(static=True)

    @classmethod
    def of(cls, critic: QEnsemble, config: QConfig) -> Self:
        """Critics before their first step."""
        return cls(Trained.new(critic, config.learning_rate), critic, config.target_rate, config.return_bound)

    @classmethod
    def new(cls, policy: Policy, config: CriticsConfig, key: PRNGKeyArray) -> Self:
        """Critics of a policy's states and chunks that have learnt nothing."""
        sizes = {"size": config.num_critics, "width": config.critic_width, "depth": config.critic_depth}
        return cls.of(QEnsemble(policy.state_dim, policy.spec.chunk_dim, **sizes, key=key), config)

    @property
    def q(self) -> QEnsemble:
        """The ensemble as trained."""
        return self.trained.model

    def step(self, data: Transitions, next_value: Float[Array, " n"]) -> tuple[Self, Metrics]:
        """Regress every member on reward + discount * next value, and let the target ensemble follow.

        Args:
            data: the batch.
            next_value: what an algorithm takes to be the value of the states that follow.

        Returns:
            The critics one step on; the metrics critic/loss (mean squared error over members and batch,
            before the step), critic/q and critic/q_max (mean and largest Q of the batch), and critic/value
            (mean of the targets).
        """
        # `discount` is 0 after a termination and gamma^(steps taken) otherwise, time-outs included
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
        """`step` towards the target critics' minimum at a sample of the policy; its chooser has no say."""
        next_q = self.target.minimum(data.next_state, sample_chunks(policy, data.next_state, key))
        critics, metrics = self.step(data, next_q)
        return critics, metrics | {"critic/value": jnp.mean(next_q)}


class ImplicitCritics(eqx.Module):
    """Implicit Q-learning over action chunks: V follows Q by expectile regression, Q follows V.

    Args:
        critics: Q and its target.
        value: V of a state, an `eqx.nn.MLP`, trained.
        expectile: of V's regression on the target critics' minimum, in (0, 1].
    """

    critics: Critics
    trained_value: Trained
    expectile: float = eqx.field(static=True)

    @classmethod
    def new(cls, policy: Policy, config: CriticsConfig, expectile: float, key: PRNGKeyArray) -> Self:
        """Critics of a policy's states and chunks that have learnt nothing."""
        critic_key, value_key = jax.random.split(key)
        value = new_value(policy.state_dim, config.critic_width, config.critic_depth, value_key)
        return cls(
            Critics.new(policy, config, critic_key), Trained.new(value, config.learning_rate), expectile
        )

    @property
    def q(self) -> QEnsemble:
        """The ensemble as trained."""
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
        """One gradient step of V, then of Q, then their targets, with chunk-level rewards and discounts."""
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
    """|expectile - 1(difference < 0)| * difference^2, with difference = target - estimate (IQL, eq. 3)."""
    return jnp.where(difference >= 0, expectile, 1 - expectile) * difference**2
