"""RLPD: soft actor-critic from scratch with many critics; half of every batch is demonstrations.

Source: Ball, Smith, Kostrikov, Levine, "Efficient online reinforcement learning with offline data", ICML
2023, arXiv 2302.02948; soft actor-critic itself by Haarnoja et al., arXiv 1812.05905, the random subsets of
critics by Chen et al., REDQ, ICLR 2021. docs/algorithms/rlpd.md lists the differences.

There is no pre-training and no imitation. Demonstrations only affect Q, whose layer normalisation prevents
high values away from the data.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.agents.parts.actor_critic import Critics, QConfig, Trained, minimized
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.agents.parts.settings import at_least_zero, count, positive, share
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.networks.critics import QEnsemble
from otpr.policies.generators import TanhGaussian, plan_shape
from otpr.policies.policy import Policy
from otpr.spec import Spec


@dataclasses.dataclass(frozen=True)
class RLPDConfig(QConfig):
    """Settings of the algorithm; docs/algorithms/rlpd.md gives the source of each."""

    algorithm: ClassVar[str] = "rlpd"

    # the paper's ratio is 20
    update_ratio: float = at_least_zero(0.25)
    # critics and policy are never updated apart
    warmup_updates: int = count(0, least=0)
    # share of demonstrations in every batch
    demonstration_share: float = share(0.5)
    # Q networks, whose mean the policy ascends
    num_critics: int = count(10)
    # of the target networks, drawn anew at every step, whose minimum is the target
    target_critics: int = count(2)
    # width and number of the hidden layers of Q and of the policy
    width: int = count(256)
    depth: int = count(2)
    # weight of the entropy to begin with; the paper's 1 needs 15,000 steps of its own to come down to this
    initial_temperature: float = positive(0.01)

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if self.target_critics > self.num_critics:
            raise ValueError(
                f"target_critics ({self.target_critics}) must not exceed num_critics ({self.num_critics})."
            )

    def acting_spec(self, base: Spec) -> Spec:
        """The base's spec with single actions in place of plans, as in the paper."""
        return dataclasses.replace(base, horizon=1, execute=1, offset=0)


class RLPD(OffPolicyAgent):
    """The agent, an immutable pytree. A chunk is a single action."""

    actor: Trained  # the policy's generator, a `TanhGaussian` that draws samples
    critics: Critics
    temperature: Trained  # the logarithm of the temperature
    base: Policy  # provides the encoder
    key: PRNGKeyArray
    config: RLPDConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss",)
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: RLPDConfig, key: PRNGKeyArray) -> Self:
        """An untrained agent that only takes the encoder of `base`."""
        c = config
        critic_key, policy_key, key = jax.random.split(key, 3)
        spec, sizes = c.acting_spec(base.spec), {"width": c.width, "depth": c.depth}
        critic = QEnsemble(base.state_dim, spec.chunk_dim, size=c.num_critics, **sizes, key=critic_key)
        generator = TanhGaussian.new(base.state_dim, plan_shape(spec), **sizes, key=policy_key)
        log_temperature = jnp.log(jnp.asarray(c.initial_temperature, jnp.float32))
        return cls(
            actor=Trained.new(generator, c.learning_rate),
            critics=Critics.of(critic, c),
            temperature=Trained.new(log_temperature, c.learning_rate),
            base=dataclasses.replace(base.single(), generator=generator, spec=spec),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """The policy that acts by its mode."""
        return self.base.with_generator(dataclasses.replace(self.actor.model, deterministic=True))

    def exploring(self) -> Policy:
        """The policy that draws samples."""
        return self.base.with_generator(self.actor.model)

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Transitions:
        """Transitions from demonstrations and replay, half each by default."""
        return experience.sample_both(key, self.config.batch_size, self.config.demonstration_share)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: Transitions, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of Q, then of the policy on the new Q, then of the temperature."""
        key, next_key, subset_key, policy_key = jax.random.split(self.key, 4)
        # the targets leave out the entropy term, as in the authors' code for sparse rewards
        next_chunks, _ = self.actor.model.sample_batch(batch.next_state, next_key)
        next_q = self._next_values(batch.next_state, next_chunks, subset_key)
        critics, metrics = self.critics.step(batch, next_q)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        agent, policy_metrics = agent._update_policy(batch.state, policy_key)
        return agent, {**metrics, **policy_metrics}

    def _next_values(
        self, next_states: Float[Array, "n s"], next_chunks: Float[Array, "n c"], key: PRNGKeyArray
    ) -> Float[Array, " n"]:
        """The minimum over a random subset of the target networks, drawn without replacement."""
        c = self.config
        arrays, static = eqx.partition(self.critics.target.members, eqx.is_array)

        def values(i: Array) -> Array:
            member = eqx.combine(jax.tree.map(operator.itemgetter(i), arrays), static)
            return member(next_states, next_chunks)

        chosen = jax.random.choice(key, c.num_critics, (c.target_critics,), replace=False)
        return jnp.min(jnp.stack([values(i) for i in chosen]), axis=0)

    def _update_policy(self, states: Float[Array, "n s"], key: PRNGKeyArray) -> tuple[Self, Metrics]:
        """Maximise Q's mean and the entropy, then adjust the temperature towards the target entropy."""
        temperature = jnp.exp(self.temperature.model)
        # an encoder that learns from this loss gets gradients through the policy's state, not through Q's
        unmoved = jax.lax.stop_gradient(states)

        def loss_of(generator: TanhGaussian) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            chunks, log_densities = generator.sample_batch(states, key)
            q = jnp.mean(self.critics.q(unmoved, chunks))
            log_density = jnp.mean(log_densities)
            return temperature * log_density - q, (q, -log_density)

        actor, loss, (q, entropy) = minimized(self.actor, loss_of)
        target_entropy = -self.base.spec.action_dim / 2
        slope = temperature * (entropy - target_entropy)  # derivative of exp(log) * (entropy - target) by log
        agent = dataclasses.replace(self, actor=actor, temperature=self.temperature.step(slope))
        return agent, {
            "policy/loss": loss,
            "policy/q": q,
            "policy/entropy": entropy,
            "policy/temperature": temperature,
        }


AGENT = RLPD
PRESETS = {"default": RLPDConfig()}
