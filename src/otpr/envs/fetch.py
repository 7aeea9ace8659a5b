"""Fetch (Plappert et al., 2018; gymnasium-robotics, v4): a 7-joint arm moves a block or a puck to a goal.

Observation, shape (28,): the package's entry `observation`, then its `desired_goal`. That is, in metres,
radians and, for velocities, metres or radians a step (0.04 s): gripper position (3), object position (3),
object less gripper (3), finger displacements (2), object's Euler angles (3), its velocity less the gripper's
(3), its angular velocity (3), gripper velocity (3), finger velocities (2); goal position (3). The entry
`achieved_goal` repeats the object's position and is left out.
Action, shape (4,): displacement of the gripper along x, y, z (1.0 requests 5 cm per step, of which the arm
achieves about 3.3) and of the fingers, which open at 1 (without effect in `push` and `slide`, where they are
held shut).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.envs.cameras import Scene
from otpr.envs.catalog import SUITES
from otpr.envs.robotics import RoboticsSimulator
from otpr.envs.task_env import Outcome, TaskEnv, sparse

_CLASSES = {
    "push": "push:MujocoFetchPushEnv",
    "pick-and-place": "pick_and_place:MujocoFetchPickAndPlaceEnv",
    "slide": "slide:MujocoFetchSlideEnv",
}


class FetchSimulator(RoboticsSimulator):
    """One task: `"push"`, `"pick-and-place"` or `"slide"`."""

    def __init__(self, name: str, render_mode: str | None):
        super().__init__(f"fetch.{_CLASSES[name]}", SUITES["fetch"].tasks[name].observation_keys, render_mode)
        self._inner = 0.0  # smallest distance of block and gripper at the start, in metres

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`. A start that is already solved is redrawn from the same stream."""
        observation = self.env.reset(seed=seed)[0]
        while self._solved(observation) or self._inside(observation):
            observation = self.env.reset()[0]
        return self.flat(observation)

    def _solved(self, observation: Any) -> bool:
        return self.env.compute_reward(observation["achieved_goal"], observation["desired_goal"], {}) == 0

    def _inside(self, observation: Any) -> bool:
        """Whether the block is in the usual region although it must be outside."""
        off = observation["achieved_goal"][:2] - self.env.initial_gripper_xpos[:2]
        return bool((np.abs(off) < self._inner).all())

    @contextlib.contextmanager
    def widened(self, factor: float) -> Generator[None]:
        """See `otpr.envs.shifts.starts.Widened`; widens the block's region, not the goal's."""
        usual = self.env.obj_range
        self.env.obj_range, self._inner = usual * factor, usual
        try:
            yield
        finally:
            self.env.obj_range, self._inner = usual, 0.0

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        # The package's reward is 0 and -1: only its success flag is used.
        observation, _, _, _, info = self.env.step(action)
        return sparse(self.flat(observation), bool(info["is_success"]))

    def scene(self) -> Scene:
        """What cameras see."""
        return Scene(self.env.model, self.env.data, prepare=self._mark_goal)

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        self._mark_goal()
        return self.env.mujoco_renderer.render(self.env.render_mode)

    def _mark_goal(self) -> None:
        # The package's `render` recomputes the whole state to show the goal, which changes the course of an
        # episode. Moving the goal's marker is sufficient.
        self.env.data.site("target0").xpos[:] = self.env.goal


class PushExpert:
    """Moves behind the block as seen from the goal, over it if necessary, and pushes. It is memoryless."""

    def reset(self) -> None:
        """Begin an episode."""

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, shape (4,), for one observation, shape (28,)."""
        gripper, block, goal = observation[:3], observation[3:6], observation[25:28]
        way = (goal - block)[:2]
        way = way / max(float(np.linalg.norm(way)), 1e-6)
        # From the block's centre to the gripper's when they touch, and where to come down behind it.
        touching = _BLOCK_HALF_WIDTH * np.abs(way).sum() + 0.015
        behind = block[:2] - (touching + 0.015) * way
        offset = (gripper - block)[:2]
        aside = offset - offset @ way * way
        low = gripper[2] < block[2] + 0.02
        if low and offset @ way < -_BLOCK_HALF_WIDTH and np.linalg.norm(aside) < 0.02:
            return _move(np.append(0.05 * way - aside, _PUSHING_HEIGHT - gripper[2]), fingers=-1.0)
        to_behind = behind - gripper[:2]
        distance = float(np.linalg.norm(to_behind))
        if distance < 0.02:
            return _move(np.append(to_behind, _PUSHING_HEIGHT - gripper[2]), fingers=-1.0)
        climb = _CROSSING_HEIGHT - gripper[2]
        if climb > 0.02 and np.linalg.norm(offset) < 0.08:
            to_behind = np.zeros(2)  # rise first, in order not to sweep the block away
        return _move(np.append(to_behind, climb), fingers=-1.0)


class PickAndPlaceExpert:
    """Descends on the block with open fingers, grasps it and carries it to the goal. It is memoryless."""

    def reset(self) -> None:
        """Begin an episode."""

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, shape (4,), for one observation, shape (28,)."""
        to_block, to_goal = observation[6:9], observation[25:28] - observation[3:6]
        opening = float(observation[9:11].sum())
        if np.linalg.norm(to_block[:2]) > 0.015 and to_block[2] < -0.04:
            return _move(to_block + np.array([0.0, 0.0, _HOVERING]), fingers=1.0)
        if np.linalg.norm(to_block) > 0.015:
            return _move(to_block, fingers=1.0)
        if opening > 2 * _BLOCK_HALF_WIDTH + 0.005:
            return _move(to_block, fingers=-1.0)
        return _move(to_goal, fingers=-1.0)


# In metres: half the block's edge; heights at which the closed fingers touch the table, and clear the block.
_BLOCK_HALF_WIDTH = 0.025
_PUSHING_HEIGHT = 0.42
_CROSSING_HEIGHT = 0.48
# Height above the block at which the open fingers wait until they are aligned with it.
_HOVERING = 0.06


def _move(displacement: NDArray[np.floating], fingers: float) -> NDArray[np.float32]:
    """The action, (4,), that moves the gripper by (3,) metres, in one step or as fast as it can."""
    # The arm achieves two thirds of a requested displacement.
    return np.clip(np.append(displacement / (0.05 * 2 / 3), fingers), -1.0, 1.0).astype(np.float32)


def make_simulator(name: str, render_mode: str | None) -> FetchSimulator:
    """The simulator of the task `fetch/NAME`."""
    return FetchSimulator(name, render_mode)


def make_expert(name: str, env: TaskEnv) -> PushExpert | PickAndPlaceExpert:
    """The expert of the task `fetch/NAME`."""
    return PushExpert() if name == "push" else PickAndPlaceExpert()
