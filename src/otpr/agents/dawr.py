"""DAWR: advantage-weighted regression with a diffusion policy.

Source: Peng, Kumar, Zhang, Levine, "Advantage-weighted regression: Simple and scalable off-policy
reinforcement learning", arXiv 1910.00177, with score matching in place of the likelihood, as in the
comparison of Ren et al. (DPPO, arXiv 2409.00588). docs/algorithms/dawr.md lists the differences and explains
TD(lambda).
"""

from __future__ import annotations

import dataclasses
import operator
from typing import ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.agents.parts.actor_critic import Actor, ActorConfig, Trained, minimized, new_value
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, count, positive, share
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.networks.noise import NoiseNetwork
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class DAWRConfig(ActorConfig):
    """Settings of the algorithm; `PRESETS` has named ones."""

    algorithm: ClassVar[str] = "dawr"

    # width and number of the hidden layers of V
    critic_width: int = count(256)
    critic_depth: int = count(2)
    # Adam's, of V
    learning_rate: float = positive(3e-4)
    # gradient steps for each environment step
    update_ratio: float = at_least_zero(0.5)
    # share of what follows a chunk that is looked up further on, and not taken from V
    lambda_share: float = share(0.95)
    # chunks that are looked up; from the last on, what was really achieved counts
    lookahead: int = count(16)
    # weights are exp(beta * advantage), advantages less their mean and in standard deviations of the batch
    beta: float = positive(10.0)
    # largest weight that a chunk gets
    largest_weight: float = positive(100.0)


PRESETS: dict[str, DAWRConfig] = {"default": DAWRConfig()}


class Paths(NamedTuple):
    """The batch of one update: n transitions, and the chunks that followed each in its episode."""

    data: Transitions  # (n * lookahead): for each of n, the transition and its successors
    follows: Bool[Array, "n l-1"]  # whether each successor continues its predecessor's episode


class DAWR(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor
    trained_value: Trained  # V of a state, an `eqx.nn.MLP`
    key: PRNGKeyArray
    config: DAWRConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: DAWRConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`."""
        value_key, key = jax.random.split(key)
        value = new_value(base.state_dim, config.critic_width, config.critic_depth, value_key)
        trained_value = Trained.new(value, config.learning_rate)
        return cls(actor=Actor.of(base, config), trained_value=trained_value, key=key, config=config)

    @property
    def value(self) -> eqx.nn.MLP:
        """V of a state."""
        return self.trained_value.model

    def deployed(self) -> Policy:
        """A single sample, because the advantages already shape the score."""
        return self.actor.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Paths:
        """Demonstrated and replayed transitions, each with its successors in the episode."""
        c, n, store = self.config, self.config.batch_size, experience.store
        demonstration_key, replay_key = jax.random.split(key)
        theirs = experience.demonstrations.draw(demonstration_key, n)
        own = (jnp.arange(n) >= round(n * c.demonstration_share)) & (experience.replay.size > 0)
        rows = jnp.where(own, experience.replay.draw(replay_key, n), theirs)
        # the next chunk of an episode starts where this one ends
        path = rows[:, None] + self.actor.policy.spec.execute * jnp.arange(c.lookahead)
        last = store.last[rows][:, None]
        data = store.transitions(jnp.minimum(path, last - 1).ravel())
        return Paths(data, path[:, 1:] < last)

    def states_at(self, batch: Paths) -> Int[Array, " n"]:
        """See `OffPolicyAgent.states_at`; the first state of each path."""
        rows = batch.data.row
        assert rows is not None, "they were drawn from a store"
        return rows[:: self.config.lookahead]

    def with_states(self, batch: Paths, states: Float[Array, "n s"]) -> Paths:
        """See `OffPolicyAgent.with_states`."""
        state = batch.data.state.at[:: self.config.lookahead].set(states)
        return batch._replace(data=batch.data._replace(state=state))

    def update(self, batch: Paths, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of V and, unless warming up, of the score network with V's previous errors."""
        c = self.config
        key, noise_key = jax.random.split(self.key)
        first = jax.tree.map(operator.itemgetter(slice(None, None, c.lookahead)), batch.data)
        returns = self.lambda_returns(batch)

        def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
            v = jax.vmap(value)(first.state)
            return jnp.mean((returns - v) ** 2), v

        trained_value, loss, v = minimized(self.trained_value, value_loss)
        agent = dataclasses.replace(self, key=key, trained_value=trained_value)
        metrics = {
            "critic/loss": loss,
            "critic/value": jnp.mean(v),
            "critic/value_max": jnp.max(v),
            "critic/return": jnp.mean(returns),
        }
        if not update_policy:
            return agent, metrics
        advantage = returns - v
        advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-6)
        weights = jax.lax.stop_gradient(jnp.minimum(jnp.exp(c.beta * advantage), c.largest_weight))
        diffusion = self.actor.policy.diffusion

        def loss_of(network: NoiseNetwork) -> tuple[Array, Metrics]:
            losses = diffusion.losses(network, first.state, first.plan, noise_key)
            return jnp.mean(weights * losses), {"policy/imitation_loss": jnp.mean(losses)}

        actor, policy_metrics = self.actor.step(loss_of)
        effective = jnp.sum(weights) ** 2 / jnp.sum(weights**2) / weights.shape[0]
        metrics |= {"policy/weight": jnp.mean(weights), "policy/effective_share": effective}
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics

    def lambda_returns(self, paths: Paths) -> Float[Array, " n"]:
        """Lambda-returns of the first transition of each path: G = r + d ((1 - lambda) V(s') + lambda G').

        G' is the return of the next chunk of the episode, or V(s') if there is none. For the last chunk of
        the path, G' is the achieved return, where it is known.
        """
        share, length = self.config.lambda_share, self.config.lookahead

        def by_path(field: Array) -> Array:
            return field.reshape(-1, length, *field.shape[1:])

        data = jax.tree.map(by_path, paths.data)
        values = jax.vmap(jax.vmap(self.value))(data.next_state)
        achieved = data.return_to_go[:, -1]
        estimated = data.reward[:, -1] + data.discount[:, -1] * values[:, -1]
        last = jnp.where(jnp.isfinite(achieved), achieved, estimated)

        def backwards(
            later: Float[Array, " n"],
            step: tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"], Bool[Array, " n"]],
        ) -> tuple[Float[Array, " n"], None]:
            reward, discount, value, followed = step
            ahead = jnp.where(followed, (1 - share) * value + share * later, value)
            return reward + discount * ahead, None

        steps = (data.reward[:, :-1].T, data.discount[:, :-1].T, values[:, :-1].T, paths.follows.T)
        returns, _ = jax.lax.scan(backwards, last, steps, reverse=True)
        return returns


AGENT = DAWR
