"""What a shift does in one environment, and the shifts of actions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otpr.envs.catalog import Geometry
from otpr.envs.task_env import Observation, Simulator


@dataclass(frozen=True)
class Place:
    """Where a shift acts.

    Attributes:
        task: its name, for errors.
        simulator: the simulator, unshifted.
        geometry: where positions stand in its observation; None where nobody says it.
        action_dim: length of an action.
        episode_limit: steps of an episode.
    """

    task: str
    simulator: Simulator
    geometry: Geometry | None
    action_dim: int
    episode_limit: int


class Effect:
    """A shift in one environment. All that it draws comes from the generator of the present episode.

    Args:
        place: where it acts.
        amount: by how much, in the unit of its definition.

    Raises:
        OtprError: this task cannot be shifted so; the message says why.
    """

    def __init__(self, place: Place, amount: float):
        self.place = place
        self.amount = amount
        self.rng = np.random.default_rng(0)

    def begin(self, rng: np.random.Generator) -> None:
        """Before the simulator is reset."""
        self.rng = rng

    def started(self, observation: Observation) -> Observation:
        """After the simulator was reset: may let it act, and returns what it shows then."""
        return observation

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The action that is executed in place of this one; called once a step, before it."""
        return action

    def see(self, observation: Observation) -> Observation:
        """What is observed in place of this; called once for each observation of an episode, in order."""
        return observation

    def end(self) -> None:
        """Undo what `begin` has done to the simulator's model or reset. Called before the next episode."""


class ActionNoise(Effect):
    """Gaussian noise of standard deviation `amount`, where actions lie in [-1, 1]; clipped to that."""

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        noise = self.rng.normal(0.0, self.amount, action.shape)
        return np.clip(action + noise, -1.0, 1.0).astype(np.float32)


class Gain(Effect):
    """Actions times `amount`."""

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        return (action * self.amount).astype(np.float32)


class Latency(Effect):
    """Actions `amount` steps late; the first steps of an episode execute zeros, the middle of the bounds."""

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        waiting = [np.zeros(self.place.action_dim, np.float32)] * int(self.amount)
        self._waiting = deque(waiting)

    def act(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Effect.act`."""
        self._waiting.append(action)
        return self._waiting.popleft()
