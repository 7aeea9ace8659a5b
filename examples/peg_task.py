"""Meta-World's peg-insert-side with the numbers that matter: one's own environment, `peg_task:make_env`.

The task's own observation has 39 numbers. Some of them vary by micrometres, and LeRobot's normalisation by
the range in a data set makes these as large as all others. Left out here are orientations and empty places.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from otpr.envs import make_env as make_task
from otpr.envs import task_spec

TASK = "metaworld/peg-insert-side-v3"
LIMIT = task_spec(TASK).required_limit()
HAND = 4
"""The first numbers are the robot's own state: the hand's position (m) and how far it is open."""
KEPT = [*range(7), *range(18, 25), *range(36, 39)]
"""Hand and opening, the peg's position (m), both one step before, and the hole's position."""


class PegTask(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The task, with the same initial condition for the same seed, and `KEPT` of its observation."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - as gymnasium declares it
    observation_space = Box(-np.inf, np.inf, (len(KEPT),), np.float32)

    def __init__(self, render_mode: str | None = None):
        self.task = make_task(TASK, render_mode=render_mode)
        self.action_space = self.task.action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.Env.reset`; without a seed, a random one."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, _ = self.task.reset(seed=drawn)
        return kept(observation), {"success": False}

    def step(self, action: NDArray[np.floating]) -> Any:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.task.step(np.clip(action, -1, 1))
        return kept(observation), reward, terminated, truncated, {"success": bool(info["success"])}

    def render(self) -> Any:
        """See `gymnasium.Env.render`."""
        return self.task.render()

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        self.task.close()


def kept(observations: NDArray[Any]) -> NDArray[np.float32]:
    """`KEPT` of observations, shape (..., 39)."""
    return np.asarray(observations, np.float32)[..., KEPT]


def make_env(render_mode: str | None = None) -> Any:
    """The task as otpr takes it."""
    return gymnasium.wrappers.TimeLimit(PegTask(render_mode), max_episode_steps=LIMIT)
