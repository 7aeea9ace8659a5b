"""The one face of every task: flat float32 observations, actions in [-1, 1], success apart from time-out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from otpr.errors import OtprError


class Outcome(NamedTuple):
    """What one step of a simulator led to."""

    observation: NDArray[np.floating]  # (observation_dim,)
    reward: float
    success: bool  # the task is solved now
    terminated: bool  # the episode has reached a terminal state: nothing comes after it
    truncated: bool = False  # the simulator itself cuts the episode off here


def sparse(observation: NDArray[np.floating], solved: bool) -> Outcome:
    """The outcome of most tasks: 1.0 on the step that solves it, which ends the episode, else 0.0."""
    return Outcome(observation, float(solved), solved, terminated=solved)


class Simulator(Protocol):
    """What a simulator's file has to offer; `TaskEnv` does the rest."""

    render_fps: int  # steps in a second of simulated time

    def reset(self, seed: int) -> NDArray[np.floating]:
        """Start an episode and return its first observation, (observation_dim,).

        The seed, in [0, 2**31), must fix the whole initial condition: the same seed gives the same trajectory
        under the same actions, in any process and whatever was run before.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Execute an action, (action_dim,), finite and in [-1, 1]."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """The picture now, (height, width, 3), upright."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...


class TaskEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A simulator as a Gymnasium environment with a time limit; `otpr.envs.make_env` says what it promises.

    Args:
        simulator: the simulator; `simulator` is also the attribute by which an expert reaches it.
        task_id: the task's name, for errors.
        observation_dim: length of the observation.
        action_dim: length of the action.
        episode_limit: steps after which an episode is truncated.
        render_mode: None or `"rgb_array"`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012, as Gymnasium declares it

    def __init__(
        self,
        simulator: Simulator,
        *,
        task_id: str,
        observation_dim: int,
        action_dim: int,
        episode_limit: int,
        render_mode: str | None = None,
    ):
        self.simulator = simulator
        self.metadata = {**self.metadata, "render_fps": simulator.render_fps}
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self._task_id = task_id
        self._episode_limit = episode_limit
        self._steps_left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; without a seed, from one that is drawn from the stream of the last seed."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        observation = self._checked(self.simulator.reset(seed))
        self._steps_left = self._episode_limit
        return observation, {"success": False}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Step once. `truncated` is only ever True where `terminated` is not.

        Raises:
            ResetNeeded: the episode is over, or none was started.
            ValueError: the action is not finite.
            OtprError: the observation has another shape than the task's.
        """
        if self._steps_left == 0:
            raise ResetNeeded("No episode is running: call reset() first")
        if not np.isfinite(action).all():
            raise ValueError(f"The action must be finite, given {action}")
        outcome = self.simulator.step(np.clip(action, -1.0, 1.0))
        observation = self._checked(outcome.observation)
        self._steps_left = 0 if outcome.terminated or outcome.truncated else self._steps_left - 1
        truncated = not outcome.terminated and self._steps_left == 0
        success = bool(outcome.success)
        return observation, float(outcome.reward), bool(outcome.terminated), truncated, {"success": success}

    def _checked(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        if observation.shape != self.observation_space.shape:
            raise OtprError(
                f"{self._task_id}: an observation has shape {observation.shape}, expected "
                f"{self.observation_space.shape}. The environment must keep to its observation space."
            )
        return observation.astype(np.float32)

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The picture now, uint8, shape (height, width, 3), upright."""
        return self.simulator.render()

    def close(self) -> None:
        """Free what the simulator holds."""
        self.simulator.close()
