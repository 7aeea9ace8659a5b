"""A diffusion generator with two networks: the pre-trained one, and a fine-tuned one for the last steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.diffusion import sample
from otpr.diffusion.sampling import Noise, sample_chain
from otpr.networks.noise import NoiseNetwork
from otpr.policies.denoising import Diffusion
from otpr.policies.generators import Entry, NoiseDriven
from otpr.spec import Spec


class TunedDiffusion(NoiseDriven):
    """Denoises pure noise with a separate network for the last steps (Ren et al., 2024).

    Args:
        tuned: the generator whose network predicts at the last `tuned_steps` visited levels.
        base: the network that predicts at the levels before.
        tuned_steps: from 1 to the number of visited levels.
        least_std: the smallest standard deviation of a step of "ddpm"; above 0 for exploration.

    Raises:
        ValueError: the sampler visits fewer levels than `tuned_steps`.
    """

    tuned: Diffusion
    base: NoiseNetwork
    tuned_steps: int = eqx.field(static=True)
    least_std: float = eqx.field(static=True)
    kind: ClassVar[str] = "dppo/tuned-diffusion"
    entries: ClassVar[Mapping[str, Entry]] = {**Diffusion.entries, "least_std": "number"}

    def __check_init__(self) -> None:
        if not 1 <= self.tuned_steps <= self.tuned.visited_steps:
            raise ValueError(
                f"tuned_steps must lie in 1..{self.tuned.visited_steps}, got {self.tuned_steps}."
            )

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """`n` sampled plans for one state."""
        return self._sampled(state, key, n, None)

    @property
    def noise_steps(self) -> int:
        """See `NoiseDriven.noise_steps`."""
        return self.tuned.noise_steps

    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """Denoise the given noise to plans for one state."""
        return self._sampled(state, None, noise.start.shape[0], noise)

    def _sampled(
        self, state: Float[Array, " s"], key: PRNGKeyArray | None, n: int, noise: Noise | None
    ) -> Float[Array, "n h a"]:
        tuned = self.tuned
        plans = sample(
            lambda plans, k: self._noise_in(state, plans, k),
            tuned.schedule,
            (n, *tuned.network.plan_shape),
            key,
            method=tuned.sampler,
            noise=noise,
            **tuned.sampling,
            least_std=self.least_std,
        )
        return jnp.clip(tuned.unscaled(plans), -1.0, 1.0)  # noise at the last step may exceed the bounds

    def tuned_chain(self, state: Float[Array, " s"], key: PRNGKeyArray) -> Float[Array, "c h a"]:
        """The chain of noisy plans of the fine-tuned steps in `propose(state, key, 1)`.

        With ancestral sampling, it has the plan before the first fine-tuned step, then the plan after each
        step. The last is the proposed plan before clipping, in the networks' units (`Diffusion.scaled`).
        """
        chain = sample_chain(
            lambda plans, k: self._noise_in(state, plans, k),
            self.tuned.schedule,
            (1, *self.tuned.network.plan_shape),
            key,
            steps=self.tuned.sampler_steps,
            spacing=self.tuned.spacing,
            bound=self.tuned.bound,
            least_std=self.least_std,
            noise_limit=self.tuned.noise_limit,
        )
        return chain[-self.tuned_steps - 1 :, 0]

    def _noise_in(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        levels = self.tuned.visited.levels
        state = self.tuned.seen(state)
        output = jax.lax.cond(
            k <= levels[-self.tuned_steps],
            lambda: self.tuned.network.many(state, plans, k),
            lambda: self.base.many(state, plans, k),
        )
        return self.tuned.noise_in(output, plans, k)

    def about(self) -> dict[str, Any]:
        """The fine-tuned generator, whose network has the base's architecture, and its number of steps."""
        return {**self.tuned.about(), "tuned_steps": self.tuned_steps, "least_std": self.least_std}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> TunedDiffusion:
        """See `Generator.skeleton`."""
        own = {name: about[name] for name in ("tuned_steps", "least_std")}
        tuned = Diffusion.skeleton(
            {name: value for name, value in about.items() if name not in own}, state_dim, spec, key
        )
        return cls(tuned, tuned.network, **own)
