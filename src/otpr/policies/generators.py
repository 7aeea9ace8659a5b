"""How a policy makes chunks: from a state and random numbers to samples.

A generator is a part of a policy (`otpr.policies.policy.Policy`). On disk it is described by `about`, from
which `skeleton` builds it again with its arrays yet to be filled in.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion import NoiseSchedule, sample
from otpr.diffusion.flow import integrate
from otpr.diffusion.sampling import Method
from otpr.errors import OtprError, unknown_name
from otpr.networks.mlp import NoiseNetwork, VelocityNetwork
from otpr.policies.choosers import Entry


class Generator(eqx.Module):
    """Draws flattened chunks for a normalised observation."""

    kind: ClassVar[str]
    """Its name in a policy's file."""
    entries: ClassVar[Mapping[str, Entry]] = {}
    """What entries of `about` are, by name, at any depth; all others are counts."""

    @abc.abstractmethod
    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` chunks for one state, entries in [-1, 1]."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything about it that is not an array: counts, numbers and short names, JSON-able."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Generator:
        """A generator as `about` describes it; its arrays have the right shapes and types only."""


class Diffusion(Generator):
    """Denoises from pure noise, a `NoiseNetwork` predicting the noise.

    Args:
        network: predicts the noise in a flattened chunk.
        schedule: the noise levels it was trained with.
        sampler: how noise becomes a chunk, a method of `otpr.diffusion.sample`.
        sampler_steps: how many of the schedule's levels the sampler visits; None visits all.

    Raises:
        OtprError: there is no such sampler, or the schedule has not that many levels.
    """

    network: NoiseNetwork
    schedule: NoiseSchedule
    sampler: Method = eqx.field(static=True, default="ddpm")
    sampler_steps: int | None = eqx.field(static=True, default=None)
    kind: ClassVar[str] = "diffusion"
    entries: ClassVar[Mapping[str, Entry]] = {"sampler": "name", "sampler_steps": "optional count"}

    def __check_init__(self):
        if self.sampler not in get_args(Method):
            raise unknown_name("sampler", self.sampler, get_args(Method))
        if self.sampler_steps is not None and not 1 <= self.sampler_steps <= self.schedule.steps:
            raise OtprError(
                f"sampler_steps must lie in 1..{self.schedule.steps} (the policy's noise levels), "
                f"given {self.sampler_steps}."
            )

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks for one state."""

        def predict_noise(chunks: Float[Array, "n a"], k: Int[Array, ""]) -> Float[Array, "n a"]:
            context = self.network.context(state, k)  # once, not once a candidate
            return jax.vmap(self.network.from_context, in_axes=(None, 0))(context, chunks)

        return sample(
            predict_noise,
            self.schedule,
            (n, self.network.chunk_dim),
            key,
            method=self.sampler,
            steps=self.sampler_steps,
        )

    def with_network(self, network: NoiseNetwork) -> Diffusion:
        """The same way of sampling with another network."""
        return dataclasses.replace(self, network=network)

    def about(self) -> dict[str, Any]:
        """Network, noise levels and sampler."""
        return {
            "network": self.network.about(),
            "denoising_steps": self.schedule.steps,
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
        }

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Diffusion:
        """See `Generator.skeleton`."""
        return cls(
            NoiseNetwork(state_dim, chunk_dim, **about["network"], key=key),
            NoiseSchedule.cosine(about["denoising_steps"]),
            about["sampler"],
            about["sampler_steps"],
        )


class Flow(Generator):
    """Follows a velocity field from noise, `otpr.diffusion.flow`; the chunk is clipped at the end.

    Args:
        network: predicts the velocity of a flattened chunk.
        steps: Euler steps.
    """

    network: VelocityNetwork
    steps: int = eqx.field(static=True)
    kind: ClassVar[str] = "flow"

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks for one state."""
        return self.from_noise(state, jax.random.normal(key, (n, self.network.chunk_dim)))

    def from_noise(self, state: Float[Array, " s"], noise: Float[Array, "n a"]) -> Float[Array, "n a"]:
        """The chunks of one state that noise is carried to."""
        context = self.network.context(state)  # once, not once a candidate and step
        chunks = integrate(lambda x, t: self.network.from_context(context, x, t), noise, self.steps)
        return jnp.clip(chunks, -1, 1)

    def about(self) -> dict[str, Any]:
        """Network and steps."""
        return {"network": self.network.about(), "steps": self.steps}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Flow:
        """See `Generator.skeleton`."""
        return cls(VelocityNetwork(state_dim, chunk_dim, **about["network"], key=key), about["steps"])


class OneStep(Generator):
    """Maps noise to a chunk by one pass of a network, clipped.

    Args:
        network: takes a state and noise of the chunk's length, side by side.
    """

    network: eqx.nn.MLP
    kind: ClassVar[str] = "one-step"

    @classmethod
    def new(cls, state_dim: int, chunk_dim: int, *, width: int, depth: int, key: PRNGKeyArray) -> OneStep:
        """With random weights."""
        return cls(eqx.nn.MLP(state_dim + chunk_dim, chunk_dim, width, depth, jax.nn.silu, key=key))

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks for one state."""
        noise = jax.random.normal(key, (n, int(self.network.out_size)))
        return jnp.clip(jax.vmap(self.unclipped, in_axes=(None, 0))(state, noise), -1, 1)

    def unclipped(self, state: Float[Array, " s"], noise: Float[Array, " a"]) -> Float[Array, " a"]:
        """The network's output."""
        return self.network(jnp.concatenate([state, noise]))

    def about(self) -> dict[str, Any]:
        """Sizes of the network."""
        return _sizes(self.network)

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> OneStep:
        """See `Generator.skeleton`."""
        return cls.new(state_dim, chunk_dim, **about, key=key)


class TanhGaussian(Generator):
    """The hyperbolic tangent of a normal variable of independent entries (Haarnoja et al., SAC, 2018).

    Args:
        network: from a state to the means and the logarithms of the standard deviations, one after the other.
        deterministic: give the tangent of the means instead of samples.
    """

    network: eqx.nn.MLP
    deterministic: bool = eqx.field(static=True, default=False)
    kind: ClassVar[str] = "tanh-gaussian"
    entries: ClassVar[Mapping[str, Entry]] = {"deterministic": "flag"}

    @classmethod
    def new(
        cls, state_dim: int, chunk_dim: int, *, width: int, depth: int, key: PRNGKeyArray
    ) -> TanhGaussian:
        """With random weights, drawing samples."""
        return cls(eqx.nn.MLP(state_dim, 2 * chunk_dim, width, depth, jax.nn.relu, key=key))

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` chunks for one state, all the same where it is deterministic."""
        mean, log_std = self.parameters(state)
        noise = (
            jnp.zeros((n, *mean.shape)) if self.deterministic else jax.random.normal(key, (n, *mean.shape))
        )
        return jnp.tanh(mean + jnp.exp(log_std) * noise)

    def parameters(self, state: Float[Array, " s"]) -> tuple[Float[Array, " a"], Float[Array, " a"]]:
        """Means and logarithms of the standard deviations of the normal variable."""
        mean, log_std = jnp.split(self.network(state), 2)
        return mean, jnp.clip(log_std, *LOG_STD)

    def sample_with_log_density(
        self, state: Float[Array, " s"], key: PRNGKeyArray
    ) -> tuple[Float[Array, " a"], Float[Array, ""]]:
        """A chunk, drawn in a way that gradients pass through, and the logarithm of its density."""
        mean, log_std = self.parameters(state)
        noise = jax.random.normal(key, mean.shape)
        x = mean + jnp.exp(log_std) * noise
        log_normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        # log(1 - tanh(x)^2), by a form that does not cancel where tanh is close to 1
        log_slope = 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))
        return jnp.tanh(x), jnp.sum(log_normal - log_slope)

    def sample_batch(
        self, states: Float[Array, "n s"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n a"], Float[Array, " n"]]:
        """`sample_with_log_density` for each of n states."""
        return jax.vmap(self.sample_with_log_density)(states, jax.random.split(key, states.shape[0]))

    def about(self) -> dict[str, Any]:
        """Sizes of the network, and whether it draws."""
        return {**_sizes(self.network), "deterministic": self.deterministic}

    @classmethod
    def skeleton(
        cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray
    ) -> TanhGaussian:
        """See `Generator.skeleton`."""
        sizes = {name: about[name] for name in ("width", "depth")}
        generator = cls.new(state_dim, chunk_dim, **sizes, key=key)
        return dataclasses.replace(generator, deterministic=about["deterministic"])


LOG_STD = (-20.0, 2.0)
"""Least and greatest logarithm of a standard deviation (as in the code of Ball et al., RLPD, 2023)."""


def _sizes(network: eqx.nn.MLP) -> dict[str, int]:
    return {"width": network.width_size, "depth": network.depth}


GENERATORS: dict[str, type[Generator]] = {
    kind.kind: kind for kind in (Diffusion, Flow, OneStep, TanhGaussian)
}
"""By their names in policies' files."""
