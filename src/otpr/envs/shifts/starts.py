"""Shifts of an episode's initial state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from otpr.envs.shifts.effects import Effect, Place
from otpr.envs.task_env import Observation
from otpr.errors import OtprError


@runtime_checkable
class Widened(Protocol):
    """A simulator whose region of initial conditions can be widened."""

    def widened(self, factor: float) -> AbstractContextManager[None]:
        """A context in which resets draw from a region `factor` times as wide, outside the usual one."""
        ...


class ObjectStart(Effect):
    """Draws objects and goals from a region `amount` times as wide, outside that of training."""

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        simulator = place.simulator
        if not isinstance(simulator, Widened):
            raise OtprError(
                f"{place.task}: its simulator has no region of initial conditions that otpr can widen."
            )
        self._widened: Callable[[float], AbstractContextManager[None]] = simulator.widened
        self._open: AbstractContextManager[None] | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        self._open = self._widened(self.amount)
        self._open.__enter__()

    def end(self) -> None:
        """See `Effect.end`."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


class RobotStart(Effect):
    """Moves the hand's initial position by `amount` metres in a random direction that is not downward.

    Actions drive it there with an open gripper before the episode starts.
    """

    STEPS = 80
    """The largest number of actions for the motion."""

    NEAR = 0.003
    """Distance in metres at which the position counts as reached."""

    GAIN = 0.3
    """Share of the remaining distance requested in one step, because arms lag behind their targets."""

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        if place.geometry is None or place.geometry.hand is None:
            raise OtprError(
                f"{place.task}: nothing says where its observation has the position of the robot's hand, or "
                "its actions do not displace it."
            )
        self._geometry, self._hand = place.geometry, place.geometry.hand

    def started(self, observation: Observation) -> Observation:
        """See `Effect.started`."""
        assert not isinstance(observation, dict), "a named task shows a vector"
        direction = self.rng.normal(size=3)
        direction[2] = abs(direction[2])
        target = self._position(observation) + self.amount * direction / np.linalg.norm(direction)
        for _ in range(self.STEPS):
            error = target - self._position(observation)
            if np.linalg.norm(error) < self.NEAR:
                break
            action = np.zeros(self.place.action_dim, np.float32)
            action[:3] = np.clip(self.GAIN * error / self._geometry.reach, -1.0, 1.0)
            if self._geometry.open is not None:
                action[-1] = self._geometry.open
            observation = self.place.simulator.step(action).observation
        return observation

    def _position(self, observation: Observation) -> NDArray[np.float64]:
        assert isinstance(observation, np.ndarray), "a named task shows a vector"
        return observation[self._hand : self._hand + 3].astype(np.float64) / self._geometry.per_metre
