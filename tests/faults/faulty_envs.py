"""A cheap environment that goes wrong on request: in a given episode, at a given step, so many times.

The request is the environment variable `OTPR_TEST_FAULTS`, which simulator processes inherit: a JSON list of
{"kind", "seed", "step", "times", "folder"}. Files in the folder count what was done, over all processes.
Step 0 is the reset.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

LIMIT = 6


class Point(gymnasium.Env):
    """A point moved by the actions; the reward, of 1, is for being near the goal, and ends nothing."""

    observation_space: gymnasium.Space = Box(-9, 9, (3,), np.float32)
    action_space: gymnasium.Space = Box(-1, 1, (2,), np.float32)
    max_episode_steps = LIMIT

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        self.state = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.observed(self.state), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert np.abs(action).max() <= 1.0, action
        self.steps += 1
        self.state[:2] += 0.3 * action
        success = bool(np.abs(self.state).max() < 0.6)
        observation, reward = self.observed(self.state), float(success)
        if self.due("infinite_reward"):
            reward = np.inf
        if self.due("huge_reward"):  # a number yet, whose square is none
            reward = 1e30
        return observation, reward, False, self.steps == LIMIT, {"success": success}

    def observed(self, state: Any) -> Any:
        if self.due("raise"):
            raise ConnectionError("robot unplugged")
        if self.due("hang"):
            time.sleep(600)
        if self.due("exit"):
            os._exit(3)
        if self.due("shape"):
            return np.zeros(4, np.float32)
        if self.due("nan_observation"):
            return np.array([0.0, np.nan, 0.0], np.float32)
        return state.copy()

    def due(self, kind: str) -> bool:
        for fault in json.loads(os.environ.get("OTPR_TEST_FAULTS", "[]")):
            if (kind, self.seed, self.steps) == (fault["kind"], fault["seed"], fault["step"]):
                done = Path(fault["folder"])
                count = len(list(done.iterdir()))
                if count < fault["times"]:
                    (done / str(count)).touch()
                    return True
        return False


class SeeingPoint(Point):
    """The same point, seen: a grey picture with a white spot."""

    observation_space = Dict(
        {"camera": Box(0, 255, (16, 20, 3), np.uint8), "state": Box(-9, 9, (3,), np.float32)}
    )

    def observed(self, state: Any) -> Any:
        state = super().observed(state)
        picture = np.full((16, 20, 3), 60, np.uint8)
        row, column = ((np.clip(state[:2], -1, 1) + 1) / 2 * (14, 18)).astype(int)
        picture[row : row + 2, column : column + 2] = 255
        if self.due("black"):
            picture[:] = 0
        if self.due("size"):
            picture = picture[::2]
        if self.due("floats"):
            return {"camera": picture / 255.0, "state": state}
        if self.due("nan_image"):
            return {"camera": np.full((16, 20, 3), np.nan), "state": state}
        return {"camera": picture, "state": state}


class SeeingInTheDark(SeeingPoint):
    """The same, whose pictures may be black."""

    metadata = {"render_modes": [], "black_frames": True}  # noqa: RUF012
