"""Schedules and samplers against the schedulers of diffusers, which diffusion_policy and LeRobot use."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_cases import BETA_END, BETA_START, BETAS, CASES, SHAPE, Case, noise

from otpr.diffusion import NoiseSchedule, sample
from otpr.diffusion.parametrization import to_noise
from otpr.diffusion.sampling import Noise, visited_levels
from otpr.errors import OtprError
from otpr.trees import read_arrays

THEIRS = read_arrays(Path(__file__).parent / "fixtures" / "diffusers.safetensors")
OURS: dict[str, Any] = {"epsilon": "noise", "sample": "sample", "v_prediction": "velocity"}


@functools.partial(jax.jit, static_argnames=("prediction", "method", "steps", "bound"))
def drawn(schedule: NoiseSchedule, given: Noise, *, prediction: Any, **options: Any) -> jax.Array:
    def predict_noise(x: jax.Array, k: jax.Array) -> jax.Array:
        output = 0.7 * jnp.sin(1.3 * x + 0.01 * k) + 0.1
        return to_noise(prediction, output, x, schedule.signal(k), schedule.sigma(k))

    return sample(
        predict_noise,
        schedule,
        SHAPE,
        jax.random.key(0),
        spacing="leading",
        clipped_noise=False,
        noise=given,
        **options,
    )


@pytest.mark.long
@pytest.mark.parametrize("scheduler", ["DDPM", "DDIM"])
@pytest.mark.parametrize("betas", BETAS)
def test_samples_from_the_same_noise_are_those_of_diffusers(scheduler: str, betas: Any) -> None:
    def ours(case: Case) -> np.ndarray:
        return np.asarray(
            drawn(
                NoiseSchedule.of(betas, case.levels, BETA_START, BETA_END),
                Noise(*map(jnp.asarray, noise(case))),
                prediction=OURS[case.prediction],
                method=case.scheduler.lower(),
                steps=case.steps,
                bound=case.clip or None,
            )
        )

    cases = [case for case in CASES if (case.scheduler, case.betas) == (scheduler, betas)]
    for case in cases:
        theirs = THEIRS[case.name]
        np.testing.assert_allclose(ours(case), theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize(("levels", "steps"), [(100, 7), (10, 10), (50, 1), (7, 3)])
def test_leading_levels_are_multiples_of_one_distance_from_0_up(levels: int, steps: int) -> None:
    visited = visited_levels(NoiseSchedule.cosine(levels), steps, "leading")
    assert visited.levels.tolist() == [i * (levels // steps) for i in reversed(range(steps))]
    assert float(visited.alpha_bar_next[-1]) == 1.0


def test_betas_are_those_of_their_course() -> None:
    for betas, middle in (("linear", 0.075), ("scaled_linear", ((0.1**0.5 + 0.05**0.5) / 2) ** 2)):
        schedule = NoiseSchedule.of(betas, 3, 0.05, 0.1)
        alpha = np.asarray(schedule.alpha_bar, np.float64)
        np.testing.assert_allclose(1 - alpha / np.append(1, alpha[:-1]), [0.05, middle, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("squaredcos", 10), "Unknown beta schedule 'squaredcos'. Did you mean 'squaredcos_cap_v2'"),
        (("linear", 10, 0.0, 0.02), "beta_start and beta_end must lie between 0 and 1, given 0 and 0.02"),
        (("linear", 10, 0.1, 1.5), "given 0.1 and 1.5"),
    ],
)
def test_impossible_schedules_are_refused(given: Any, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        NoiseSchedule.of(*given)
