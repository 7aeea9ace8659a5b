"""Environments for the tests of agreement: a point in a plane, as users declare it in different ways."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

STEP = 0.05


class Point(gymnasium.Env):
    """Moved towards a goal, at most by STEP a step; the observation is declared in an order of its own."""

    observation_space: gymnasium.Space = Dict(pos=Box(-2, 2, (2,)), goal=Box(-2, 2, (2,)))
    action_space: gymnasium.Space = Box(-STEP, STEP, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.pos = self.np_random.uniform(-0.3, 0.3, 2)
        angle = self.np_random.uniform(0, 2 * np.pi)
        self.goal = 0.6 * np.array([np.cos(angle), np.sin(angle)])
        return self.observe(), {"success": False}

    def step(self, action: np.ndarray) -> Any:
        self.pos = self.pos + np.clip(action, self.action_space.low, self.action_space.high)
        success = bool(np.linalg.norm(self.pos - self.goal) < 0.06)
        return self.observe(), float(success), success, False, {"success": success}

    def observe(self) -> Any:
        return {"pos": self.pos.astype(np.float32), "goal": self.goal.astype(np.float32)}


class Flat(Point):
    """The same without names."""

    observation_space = Box(-2, 2, (4,), np.float32)

    def observe(self) -> Any:
        return np.concatenate([self.pos, self.goal]).astype(np.float32)


class Wide(Point):
    """The same, twice as fast."""

    action_space = Box(-2 * STEP, 2 * STEP, (2,), np.float32)


class Shifted(Point):
    """The same, seen from elsewhere."""

    def observe(self) -> Any:
        return {**super().observe(), "goal": (self.goal + 3).astype(np.float32)}


class Expert:
    """Goes straight to the goal."""

    def act(self, observation: Any) -> np.ndarray:
        return np.clip(observation["goal"] - observation["pos"], -STEP, STEP)


def _limited(env: gymnasium.Env) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(env, 40)


def point() -> gymnasium.Env:
    return _limited(Point())


def flat() -> gymnasium.Env:
    return _limited(Flat())


def wide() -> gymnasium.Env:
    return _limited(Wide())


def shifted() -> gymnasium.Env:
    return _limited(Shifted())


class Seen(Point):
    """With a camera called front."""

    observation_space = Dict(
        front=Box(0, 255, (8, 9, 3), np.uint8), goal=Box(-2, 2, (2,)), pos=Box(-2, 2, (2,))
    )

    def observe(self) -> Any:
        return {**super().observe(), "front": np.full((8, 9, 3), 90, np.uint8)}


def seen() -> gymnasium.Env:
    """It with a limit."""
    return gymnasium.wrappers.TimeLimit(Seen(), 20)
