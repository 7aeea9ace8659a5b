"""The variance-preserving noise schedule.

    a_k = sqrt(alpha_bar_k) a_0 + sqrt(1 - alpha_bar_k) noise

Level k runs from 0, almost clean, to K - 1, almost pure noise. Sources: Ho et al., "Denoising diffusion
probabilistic models", 2020; the cosine schedule of Nichol and Dhariwal, "Improved denoising diffusion
probabilistic models", 2021 (eq. 17). The other schedules are those of Hugging Face's diffusers, which
diffusion_policy and LeRobot use, under the same names.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from otpr.errors import OtprError, unknown_name

BETAS = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
"""The schedules of beta; see `NoiseSchedule.of`."""


class NoiseSchedule(eqx.Module):
    """alpha_bar of each of K noise levels, decreasing from near 1 to near 0.

    Args:
        alpha_bar: of each level, (K,).
        betas: the schedule of beta, 1 - alpha_bar_k / alpha_bar_{k - 1}, over the levels; see `of`.
        beta_start: the first beta; unused by "squaredcos_cap_v2".
        beta_end: the last beta; unused by "squaredcos_cap_v2".
    """

    alpha_bar: Float[Array, " K"]
    betas: str = eqx.field(static=True, default="squaredcos_cap_v2")
    beta_start: float = eqx.field(static=True, default=0.0001)
    beta_end: float = eqx.field(static=True, default=0.02)

    @classmethod
    def cosine(cls, steps: int) -> NoiseSchedule:
        """The squared-cosine schedule with `steps` levels; each beta is capped at 0.999 as in the source."""
        return cls.of("squaredcos_cap_v2", steps)

    @classmethod
    def of(cls, betas: str, steps: int, beta_start: float = 0.0001, beta_end: float = 0.02) -> NoiseSchedule:
        """A schedule by the name of its betas.

        Args:
            betas: "linear", from start to end; "scaled_linear", with linear square roots; "sigmoid", a
                logistic function from -6 to 6; "squaredcos_cap_v2", the squared cosine.
            steps: K, the number of levels.
            beta_start: the first beta, in (0, 1).
            beta_end: the last, in (0, 1).

        Raises:
            OtprError: there is no such schedule, or a beta is outside (0, 1).
            ValueError: `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"A noise schedule needs at least 1 step, got {steps}.")
        if betas not in BETAS:
            raise unknown_name("beta schedule", betas, BETAS)
        if not (0 < beta_start < 1 and 0 < beta_end < 1):
            raise OtprError(
                f"beta_start and beta_end must lie between 0 and 1, given {beta_start:g} and {beta_end:g}."
            )
        alpha_bar = np.cumprod(1 - _betas(betas, steps, beta_start, beta_end))
        return cls(jnp.asarray(alpha_bar, jnp.float32), betas, beta_start, beta_end)

    @property
    def steps(self) -> int:
        """K, the number of noise levels."""
        return self.alpha_bar.shape[0]

    def signal(self, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """sqrt(alpha_bar_k): the weight of the clean action."""
        return jnp.sqrt(self.alpha_bar[k])

    def sigma(self, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """sqrt(1 - alpha_bar_k): the standard deviation of the noise."""
        return jnp.sqrt(1 - self.alpha_bar[k])


def _betas(betas: str, steps: int, start: float, end: float) -> NDArray[np.float64]:
    match betas:
        case "linear":
            return np.linspace(start, end, steps)
        case "scaled_linear":
            return np.linspace(start**0.5, end**0.5, steps) ** 2
        case "sigmoid":
            return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))
        case _:
            t = np.arange(steps + 1) / steps
            f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1 - f[1:] / f[:-1], 0.999)
