"""The state of imitation learning: networks, their moving averages, and a step of denoising score matching.

With vectors only, states are computed once before training. With images, they are computed in every step,
because the encoder is trained too, on randomly shifted images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from otpr.agents.parts.actor_critic import followed
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.frames import DecisionObservations
from otpr.diffusion import NoiseSchedule
from otpr.diffusion.parametrization import Prediction
from otpr.errors import OtprError, check_at_least, unknown_name
from otpr.networks.noise import NoiseNetwork
from otpr.networks.vision import VISION
from otpr.policies.denoising import NOISE_NETWORKS, Diffusion, noise_network
from otpr.policies.encoder import Encoder, Observations, VectorEncoder
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder, vector_part
from otpr.scanning import scan_state
from otpr.spec import Spec


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Settings of imitation learning."""

    # observations that a decision sees: the present one and those before it
    history: int = 1
    # actions in a plan
    horizon: int = 4
    # how many of them are executed before the next decision; left out, all that can be
    execute: int | None = None
    # how many actions of a plan lie before the present step; in LeRobot they are `history` less one
    offset: int = 0
    # noise levels of the diffusion
    denoising_steps: int = 10
    # what the score network predicts in a noisy plan
    prediction: Prediction = "noise"
    # the score network: mlp, or unet, the 1-D U-Net as diffusion policies have it elsewhere
    network: str = "mlp"
    # of an MLP, the width of the hidden layers
    width: int = 256
    # of an MLP, the number of the hidden layers
    depth: int = 3
    # of a U-Net, the channels of each level; the horizon is halved from each level to the next
    down_dims: tuple[int, ...] = (64, 128, 256)
    # of a U-Net, how many steps of a plan a convolution sees, an odd number
    kernel_size: int = 5
    # gradient steps
    updates: int = 3000
    # (state, plan) pairs of a gradient step
    batch_size: int = 256
    # Adam's, at the start; it falls to 0 along a cosine
    learning_rate: float = 1e-3
    # the policy that is kept is a moving average of the weights, moved by this much each step
    ema_rate: float = 0.005
    # share of each data set's episodes that is not trained on; its loss is logged
    held_out: float = 0.0
    # what looks at images: small, made for a CPU, or resnet18, as diffusion policies have it elsewhere
    vision: str = "small"
    # one network looks at the images of all cameras, which have one size then
    shared_vision: bool = False
    # images are moved by up to so many pixels while they are imitated
    random_shift: int = 4

    def __post_init__(self):
        """Check the numbers."""
        counts = ("history", "horizon", "denoising_steps", "width", "depth", "updates", "batch_size")
        check_at_least(1, self, *counts, "kernel_size")
        check_at_least(0, self, "learning_rate", "ema_rate", "random_shift", "offset")
        if self.ema_rate > 1:
            raise OtprError(f"ema_rate must be at most 1, given {self.ema_rate}.")
        if self.prediction not in get_args(Prediction):
            raise unknown_name("prediction", self.prediction, get_args(Prediction))
        if self.network not in NOISE_NETWORKS:
            raise unknown_name("network", self.network, NOISE_NETWORKS)
        if self.vision not in VISION:
            raise unknown_name("vision network", self.vision, VISION)

    def policy_spec(self, task: Spec) -> Spec:
        """The policy's spec.

        Raises:
            OtprError: `execute` exceeds `horizon` less `offset`, or is below 1.
        """
        execute = max(self.horizon - self.offset, 1) if self.execute is None else self.execute
        plan = {"history": self.history, "horizon": self.horizon, "execute": execute, "offset": self.offset}
        return dataclasses.replace(task, **plan)

    def network_sizes(self) -> dict[str, Any]:
        """The description of the score network for `otpr.policies.denoising.noise_network`."""
        return {"kind": self.network, **{name: getattr(self, name) for name in _SIZES[self.network]}}

    def record(self, task: Spec) -> dict[str, Any]:
        """The settings that apply to a task, as a JSON document."""
        recorded = dataclasses.asdict(self)
        del recorded["network"]  # implied by its sizes
        if not self.offset:
            del recorded["offset"]  # as in a spec
        for kind, names in _SIZES.items():
            if kind != self.network:
                for name in names:
                    del recorded[name]
        if not task.images:
            for name in ("vision", "shared_vision", "random_shift"):
                del recorded[name]
        return recorded


_SIZES = {"mlp": ("width", "depth"), "unet": ("down_dims", "kernel_size")}
"""The settings of each network."""


