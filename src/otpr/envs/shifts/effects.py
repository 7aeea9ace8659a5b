"""The interface of a shift's effect on one environment, and the shifts of actions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otpr.envs.catalog import Geometry
from otpr.envs.task_env import Observation, Simulator


@dataclass(frozen=True)
class Place:
    """The environment that a shift acts on.

    Attributes:
        task: the task's name, for errors.
        simulator: the simulator, unshifted.
        geometry: the positions in its observation; None: unknown.
        action_dim: length of an action.
        episode_limit: largest number of steps in an episode.
    """

    task: str
    simulator: Simulator
    geometry: Geometry | None
    action_dim: int
    episode_limit: int


class Effect:
    """A shift in one environment. All draws come from the generator of the current episode.

    Args:
        place: the environment.
        amount: the amount in the unit of the shift's definition.

    Raises:
        OtprError: the task does not support this shift; the message says why.
    """

    def __init__(self, place: Place, amount: float):
        self.place = place
        self.amount = amount
        self.rng = np.random.default_rng(0)

    def begin(self, rng: np.random.Generator) -> None:
        """Called before the simulator is reset."""
        self.rng = rng

    def started(self, observation: Observation) -> Observation:
        """Called after the simulator was reset; may step it, and returns the resulting observation."""
        return observation

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The action to execute in place of the given one; called once before each step."""
        return action

    def see(self, observation: Observation) -> Observation:
        """The observation in place of the given one; called once for each observation, in order."""
        return observation

    def end(self) -> None:
        """Undo the changes of `begin` to the simulator's model or reset; called before the next episode."""


class ActionNoise(Effect):
    """Adds Gaussian noise of standard deviation `amount` to actions in [-1, 1], and clips them."""

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        noise = self.rng.normal(0.0, self.amount, action.shape)
        return np.clip(action + noise, -1.0, 1.0).astype(np.float32)


class Gain(Effect):
    """Multiplies actions by `amount`."""

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        return (action * self.amount).astype(np.float32)


class Latency(Effect):
    """Delays actions by `amount` steps; until then zeros, the middle of the bounds, are executed."""

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        waiting = [np.zeros(self.place.action_dim, np.float32)] * int(self.amount)
        self._waiting = deque(waiting)

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        self._waiting.append(action)
        return self._waiting.popleft()
