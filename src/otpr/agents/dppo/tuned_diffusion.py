"""A diffusion policy of two networks: the pre-trained one begins, the fine-tuned one takes the last steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion import NoiseSchedule, sample
from otpr.diffusion.sampling import Method, sample_chain, visited_levels
from otpr.errors import unknown_name
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.choosers import Entry
from otpr.policies.generators import Generator


class TunedDiffusion(Generator):
    """Denoises from pure noise, the last steps by another network than those before (Ren et al., 2024).

    Args:
        network: predicts the noise at the last `tuned_steps` of the levels that the sampler visits.
        base: predicts it at the levels before these.
        schedule: the noise levels that both were trained with.
        sampler: how noise becomes a chunk, a method of `otpr.diffusion.sample`.
        sampler_steps: how many of the schedule's levels the sampler visits; None visits all.
        tuned_steps: 1 to the number of levels visited.
        least_std: no step of "ddpm" draws with a smaller standard deviation; above 0 to explore.

    Raises:
        OtprError: there is no such sampler.
        ValueError: the schedule has not that many levels, or the sampler visits fewer than `tuned_steps`.
    """

    network: NoiseNetwork
    base: NoiseNetwork
    schedule: NoiseSchedule
    sampler: Method = eqx.field(static=True)
    sampler_steps: int | None = eqx.field(static=True)
    tuned_steps: int = eqx.field(static=True)
    least_std: float = eqx.field(static=True)
    kind: ClassVar[str] = "dppo/tuned-diffusion"
    entries: ClassVar[Mapping[str, Entry]] = {
        "sampler": "name",
        "sampler_steps": "optional count",
        "least_std": "number",
    }

    def __check_init__(self) -> None:
        if self.sampler not in get_args(Method):
            raise unknown_name("sampler", self.sampler, get_args(Method))
        visited = visited_levels(self.schedule, self.sampler_steps).levels.shape[0]
        if not 1 <= self.tuned_steps <= visited:
            raise ValueError(f"tuned_steps must lie in 1..{visited}, got {self.tuned_steps}.")

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks for one state."""
        chunks = sample(
            lambda chunks, k: self._predict(state, chunks, k),
            self.schedule,
            (n, self.network.chunk_dim),
            key,
            method=self.sampler,
            steps=self.sampler_steps,
            least_std=self.least_std,
        )
        return jnp.clip(chunks, -1.0, 1.0)  # noise at the last step may have led out of it

    def tuned_chain(self, state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, "c a"]:
        """The chunks that the fine-tuned network took on the way to `propose(state, key, 1)`.

        Of ancestral sampling: the chunk given to its first step, then the one after each step; the last is
        what was proposed, before it was clipped.
        """
        chain = sample_chain(
            lambda chunks, k: self._predict(state, chunks, k),
            self.schedule,
            (1, self.network.chunk_dim),
            key,
            steps=self.sampler_steps,
            least_std=self.least_std,
        )
        return chain[-self.tuned_steps - 1 :, 0]

    def _predict(
        self, state: Float[Array, " s"], chunks: Float[Array, "n a"], k: Int[Array, ""]
    ) -> Float[Array, "n a"]:
        levels = visited_levels(self.schedule, self.sampler_steps).levels

        def by(network: NoiseNetwork) -> Float[Array, "n a"]:
            context = network.context(state, k)  # once, not once a candidate
            return jax.vmap(network.from_context, in_axes=(None, 0))(context, chunks)

        return jax.lax.cond(k <= levels[-self.tuned_steps], lambda: by(self.network), lambda: by(self.base))

    def about(self) -> dict[str, Any]:
        """Networks (of one architecture), noise levels and sampler."""
        return {
            "network": self.network.about(),
            "denoising_steps": self.schedule.steps,
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
            "tuned_steps": self.tuned_steps,
            "least_std": self.least_std,
        }

    @classmethod
    def skeleton(
        cls, about: dict[str, Any], state_dim: int, chunk_dim: int, key: PRNGKeyArray
    ) -> TunedDiffusion:
        """See `Generator.skeleton`."""
        network = NoiseNetwork(state_dim, chunk_dim, **about["network"], key=key)
        schedule = NoiseSchedule.cosine(about["denoising_steps"])
        others = {name: about[name] for name in ("sampler", "sampler_steps", "tuned_steps", "least_std")}
        return cls(network, network, schedule, **others)
