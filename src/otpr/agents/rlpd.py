"""RLPD: soft actor-critic from scratch, half of every batch demonstrations, with many critics.

Source: Ball, Smith, Kostrikov, Levine, "Efficient online reinforcement learning with offline data", ICML
2023, arXiv 2302.02948; soft actor-critic itself by Haarnoja et al., arXiv 1812.05905, the random subsets of
critics by Chen et al., REDQ, ICLR 2021. docs/algorithms/rlpd.md lists what differs here.

Nothing is pre-trained and nothing imitates: what the demonstrations show comes in by Q alone, whose layer
normalisation keeps it from being high where there are no data.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.agent import Agent, Batch
from otpr.agents.parts.steps import gradient_step
from otpr.agents.parts.td import QConfig, TDCritics, critic_step
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.networks.critics import QEnsemble
from otpr.policies.generators import TanhGaussian
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class RLPDConfig(QConfig):
    """Settings of the algorithm; docs/algorithms/rlpd.md says where each comes from."""

    algorithm: ClassVar[str] = "rlpd"

    # the paper's ratio is 20
    update_ratio: float = 0.25
    # critics and policy are never updated apart
    warmup_updates: int = 0
    # share of demonstrations in every batch
    demonstration_share: float = 0.5
    # Q networks, whose mean the policy ascends
    num_critics: int = 10
    # of the target networks, drawn anew at every step, whose minimum is the target
    target_critics: int = 2
    # width and number of the hidden layers of Q and of the policy
    width: int = 256
    depth: int = 2
    # weight of the entropy to begin with; the paper's 1 needs 15,000 steps of its own to come down to this
    initial_temperature: float = 0.01

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 < self.initial_temperature < float("inf"):
            raise ValueError(
                f"initial_temperature must be a positive number, got {self.initial_temperature}."
            )
        if self.target_critics > self.num_critics:
            raise ValueError(
                f"target_critics ({self.target_critics}) must not exceed num_critics ({self.num_critics})."
            )

    def chunk_length(self, base: Policy) -> int:
        """1: a step at a time, as in the paper."""
        return 1


class RLPD(Agent):
    """The agent, one immutable pytree. States are normalised observations; a chunk is one action."""

    policy: Policy  # its generator draws samples
    critic: QEnsemble
    target_critic: QEnsemble
    log_temperature: Float[Array, ""]
    policy_state: optax.OptState
    critic_state: optax.OptState
    temperature_state: optax.OptState
    key: PRNGKeyArray
    config: RLPDConfig = eqx.field(static=True)
    starts_from_base: ClassVar[bool] = False

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: RLPDConfig, key: PRNGKeyArray) -> RLPD:
        """An agent that knows nothing; of `base` it takes the normalisation of observations alone."""
        c = config
        state_dim, action_dim = keypoints.observation.shape[1], keypoints.chunk.shape[1]
        critic_key, policy_key, key = jax.random.split(key, 3)
        sizes = {"width": c.width, "depth": c.depth}
        critic = QEnsemble(state_dim, action_dim, size=c.num_critics, **sizes, key=critic_key)
        generator = TanhGaussian.new(state_dim, action_dim, **sizes, key=policy_key)
        log_temperature = jnp.log(jnp.asarray(c.initial_temperature, jnp.float32))
        adam = optax.adam(c.learning_rate)
        return cls(
            policy=dataclasses.replace(base.single(), generator=generator, chunk_length=1),
            critic=critic,
            target_critic=critic,
            log_temperature=log_temperature,
            policy_state=adam.init(eqx.filter(generator, eqx.is_array)),
            critic_state=adam.init(eqx.filter(critic, eqx.is_array)),
            temperature_state=adam.init(log_temperature),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """The mode."""
        generator = dataclasses.replace(self._generator, deterministic=True)
        return dataclasses.replace(self.policy, generator=generator)

    def exploring(self) -> Policy:
        """Samples."""
        return self.policy

    @property
    def _generator(self) -> TanhGaussian:
        return cast(TanhGaussian, self.policy.generator)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrations and replay, by halves."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[RLPD, dict[str, Array]]:
        """One gradient step of Q, then of the policy on the new Q, then of the temperature."""
        key, next_key, subset_key, policy_key = jax.random.split(self.key, 4)
        c, data = self.config, batch.data
        states, next_states = (self.policy.normalizer(x) for x in (data.observation, data.next_observation))
        # the entropy to come is no part of the targets: so the authors do wherever rewards are sparse
        next_chunks, _ = self._generator.sample_batch(next_states, next_key)
        next_q = self._next_values(next_states, next_chunks, subset_key)
        critics = TDCritics(self.critic, self.target_critic, self.critic_state)
        critics, metrics = critic_step(critics, data, states, next_q, c)
        agent = dataclasses.replace(self, key=key, **critics._asdict())
        if not update_policy:
            return agent, metrics
        agent, policy_metrics = agent._update_policy(states, policy_key)
        return agent, {**metrics, **policy_metrics}

    def _next_values(
        self, next_states: Float[Array, "n s"], next_chunks: Float[Array, "n a"], key: PRNGKeyArray
    ) -> Float[Array, " n"]:
        """The least of a few target networks' values, drawn at random, none twice."""
        c = self.config
        arrays, static = eqx.partition(self.target_critic.members, eqx.is_array)

        def values(i: Array) -> Array:
            member = eqx.combine(jax.tree.map(operator.itemgetter(i), arrays), static)
            return member(next_states, next_chunks)

        chosen = jax.random.choice(key, c.num_critics, (c.target_critics,), replace=False)
        return jnp.min(jnp.stack([values(i) for i in chosen]), axis=0)

    def _update_policy(self, states: Float[Array, "n s"], key: PRNGKeyArray) -> tuple[RLPD, dict[str, Array]]:
        """Ascent of Q's mean and of the entropy; the temperature then moves the entropy to its target."""
        temperature = jnp.exp(self.log_temperature)
        optimizer = optax.adam(self.config.learning_rate)

        def loss_of(generator: TanhGaussian) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            chunks, log_densities = generator.sample_batch(states, key)
            q = jnp.mean(self.critic(states, chunks))
            log_density = jnp.mean(log_densities)
            return temperature * log_density - q, (q, -log_density)

        (loss, (q, entropy)), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(self._generator)
        generator, policy_state = gradient_step(optimizer, gradient, self.policy_state, self._generator)

        target_entropy = -self.policy.action_dim / 2
        slope = temperature * (entropy - target_entropy)  # of exp(log) * (entropy - target), by the logarithm
        log_temperature, temperature_state = gradient_step(
            optimizer, slope, self.temperature_state, self.log_temperature
        )
        agent = dataclasses.replace(
            self,
            policy=dataclasses.replace(self.policy, generator=generator),
            policy_state=policy_state,
            log_temperature=log_temperature,
            temperature_state=temperature_state,
        )
        return agent, {
            "policy/loss": loss,
            "policy/q": q,
            "policy/entropy": entropy,
            "policy/temperature": temperature,
        }


AGENT = RLPD
PRESETS = {"default": RLPDConfig()}
