"""The variance-preserving noise schedule.

    a_k = sqrt(alpha_bar_k) a_0 + sqrt(1 - alpha_bar_k) noise

Level k runs from 0, almost clean, to K - 1, almost pure noise. Sources: Ho et al., "Denoising diffusion
probabilistic models", 2020; the cosine schedule of Nichol and Dhariwal, "Improved denoising diffusion
probabilistic models", 2021 (eq. 17).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray


class NoiseSchedule(eqx.Module):
    """alpha_bar of each of K noise levels, decreasing from near 1 to near 0."""

    alpha_bar: Float[Array, " K"]

    @classmethod
    def cosine(cls, steps: int) -> NoiseSchedule:
        """The squared-cosine schedule with `steps` levels; each beta is capped at 0.999 as in its source."""
        if steps < 1:
            raise ValueError(f"A noise schedule needs at least 1 step, got {steps}.")

        def f(t: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

        t = np.arange(steps + 1) / steps
        beta = np.minimum(1 - f(t[1:]) / f(t[:-1]), 0.999)
        return cls(jnp.asarray(np.cumprod(1 - beta), jnp.float32))

    @property
    def steps(self) -> int:
        """K, the number of noise levels."""
        return self.alpha_bar.shape[0]

    def signal(self, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """sqrt(alpha_bar_k): what is left of the clean action."""
        return jnp.sqrt(self.alpha_bar[k])

    def sigma(self, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """sqrt(1 - alpha_bar_k): the standard deviation of the noise."""
        return jnp.sqrt(1 - self.alpha_bar[k])
