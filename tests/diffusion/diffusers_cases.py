"""The schedules and samplers that are compared with diffusers; see `fixtures/make_diffusers.py`."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPE = (3, 2, 2)
"""Of what is drawn."""


class Case(NamedTuple):
    """A way to sample, in diffusers' words."""

    scheduler: str  # DDPM or DDIM
    betas: str
    prediction: str
    levels: int
    steps: int
    clip: float  # 0: none

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


BETAS = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
BETA_START, BETA_END = 0.0002, 0.15

CASES = [
    Case(scheduler, betas, prediction, *levels, clip)
    for scheduler, betas, prediction, levels, clip in itertools.product(
        ("DDPM", "DDIM"),
        BETAS,
        ("epsilon", "sample", "v_prediction"),
        ((10, 10), (100, 100), (100, 7), (50, 1)),
        (0.0, 1.0, 0.4),
    )
    if (scheduler, betas) != ("DDIM", "sigmoid")  # diffusers' DDIM does not have it
]


def prediction(x: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """What a network says: some function, the same number here and there."""
    return (0.7 * np.sin(1.3 * x.astype(np.float64) + 0.01 * k) + 0.1).astype(np.float32)


def noise(case: Case) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where it begins, and what each step may draw."""
    generator = np.random.default_rng(case.levels + case.steps)
    return (
        generator.normal(size=SHAPE).astype(np.float32),
        generator.normal(size=(case.steps, *SHAPE)).astype(np.float32),
    )
