"""Shifts of measured positions in the observation."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from otpr.envs.shifts.effects import Effect, Place
from otpr.envs.task_env import Observation
from otpr.errors import OtprError
from otpr.spec import STATE


class _OfPositions(Effect, abc.ABC):
    """Adds an error to the columns of positions, consistently if an observation repeats the previous one."""

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        geometry = place.geometry
        if geometry is None or not geometry.positions:
            raise OtprError(
                f"{place.task}: nothing says which numbers of its observation are positions. An environment "
                'of yours says it in metadata["positions"], a list of their columns in the flat observation, '
                "in metres."
            )
        self._columns = list(geometry.positions)
        self._lag = geometry.lag
        self._scale = amount * geometry.per_metre

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        self._before: NDArray[np.float64] | None = None

    @abc.abstractmethod
    def error(self) -> NDArray[np.float64]:
        """The error of the positions in the next observation, in the observation's unit."""

    def see(self, observation: Observation) -> Observation:
        """See `Effect.see`."""
        if isinstance(observation, Mapping):
            return {**observation, STATE: self._off(observation[STATE])}
        return self._off(observation)

    def _off(self, vector: NDArray[np.floating]) -> NDArray[np.floating]:
        vector = vector.copy()
        error = self.error()
        # a missing object has position 0 exactly
        there = vector[self._columns] != 0
        vector[self._columns] += error * there
        if self._lag:
            former = [column + self._lag for column in self._columns if column < self._lag]
            before = error if self._before is None else self._before
            vector[former] += before[: len(former)] * (vector[former] != 0)
        self._before = error
        return vector


class SensorNoise(_OfPositions):
    """Adds Gaussian noise of standard deviation `amount` metres to each coordinate at each step."""

    def error(self) -> NDArray[np.float64]:
        """See `_OfPositions.error`."""
        return self.rng.normal(0.0, self._scale, len(self._columns))


class SensorOffset(_OfPositions):
    """Shifts each coordinate by plus or minus `amount` metres, constant within an episode."""

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        self._error = self._scale * rng.choice([-1.0, 1.0], len(self._columns))

    def error(self) -> NDArray[np.float64]:
        """See `_OfPositions.error`."""
        return self._error
