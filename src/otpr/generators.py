"""How a policy makes chunks: from a state and random numbers to samples.

A generator is a part of a policy (`otpr.policy.Policy`). On disk it is described by `about`, from which
`skeleton` builds it again with its arrays yet to be filled in.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Self, get_args

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion import NoiseNetwork, NoiseSchedule, sample
from otpr.diffusion.sampling import Method
from otpr.errors import OtprError, unknown_name


class Generator(eqx.Module):
    """Draws flattened chunks for a normalised observation."""

    kind: ClassVar[str]
    """Its name in a policy's file."""

    @abc.abstractmethod
    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` chunks for one state, entries in [-1, 1]."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything about it that is not an array: counts, numbers and short names, JSON-able."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Self:
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
            return jax.vmap(lambda chunk: self.network.from_context(context, chunk))(chunks)

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


GENERATORS: dict[str, type[Generator]] = {kind.kind: kind for kind in (Diffusion,)}
"""By their names in policies' files."""
