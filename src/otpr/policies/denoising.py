"""The generator of diffusion policies, which denoises a plan step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion import NoiseSchedule, denoising_losses, sample
from otpr.diffusion.parametrization import Prediction, to_noise
from otpr.diffusion.sampling import DRAWING, Noise, Sampler, Spacing, Visited, visited_levels
from otpr.errors import OtprError, unknown_name
from otpr.networks.mlp import NoiseMLP
from otpr.networks.noise import NoiseNetwork
from otpr.networks.residual_mlp import EmbeddingMLP
from otpr.networks.unet import UNet
from otpr.policies.encoder import Normalizer
from otpr.policies.generators import Entry, NoiseDriven, plan_shape
from otpr.policies.prefix import Prefix
from otpr.spec import Spec


class Diffusion(NoiseDriven):
    """Samples plans by denoising pure noise.

    Args:
        network: predicts the quantity named by `prediction` from a noisy plan.
        schedule: the noise levels of the network's training.
        sampler: a method of `otpr.diffusion.sample`.
        sampler_steps: number of levels of the schedule that the sampler visits; None visits all.
        prediction: the quantity that the network predicts.
        bound: the sampler clips its estimate of the clean plan to [-bound, bound]; None never clips it.
        spacing: how the visited levels are spaced; see `otpr.diffusion.sample`.
        clipped_noise: the noise that "ddim" continues with after clipping; see `otpr.diffusion.sample`.
        low: the action that -1 represents in the network's plans, (action_dim,), in units of the policy's
            actions; None: the network uses the policy's units.
        high: the action that 1 represents. A dimension where it equals `low` is -1 for the network.
        noise_limit: the noise of a step is clipped to [-noise_limit, noise_limit]; None: it is not.
        states: normalises states for the network; None: the network sees the encoder's states.

    Raises:
        OtprError: there is no such sampler, spacing or prediction, the bound is not positive, or the
            schedule has not that many levels.
    """

    network: NoiseNetwork
    schedule: NoiseSchedule
    sampler: Sampler = eqx.field(static=True, default="ddpm")
    sampler_steps: int | None = eqx.field(static=True, default=None)
    prediction: Prediction = eqx.field(static=True, default="noise")
    bound: float | None = eqx.field(static=True, default=1.0)
    spacing: Spacing = eqx.field(static=True, default="linspace")
    clipped_noise: bool = eqx.field(static=True, default=True)
    low: Float[Array, " a"] | None = None
    high: Float[Array, " a"] | None = None
    noise_limit: float | None = eqx.field(static=True, default=None)
    states: Normalizer | None = None
    kind: ClassVar[str] = "diffusion"
    entries: ClassVar[Mapping[str, Entry]] = {
        "kind": "name",
        "down_dims": "counts",
        "scale_modulation": "flag",
        "deep_condition": "flag",
        "norm_eps": "number",
        "widths": "counts",
        "state_widths": "counts",
        "residual": "flag",
        "layer_norm": "flag",
        "activation": "name",
        "betas": "name",
        "beta_start": "number",
        "beta_end": "number",
        "sampler": "name",
        "sampler_steps": "optional count",
        "prediction": "name",
        "bound": "optional number",
        "spacing": "name",
        "clipped_noise": "flag",
        "scaled": "flag",
        "noise_limit": "optional number",
        "renormalized": "flag",
        "state_limit": "optional number",
    }

    def __check_init__(self):
        if self.sampler not in get_args(Sampler):
            raise unknown_name("sampler", self.sampler, get_args(Sampler))
        if self.prediction not in get_args(Prediction):
            raise unknown_name("prediction", self.prediction, get_args(Prediction))
        if self.spacing not in get_args(Spacing):
            raise unknown_name("spacing", self.spacing, get_args(Spacing))
        for name, word in (("bound", "bound"), ("noise_limit", "limit")):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise OtprError(f"{name} must be a positive number, or None for no {word}; given {limit:g}.")
        if self.sampler_steps is not None and not 1 <= self.sampler_steps <= self.schedule.steps:
            raise OtprError(
                f"sampler_steps must lie in 1..{self.schedule.steps} (the policy's noise levels), "
                f"given {self.sampler_steps}."
            )

    @property
    def visited_steps(self) -> int:
        """Number of levels that the sampler visits."""
        return self.sampler_steps or self.schedule.steps

    @property
    def visited(self) -> Visited:
        """The levels that the sampler visits."""
        return visited_levels(self.schedule, self.sampler_steps, self.spacing)

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampler's settings other than the method, as arguments of `otpr.diffusion.sample`."""
        return {
            "steps": self.sampler_steps,
            "spacing": self.spacing,
            "bound": self.bound,
            "clipped_noise": self.clipped_noise,
            "noise_limit": self.noise_limit,
        }

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """`n` sampled plans for one state."""
        return self._sampled(lambda plans, k: self._noise(state, plans, k), key, n, None)

    @property
    def noise_steps(self) -> int:
        """See `NoiseDriven.noise_steps`."""
        return self.visited_steps if self.sampler in DRAWING else 0

    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """Denoise the given noise to plans for one state."""
        n = noise.start.shape[0]
        return self._sampled(lambda plans, k: self._noise(state, plans, k), None, n, noise)

    def complete(
        self, state: Float[Array, " s"], prefix: Prefix, key: PRNGKeyArray, n: int
    ) -> Float[Array, "n h a"]:
        """`n` plans for one state that begin with the prefix; the rest is sampled conditionally on it.

        Uses inpainting, as in Janner et al., "Planning with diffusion for flexible behavior synthesis", 2022:
        at every noise level the first actions of the plan are replaced by the prefix with the noise of the
        level.
        """
        clean = self.scaled(prefix.actions)

        def noise(plans: Float[Array, "n h a"], k: Int[Array, ""]) -> Float[Array, "n h a"]:
            of_prefix = (plans - self.schedule.signal(k) * clean) / self.schedule.sigma(k)
            return jnp.where(prefix.given[:, None], of_prefix, self._noise(state, plans, k))

        return prefix.put(self._sampled(noise, key, n, None))  # exact, without rounding

    def _sampled(
        self,
        predict_noise: Callable[[Array, Array], Array],
        key: PRNGKeyArray | None,
        n: int,
        noise: Noise | None,
    ) -> Float[Array, "n h a"]:
        plans = sample(
            predict_noise,
            self.schedule,
            (n, *self.network.plan_shape),
            key,
            method=self.sampler,
            noise=noise,
            **self.sampling,
        )
        within = self.low is None and self.bound is not None and self.bound <= 1
        return plans if within else jnp.clip(self.unscaled(plans), -1.0, 1.0)

    def _noise(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        """The noise that the network predicts in plans for one state."""
        return self.noise_in(self.network.many(self.seen(state), plans, k), plans, k)

    def seen(self, states: Float[Array, "*n s"]) -> Float[Array, "*n s"]:
        """Convert states to the network's normalisation."""
        return states if self.states is None else self.states(states)

    def scaled(self, plans: Float[Array, "*n h a"]) -> Float[Array, "*n h a"]:
        """Convert plans to the network's units."""
        if self.low is None or self.high is None:
            return plans
        width = self.high - self.low
        return jnp.where(width > 0, 2 * (plans - self.low) / jnp.where(width > 0, width, 1) - 1, -1)

    def unscaled(self, plans: Float[Array, "*n h a"]) -> Float[Array, "*n h a"]:
        """Convert plans from the network's units to the policy's, without clipping."""
        if self.low is None or self.high is None:
            return plans
        return (plans + 1) / 2 * (self.high - self.low) + self.low

    def noise_in(
        self, output: Float[Array, "*n h a"], plans: Float[Array, "*n h a"], k: Int[Array, ""]
    ) -> Float[Array, "*n h a"]:
        """The noise in plans of one level that the network's output implies."""
        return to_noise(self.prediction, output, plans, self.schedule.signal(k), self.schedule.sigma(k))

    def losses(
        self,
        network: Callable[[Array, Array, Array], Array],
        states: Float[Array, "n s"],
        plans: Float[Array, "n h a"],
        key: PRNGKeyArray,
    ) -> Float[Array, " n"]:
        """Denoising losses of a network with this generator's noise levels and kind of prediction."""
        states, plans = self.seen(states), self.scaled(plans)
        return denoising_losses(network, self.schedule, states, plans, key, self.prediction)

    def with_network(self, network: NoiseNetwork) -> Diffusion:
        """The same sampling with another network."""
        return dataclasses.replace(self, network=network)

    def about(self) -> dict[str, Any]:
        """Network, noise levels and sampler."""
        return {
            "network": self.network.about(),
            "denoising_steps": self.schedule.steps,
            "betas": self.schedule.betas,
            "beta_start": self.schedule.beta_start,
            "beta_end": self.schedule.beta_end,
            "sampler": self.sampler,
            "prediction": self.prediction,
            "sampler_steps": self.sampler_steps,
            "bound": self.bound,
            "spacing": self.spacing,
            "clipped_noise": self.clipped_noise,
            "scaled": self.low is not None,
            "noise_limit": self.noise_limit,
            "renormalized": self.states is not None,
            "state_limit": None if self.states is None else self.states.limit,
        }

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> Diffusion:
        """See `Generator.skeleton`."""
        betas = about["betas"], about["denoising_steps"], about["beta_start"], about["beta_end"]
        ends = jnp.zeros(spec.action_dim) if about["scaled"] else None
        zeros = jnp.zeros(state_dim)
        states = Normalizer(zeros, zeros, shift=zeros, limit=about["state_limit"])
        own = ("sampler", "sampler_steps", "prediction", "bound", "spacing", "clipped_noise", "noise_limit")
        return cls(
            noise_network(about["network"], state_dim, plan_shape(spec), key),
            NoiseSchedule.of(*betas),
            **{name: about[name] for name in own},
            low=ends,
            high=ends,
            states=states if about["renormalized"] else None,
        )


def noise_network(
    about: Mapping[str, Any], state_dim: int, plan_shape: tuple[int, int], key: PRNGKeyArray
) -> NoiseNetwork:
    """A network with the structure that its `about` describes, with random weights.

    Raises:
        OtprError: there is no such kind of network, or its sizes are invalid.
    """
    sizes = dict(about)
    if (kind := sizes.pop("kind")) not in NOISE_NETWORKS:
        raise unknown_name("network", kind, NOISE_NETWORKS)
    return NOISE_NETWORKS[kind](state_dim, plan_shape, **sizes, key=key)


NOISE_NETWORKS: dict[str, Callable[..., NoiseNetwork]] = {
    network.kind: network for network in (NoiseMLP, UNet, EmbeddingMLP)
}
"""Networks by their names in policy files and in `otpr pretrain --network`."""