class Imitation(eqx.Module):
    """The state of imitation learning, an immutable pytree.

    Args:
        network: the score network.
        encoder: the image encoder, which is trained too; None without images.
        policy: the policy with the moving averages of network and encoder.
        optimizer_state: the optimiser's state.
        key: draws all later randomness.
        config: the settings.
    """

    network: NoiseNetwork
    encoder: VisionEncoder | None
    policy: Policy
    optimizer_state: optax.OptState
    key: PRNGKeyArray
    config: PretrainConfig = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        episodes: Sequence[Episode],
        task: Spec,
        config: PretrainConfig,
        key: PRNGKeyArray,
        resolution: float = 0.0,
    ) -> Imitation:
        """The initial state. Observations are normalised by the statistics of `episodes`."""
        network_key, key = jax.random.split(key)
        spec = config.policy_spec(task)
        encoder = _new_encoder(episodes, spec, config, jax.random.fold_in(network_key, 1), resolution)
        state_dim = spec.history * encoder.feature_dim
        network = noise_network(config.network_sizes(), state_dim, plan_shape(spec), network_key)
        schedule = NoiseSchedule.cosine(config.denoising_steps)
        generator = Diffusion(network, schedule, prediction=config.prediction)
        trained = encoder if isinstance(encoder, VisionEncoder) else None
        optimizer_state = _optimizer(config).init(
            eqx.filter(_together(network, trained), eqx.is_inexact_array)
        )
        policy = Policy(encoder, generator, None, spec)
        return cls(network, trained, policy, optimizer_state, key, config)

    def update(
        self, seen: Float[Array, "n s"] | Observations, plans: Float[Array, "n h a"]
    ) -> tuple[Imitation, Array]:
        """One step of denoising score matching; also returns its loss.

        Args:
            seen: states, or with a trainable encoder their observations, each entry (n, history, *shape), as
                from `Encoder.on_device`.
            plans: the demonstrated plans.
        """
        key, noise_key = jax.random.split(self.key)
        diffusion = self.policy.diffusion

        def loss_of(trained: Any) -> Array:
            network, encoder = (trained, None) if self.encoder is None else trained
            if encoder is None:
                states = cast(Array, seen)
            else:
                images = cast(Observations, seen)
                states = encoder.training_states(
                    images, self.config.random_shift, jax.random.fold_in(noise_key, 1)
                )
            return jnp.mean(diffusion.losses(network, states, plans, noise_key))

        trained = _together(self.network, self.encoder)
        loss, gradient = eqx.filter_value_and_grad(loss_of)(trained)
        updates, optimizer_state = _optimizer(self.config).update(gradient, self.optimizer_state)
        trained = eqx.apply_updates(trained, updates)
        network, encoder = (trained, None) if self.encoder is None else trained
        average = followed(diffusion.network, network, self.config.ema_rate)
        policy = self.policy.with_generator(diffusion.with_network(average))
        if encoder is not None:
            kept = followed(self.policy.encoder, encoder, self.config.ema_rate)
            policy = dataclasses.replace(policy, encoder=kept)
        return Imitation(network, encoder, policy, optimizer_state, key, self.config), loss


def _together(network: NoiseNetwork, encoder: VisionEncoder | None) -> Any:
    """The trainable parts."""
    return network if encoder is None else (network, encoder)


def _new_encoder(
    episodes: Sequence[Episode], spec: Spec, config: PretrainConfig, key: PRNGKeyArray, resolution: float
) -> Encoder:
    vectors = None
    if spec.vectors:
        vectors = VectorEncoder.fit(vector_part(spec), vectors_of(episodes, spec), resolution)
    if vectors is not None and not spec.images:
        return vectors
    return VisionEncoder.new(
        spec, vectors, network=config.vision, shared=config.shared_vision, sizes={}, key=key
    )


def vectors_of(episodes: Sequence[Episode], spec: Spec) -> Mapping[str, NDArray[np.generic]]:
    """The vector entries of all observations."""
    return {
        name: np.concatenate([episode.observations[name] for episode in episodes]) for name in spec.vectors
    }


def _optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))


def take_block(
    state: Imitation, data: Experience, images: DecisionObservations | None, updates: int
) -> tuple[Imitation, float]:
    """Take gradient steps and return their mean loss; blocks until they are done.

    Args:
        state: the state before the steps.
        data: the demonstrations, without states if there are images.
        images: the observations of its rows, if there are images.
        updates: number of steps.
    """
    if images is None:
        state, loss = _update_block(state, data, updates)
        return state, float(loss)
    losses: list[Array] = []
    for _ in range(updates):
        state, rows, plans = _draw(state, data)
        seen = state.policy.encoder.on_device(images.of(np.asarray(rows)))
        state, loss = _update(state, seen, plans)
        losses.append(loss)
    return state, float(jnp.mean(jnp.stack(losses)))


@eqx.filter_jit
def _update_block(state: Imitation, data: Experience, updates: int) -> tuple[Imitation, Array]:
    def step(state: Imitation, _: None) -> tuple[Imitation, Array]:
        state, rows, plans = _draw(state, data)
        return state.update(data.store.states(rows), plans)

    state, losses = scan_state(step, state, length=updates)
    return state, jnp.mean(losses)


@eqx.filter_jit
def _draw(state: Imitation, data: Experience) -> tuple[Imitation, Array, Float[Array, "n h a"]]:
    """Draw rows and the plans that start there."""
    key, batch_key = jax.random.split(state.key)
    rows = data.demonstrations.draw(batch_key, state.config.batch_size)
    return dataclasses.replace(state, key=key), rows, data.store.plans(rows)


@eqx.filter_jit
def _update(state: Imitation, seen: Observations, plans: Float[Array, "n h a"]) -> tuple[Imitation, Array]:
    return state.update(seen, plans)
