"""Fine-tuning with a trainable image encoder.

With a frozen encoder, states are computed once, when an episode is collected. Here, a gradient step computes
the states in its losses from the frames. All other states (after a chunk, and for potentials, keypoints and
choices by H) are cached and re-encoded once per round.

Algorithms do not depend on this. An update is a function of the states in its batch, and the gradient of its
losses with respect to these states is propagated to the encoder.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, Self, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.agents import agent_class, algorithm_names
from otpr.agents.parts.actor_critic import Trained, followed
from otpr.agents.parts.agent import Agent, AgentConfig, Metrics, OffPolicyAgent, OnPolicyAgent
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.errors import OtprError, check_at_least, unknown_name
from otpr.policies.encoder import Observations
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder

Tree = TypeVar("Tree")

EncoderSource = Literal["frozen", "policy", "critics", "both"]
"""The losses that an image encoder learns from during fine-tuning."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Training of a policy's image encoder during fine-tuning."""

    # what the encoder of images learns from: nothing, the loss of the policy, that of the critics, or both
    encoder: EncoderSource = "frozen"
    # Adam's, of the encoder
    encoder_learning_rate: float = 1e-4
    # how far the encoder that acts, a moving average, moves towards the trained one each step
    encoder_ema_rate: float = 0.005
    # images that the encoder learns from are moved by up to so many pixels
    random_shift: int = 4

    def __post_init__(self) -> None:
        """Check the numbers, and refuse settings of an encoder that is not trained.

        Raises:
            OtprError: a setting is not valid; the message names it.
        """
        if self.encoder not in (known := get_args(EncoderSource)):
            raise unknown_name("--encoder", self.encoder, known)
        check_at_least(0, self, "random_shift")
        for name in ("encoder_learning_rate", "encoder_ema_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise OtprError(f"{name} must lie in (0, 1], given {getattr(self, name)}.")
        if self.trains:
            return
        for field in dataclasses.fields(self):
            if (given := getattr(self, field.name)) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise OtprError(
                    f"{option} {given} is about an encoder that is trained, and this one is frozen. Say what "
                    f"it learns from with --encoder policy, critics or both, or leave {option} out."
                )

    @property
    def trains(self) -> bool:
        """Whether the encoder is trained."""
        return self.encoder != "frozen"


class SeeingConfig(NamedTuple):
    """Settings of an algorithm and of the encoder that it trains."""

    agent: AgentConfig
    encoder: EncoderConfig


class Seen(NamedTuple):
    """The batch of a gradient step."""

    batch: Any  # the algorithm's batch
    observations: Observations  # at the rows of `Seeing.states_at`, as `Encoder.on_device` gives them


class Seeing(OffPolicyAgent):
    """An algorithm with a trainable encoder, as an immutable pytree.

    Args:
        agent: the algorithm. Its policy's encoder is the one that computed the cached states.
        trained: the trained encoder, a `VisionEncoder`.
        average: the moving average of the encoder, which becomes the policy's encoder whenever states are
            re-encoded.
        key: draws the batches of the gradient steps and any randomness in the encoder.
        config: the algorithm's settings.
        settings: the settings of the encoder's training.
    """

    agent: OffPolicyAgent
    trained: Trained
    average: VisionEncoder
    key: PRNGKeyArray
    config: AgentConfig = eqx.field(static=True)
    settings: EncoderConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: SeeingConfig, key: PRNGKeyArray) -> Self:
        """Create an agent of an off-policy algorithm with the encoder of `base`.

        Raises:
            OtprError: the policy sees no images, or the algorithm cannot train an encoder; or as in
                `Agent.create`.
        """
        algorithm, settings = config
        check_encoder(base, algorithm.algorithm, settings)
        agent = agent_class(algorithm.algorithm).create(base, experience, algorithm, key)
        encoder = base.encoder
        assert isinstance(agent, OffPolicyAgent) and isinstance(encoder, VisionEncoder), "as was checked"
        trained = Trained.new(encoder, settings.encoder_learning_rate)
        return cls(
            agent=agent,
            trained=trained,
            average=encoder,
            key=jax.random.fold_in(key, 1),
            config=algorithm,
            settings=settings,
        )

    @property
    def encoder(self) -> VisionEncoder:
        """The encoder that computed the cached states and that acts."""
        encoder = self.agent.deployed().encoder
        assert isinstance(encoder, VisionEncoder)
        return encoder

    # --- what the algorithm does

    def deployed(self) -> Policy:
        """See `Agent.deployed`."""
        return self.agent.deployed()

    def exploring(self) -> Policy:
        """See `Agent.exploring`."""
        return self.agent.exploring()

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Any:
        """The algorithm's batch. `update` takes it together with its observations, as a `Seen`."""
        return self.agent.draw(experience, key)

    def states_at(self, batch: Any) -> Int[Array, " n"]:
        """See `OffPolicyAgent.states_at`."""
        return self.agent.states_at(batch)

    def begin_block(self, experience: Experience) -> Self:
        """See `OffPolicyAgent.begin_block`."""
        return dataclasses.replace(self, agent=self.agent.begin_block(experience))

    def end_round(self, experience: Experience) -> tuple[Self, Metrics]:
        """See `OffPolicyAgent.end_round`."""
        agent, metrics = self.agent.end_round(experience)
        return dataclasses.replace(self, agent=agent), metrics

    def q_values(self, pairs: Transitions) -> Float[Array, " n"] | Float[Array, "size n"] | None:
        """See `OffPolicyAgent.q_values`."""
        return self.agent.q_values(pairs)

    # --- and the encoder

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The names of the losses that the encoder learns from."""
        of_critics, of_policy = self.agent.critic_losses, self.agent.policy_losses
        return {"policy": of_policy, "critics": of_critics}.get(self.settings.encoder, of_critics + of_policy)

    def update(self, batch: Seen, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One simultaneous gradient step of the algorithm and of the encoder.

        While the critics warm up, the encoder is not trained, because the policy would not adapt to changed
        features.
        """
        key, see_key = jax.random.split(self.key)
        pad, seen = self.settings.random_shift, batch.observations

        def see(encoder: VisionEncoder) -> Float[Array, "n s"]:
            return encoder.training_states(seen, pad, see_key)

        states, back = eqx.filter_vjp(see, self.trained.model)

        def learn(states: Float[Array, "n s"]) -> tuple[Array, tuple[Any, Metrics]]:
            agent, metrics = self.agent.update(self.agent.with_states(batch.batch, states), update_policy)
            names = self.learns_from if update_policy else ()
            loss = sum((metrics[name] for name in names), start=jnp.zeros(()))
            return loss, (eqx.filter(agent, eqx.is_array), metrics)

        slope, (arrays, metrics) = jax.grad(learn, has_aux=True)(states)
        agent = eqx.combine(arrays, eqx.filter(self.agent, eqx.is_array, inverse=True))
        after = dataclasses.replace(self, agent=agent, key=key)
        if not update_policy:
            return after, metrics
        trained = self.trained.step(back(slope)[0])
        average = followed(self.average, trained.model, self.settings.encoder_ema_rate)
        metrics = {**metrics, "encoder/slope": jnp.sqrt(jnp.sum(slope**2))}
        return dataclasses.replace(after, trained=trained, average=average), metrics

    def acting_anew(self) -> Self:
        """The agent with the current average as its policies' encoder. States must be re-encoded next."""
        return dataclasses.replace(self, agent=_seeing_by(self.agent, self.average))

    def states_moved(self, experience: Experience) -> Self:
        """See `OffPolicyAgent.states_moved`."""
        return dataclasses.replace(self, agent=self.agent.states_moved(experience))


