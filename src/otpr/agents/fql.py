"""Flow Q-learning: a one-step policy that maximises Q while it stays close to a policy that imitates.

Source: Park, Li, Levine, "Flow Q-Learning", ICML 2025, arXiv 2502.02538. docs/algorithms/fql.md lists what
differs here.

The diffusion policy imitates everything seen so far; its probability-flow ODE is the flow. A second network
maps the flow's noise to chunks in one pass: it is drawn to where the flow ends (distillation) and to where Q
is high, and it alone acts. No gradient passes through the steps of the flow.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.agents.parts.agent import Agent, Batch
from otpr.agents.parts.diffusion_policy import (
    DiffusionPolicyConfig,
    TrainedPolicy,
    new_trained_policy,
    policy_step,
)
from otpr.agents.parts.regression import CriticsConfig
from otpr.agents.parts.steps import gradient_step
from otpr.agents.parts.td import TDCritics, new_td_critics, td_step
from otpr.critics import QEnsemble
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import NoiseNetwork, denoising_losses
from otpr.diffusion.sampling import sample_chain
from otpr.generators import Diffusion, OneStep
from otpr.policy import Policy


@dataclasses.dataclass(frozen=True)
class FQLConfig(CriticsConfig, DiffusionPolicyConfig):
    """Settings of the algorithm; docs/algorithms/fql.md says where each comes from."""

    algorithm: ClassVar[str] = "fql"

    # of the distillation of the pre-trained policy alone, before the first environment step
    offline_updates: int = 5_000
    # the paper's ratio is 1
    update_ratio: float = 0.4
    # weight of the distillation against Q
    alpha: float = 3.0

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be a positive number, got {self.alpha}.")


class FQL(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    policy: Policy  # its generator is the one-step policy
    network: NoiseNetwork  # of the teacher, as trained
    teacher: Policy  # imitates, with the moving average of `network`
    critic: QEnsemble
    target_critic: QEnsemble
    policy_state: optax.OptState
    teacher_state: optax.OptState
    critic_state: optax.OptState
    online: Bool[Array, ""]  # whether there is more than demonstrations
    key: PRNGKeyArray
    config: FQLConfig = eqx.field(static=True)
    starts_from_base: ClassVar[bool] = False

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: FQLConfig, key: PRNGKeyArray) -> FQL:
        """An agent whose teacher is `base`, and whose one-step policy knows nothing yet."""
        c = config
        state_dim, chunk_dim = keypoints.observation.shape[1], keypoints.chunk.shape[1]
        critic_key, policy_key, key = jax.random.split(key, 3)
        critics = new_td_critics(
            state_dim,
            chunk_dim,
            size=c.num_critics,
            width=c.critic_width,
            depth=c.critic_depth,
            learning_rate=c.learning_rate,
            key=critic_key,
        )
        teacher = new_trained_policy(base.single(), optax.adam(c.policy_learning_rate))
        sizes = base.diffusion.network.about()
        one_step = OneStep.new(
            state_dim, chunk_dim, width=sizes["width"], depth=sizes["depth"], key=policy_key
        )
        return cls(
            policy=dataclasses.replace(base.single(), generator=one_step),
            network=teacher.network,
            teacher=teacher.policy,
            policy_state=optax.adam(c.learning_rate).init(eqx.filter(one_step, eqx.is_array)),
            teacher_state=teacher.policy_state,
            online=jnp.asarray(False),
            key=key,
            config=c,
            **critics._asdict(),
        )

    def deployed(self) -> Policy:
        """The one-step policy."""
        return self.policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Batch:
        """Demonstrated and replayed transitions."""
        return Batch(experience.sample_both(key, self.config.batch_size, self.config.demonstration_share))

    def prepare(self, experience: Experience) -> FQL:
        """Notice when there is more than demonstrations."""
        return dataclasses.replace(self, online=experience.replay.size > 0)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: Batch, update_policy: bool = True) -> tuple[FQL, dict[str, Array]]:
        """One gradient step of Q, of the teacher and of the one-step policy, all from where they stand.

        While there are demonstrations alone, of the one-step policy's distillation alone: the teacher has
        been taught, and critics that have seen no failure would think well of everything.
        """
        key, next_key, noise_key, distil_key = jax.random.split(self.key, 4)
        agent, c, data = dataclasses.replace(self, key=key), self.config, batch.data
        states = self.policy.normalizer(data.observation)
        critics, metrics = td_step(
            TDCritics(self.critic, self.target_critic, self.critic_state),
            data,
            self.policy,
            next_key,
            learning_rate=c.learning_rate,
            target_rate=c.target_rate,
            return_bound=c.return_bound,
        )
        taught = dataclasses.replace(agent, **critics._asdict())
        if not update_policy:
            return taught, metrics
        taught, teacher_loss = taught._update_teacher(states, data.chunk, noise_key)
        one_step, policy_state, policy_metrics = self._policy_step(states, distil_key)
        agent = dataclasses.replace(
            _either(self.online, taught, agent),
            policy=dataclasses.replace(self.policy, generator=one_step),
            policy_state=policy_state,
        )
        return agent, {**metrics, "policy/teacher_loss": teacher_loss, **policy_metrics}

    def _update_teacher(
        self, states: Float[Array, "n s"], chunks: Float[Array, "n a"], key: PRNGKeyArray
    ) -> tuple[FQL, Float[Array, ""]]:
        """Imitation of the batch by the diffusion policy."""
        c, schedule = self.config, self.teacher.diffusion.schedule

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            return jnp.mean(denoising_losses(network, schedule, states, chunks, key)), {}

        trained, metrics = policy_step(
            TrainedPolicy(self.network, self.teacher, self.teacher_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        agent = dataclasses.replace(
            self, network=trained.network, teacher=trained.policy, teacher_state=trained.policy_state
        )
        return agent, metrics["policy/loss"]

    def _policy_step(
        self, states: Float[Array, "n s"], key: PRNGKeyArray
    ) -> tuple[OneStep, optax.OptState, dict[str, Array]]:
        """Distillation of the flow, noise by noise, and ascent of Q: the paper's eq. 8."""
        keys = jax.random.split(key, states.shape[0])
        noise, ends = jax.vmap(carried, in_axes=(None, 0, 0))(self.teacher.diffusion, states, keys)

        def loss_of(one_step: OneStep) -> tuple[Float[Array, ""], dict[str, Array]]:
            chunks = jax.vmap(one_step.unclipped)(states, noise)
            distillation = jnp.mean((chunks - ends) ** 2)
            q = jnp.mean(self.critic(states, jnp.clip(chunks, -1, 1)))
            loss = self.config.alpha * distillation - self.online * q
            return loss, {"policy/distillation": distillation, "policy/q": q}

        one_step = cast(OneStep, self.policy.generator)
        (loss, metrics), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(one_step)
        optimizer = optax.adam(self.config.learning_rate)
        one_step, state = gradient_step(optimizer, gradient, self.policy_state, one_step)
        return one_step, state, {"policy/loss": loss, **metrics}


def _either(first: Bool[Array, ""], one: FQL, other: FQL) -> FQL:
    """One of two agents alike but for their arrays."""
    arrays, static = eqx.partition(one, eqx.is_array)
    others = eqx.filter(other, eqx.is_array)

    def chosen(a: Array, b: Array) -> Array:
        return jnp.where(first, a, b)

    return eqx.combine(jax.tree.map(chosen, arrays, others), static)


def carried(
    diffusion: Diffusion, state: Float[Array, " s"], key: PRNGKeyArray
) -> tuple[Float[Array, " a"], Float[Array, " a"]]:
    """Noise, and the chunk that the probability-flow ODE carries it to, by the steps of DDIM."""

    def predict_noise(chunk: Float[Array, " a"], k: Int[Array, ""]) -> Float[Array, " a"]:
        return diffusion.network(state, chunk, k)

    shape = (diffusion.network.chunk_dim,)
    way = sample_chain(predict_noise, diffusion.schedule, shape, key, method="ddim")
    return way[0], way[-1]


AGENT = FQL
PRESETS = {"default": FQLConfig()}
