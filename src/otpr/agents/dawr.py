"""DAWR: advantage-weighted regression with a diffusion policy.

Source: Peng, Kumar, Zhang, Levine, "Advantage-weighted regression: Simple and scalable off-policy
reinforcement learning", arXiv 1910.00177, with score matching in place of the likelihood, as Ren et al.
(DPPO, arXiv 2409.00588) compare with it. docs/algorithms/dawr.md lists what differs here, and says what
TD(lambda) means.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.agents.parts.agent import Agent
from otpr.agents.parts.diffusion_policy import (
    DiffusionPolicyConfig,
    TrainedPolicy,
    new_trained_policy,
    policy_step,
)
from otpr.agents.parts.steps import gradient_step
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience, pick
from otpr.diffusion import denoising_losses
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class DAWRConfig(DiffusionPolicyConfig):
    """Settings of the algorithm; `PRESETS` names some."""

    algorithm: ClassVar[str] = "dawr"

    # width and number of the hidden layers of V
    critic_width: int = 256
    critic_depth: int = 2
    learning_rate: float = 3e-4
    # gradient steps for each environment step
    update_ratio: float = 0.5
    # share of what follows a chunk that is looked up further on, and not taken from V
    lambda_share: float = 0.95
    # chunks that are looked up; from the last on, what was really achieved counts
    lookahead: int = 16
    # weights are exp(beta * advantage), advantages in standard deviations of the batch
    beta: float = 10.0
    # and at most this
    largest_weight: float = 100.0

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        for name in ("beta", "largest_weight"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}.")


PRESETS: dict[str, DAWRConfig] = {"default": DAWRConfig()}


class DAWRBatch(NamedTuple):
    """What one update learns from."""

    # (batch_size * lookahead) of them: for each of the batch its transition and those `lookahead - 1` chunks
    # after it, where the episode is not over before; rows of other episodes where it is
    paths: Transitions


class DAWR(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`
    value: eqx.nn.MLP
    policy_state: optax.OptState
    value_state: optax.OptState
    key: PRNGKeyArray
    config: DAWRConfig = eqx.field(static=True)
    batch_type: ClassVar[type[Any]] = DAWRBatch

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: DAWRConfig, key: PRNGKeyArray) -> DAWR:
        """See `Agent.create`; of the keypoints, the dimensions alone are used."""
        value_key, key = jax.random.split(key)
        width, depth = config.critic_width, config.critic_depth
        state_dim = keypoints.observation.shape[1]
        value = eqx.nn.MLP(state_dim, "scalar", width, depth, jax.nn.relu, key=value_key)
        trained = new_trained_policy(base, optax.adam(config.policy_learning_rate))
        return cls(
            **trained._asdict(),
            value=value,
            value_state=optax.adam(config.learning_rate).init(eqx.filter(value, eqx.is_array)),
            key=key,
            config=config,
        )

    def deployed(self) -> Policy:
        """One sample: the advantages have gone into the score."""
        return self.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> DAWRBatch:
        """Demonstrated and replayed transitions, each with what followed it in its episode."""
        c = self.config
        n = c.batch_size
        demonstration_key, replay_key = jax.random.split(key)
        demonstrated, replay = experience.demonstrations.transitions, experience.replay
        # which rows the mixture would draw
        numbers = jnp.arange(demonstrated.reward.shape[0])
        numbered = experience.demonstrations._replace(transitions=Transitions(*[numbers] * 6))
        theirs = numbered.sample(demonstration_key, n).reward
        ours = jax.random.randint(replay_key, (n,), 0, jnp.maximum(replay.size, 1))
        own = (jnp.arange(n) >= round(n * c.demonstration_share)) & (replay.size > 0)

        # windows start at every step, in order: the next chunk of an episode is a chunk's length further on
        ahead = self.policy.chunk_length * jnp.arange(c.lookahead)

        def paths(rows: Int[Array, " n"], last: int | Int[Array, ""]) -> Int[Array, " nl"]:
            return jnp.minimum(rows[:, None] + ahead, last).reshape(-1)

        their_rows = paths(theirs, numbers[-1])
        our_rows = paths(ours, jnp.maximum(replay.size - 1, 0))
        return DAWRBatch(
            pick(
                jnp.repeat(own, c.lookahead),
                Transitions(*(field[our_rows] for field in replay.data)),
                Transitions(*(field[their_rows] for field in demonstrated)),
            )
        )

    def update(self, batch: DAWRBatch, update_policy: bool = True) -> tuple[DAWR, dict[str, Array]]:
        """One gradient step of V, and (unless warming up) of the score network by V's errors before it."""
        c = self.config
        key, noise_key = jax.random.split(self.key)
        first = Transitions(*(field[:: c.lookahead] for field in batch.paths))
        states = self.policy.normalizer(first.observation)
        returns = self.lambda_returns(batch.paths)

        def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
            v = jax.vmap(value)(states)
            return jnp.mean((returns - v) ** 2), v

        (loss, v), gradient = eqx.filter_value_and_grad(value_loss, has_aux=True)(self.value)
        value, value_state = gradient_step(
            optax.adam(c.learning_rate), gradient, self.value_state, self.value
        )
        agent = dataclasses.replace(self, key=key, value=value, value_state=value_state)
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
        weights = jnp.minimum(jnp.exp(c.beta * advantage), c.largest_weight)
        schedule = self.policy.diffusion.schedule

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            losses = denoising_losses(network, schedule, states, first.chunk, noise_key)
            return jnp.mean(weights * losses), {"policy/imitation_loss": jnp.mean(losses)}

        trained, policy_metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        effective = jnp.sum(weights) ** 2 / jnp.sum(weights**2) / weights.shape[0]
        metrics |= {"policy/weight": jnp.mean(weights), "policy/effective_share": effective}
        return dataclasses.replace(agent, **trained._asdict()), metrics | policy_metrics

    def lambda_returns(self, paths: Transitions) -> Float[Array, " n"]:
        """Returns of the first transition of each path: G = r + d ((1 - lambda) V(s') + lambda G').

        G' is that of the chunk which follows in the episode; where none does, V(s') stands for it; that of
        the last looked up is what was really achieved from there (where that is known).
        """
        share, length = self.config.lambda_share, self.config.lookahead
        paths = Transitions(*(field.reshape(-1, length, *field.shape[1:]) for field in paths))
        values = jax.vmap(jax.vmap(self.value))(self.policy.normalizer(paths.next_observation))
        achieved = paths.return_to_go[:, -1]
        estimated = paths.reward[:, -1] + paths.discount[:, -1] * values[:, -1]
        last = jnp.where(jnp.isfinite(achieved), achieved, estimated)
        # rows of one episode: what the one ended with is what the next began with
        follows = jnp.all(paths.next_observation[:, :-1] == paths.observation[:, 1:], axis=-1)

        def backwards(
            later: Float[Array, " n"],
            step: tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"], Bool[Array, " n"]],
        ) -> tuple[Float[Array, " n"], None]:
            reward, discount, value, followed = step
            ahead = jnp.where(followed, (1 - share) * value + share * later, value)
            return reward + discount * ahead, None

        steps = (paths.reward[:, :-1].T, paths.discount[:, :-1].T, values[:, :-1].T, follows.T)
        returns, _ = jax.lax.scan(backwards, last, steps, reverse=True)
        return returns


AGENT = DAWR