def _seeing_by(tree: Tree, encoder: VisionEncoder) -> Tree:
    """Set the encoder of every policy in a tree."""

    def is_policy(node: Any) -> bool:
        return isinstance(node, Policy)

    def changed(node: Any) -> Any:
        return dataclasses.replace(node, encoder=encoder) if is_policy(node) else node

    return jax.tree.map(changed, tree, is_leaf=is_policy)


def new_agent(
    base: Policy, experience: Experience, config: AgentConfig, encoder: EncoderConfig, key: PRNGKeyArray
) -> Agent:
    """Create an untrained agent of any algorithm, with a frozen or a trainable encoder.

    Args:
        base: the pre-trained policy.
        experience: holds the demonstrations.
        config: the algorithm's settings, which name it.
        encoder: the settings of the encoder's training.
        key: draws all randomness.

    Raises:
        OtprError: see `Agent.create` and `check_encoder`.
    """
    if encoder.trains:
        return Seeing.create(base, experience, SeeingConfig(config, encoder), key)
    return agent_class(config.algorithm).create(base, experience, config, key)


def check_encoder(base: Policy, algorithm: str, settings: EncoderConfig) -> None:
    """Check that the policy sees images and that the algorithm can train an encoder.

    Raises:
        OtprError: one of the two is not the case. The message lists the suitable algorithms.
    """
    if not settings.trains:
        return
    asked, kind = f"--encoder {settings.encoder}", agent_class(algorithm)
    if not isinstance(base.encoder, VisionEncoder):
        raise OtprError(
            f"{asked} trains an encoder of images, and this policy sees none: its encoder is of kind "
            f"{base.encoder.kind!r}, in which nothing is trained. Leave --encoder out."
        )
    if _trains_encoders(kind):
        return
    why = "it names no losses at the states of its batches"
    if issubclass(kind, OnPolicyAgent):
        why = "it learns from the states of whole rounds, computed while they were collected"
    elif not issubclass(kind, OffPolicyAgent):
        why = "it learns nothing"
    others = ", ".join(name for name in algorithm_names() if _trains_encoders(agent_class(name)))
    raise OtprError(
        f"{asked} is not for {algorithm}: {why}. Leave --encoder out, or take an algorithm that can train an "
        f"encoder: {others}."
    )


def _trains_encoders(kind: type[Agent]) -> bool:
    return issubclass(kind, OffPolicyAgent) and bool(kind.critic_losses + kind.policy_losses)
