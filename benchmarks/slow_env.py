"""An environment that costs time and no processor, as a simulator on another machine or a robot does."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

SECONDS = 0.02
"""What a step takes."""

STEPS = 40
"""Of an episode."""


class Slow(gymnasium.Env[Any, Any]):
    """39 numbers to see, 4 to choose, nothing to achieve."""

    observation_space: gymnasium.Space[Any] = Box(-9, 9, (39,), np.float32)
    action_space: gymnasium.Space[Any] = Box(-1, 1, (4,), np.float32)
    max_episode_steps = STEPS

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin anywhere."""
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 39).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the time, and be anywhere."""
        time.sleep(SECONDS)
        return self.np_random.uniform(-1, 1, 39).astype(np.float32), 0.0, False, False, {"success": False}
