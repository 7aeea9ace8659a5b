"""Policies that only answer, as users write them, for the tests of `module:factory`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np


class Nudges:
    """Goes roughly to the goal; the same call gives the same plans."""

    horizon, execute = 4, 4
    calls: ClassVar[list[tuple[tuple[int, ...], int, int]]] = []

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seed: int) -> np.ndarray:
        state = observations["state"]
        self.calls.append((state.shape, n, seed))
        goal, point = state[:, None, None, :2], state[:, None, None, 2:]
        noise = np.random.default_rng(seed).normal(0, 0.1, (len(state), n, 4, 2))
        return np.broadcast_to((goal - point) / 4, noise.shape) + noise


class Failing(Nudges):
    """Raises, once in a while."""

    count = 0

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seed: int) -> np.ndarray:
        type(self).count += 1
        if type(self).count % 5 == 0:
            raise RuntimeError("the cable is loose")
        return super().propose(observations, n, seed)
