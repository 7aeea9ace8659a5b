"""Franka Kitchen (Gupta et al., 2019; D4RL, Fu et al., 2020; gymnasium-robotics, `FrankaKitchen-v1`).

Observation, shape (59,), the entry `observation` of the package's: 9 joint positions of the robot (7 angles
in radians, 2 fingers in metres) and their 9 velocities (per second); then of the kitchen 21 positions: knob
and flame of the four burners (8: bottom right, bottom left, top right, top left), light switch and light (2),
slide cabinet (m), left and right hinge cabinet (2), microwave door, kettle position (3, m) and quaternion
(4); and their 20 velocities in the same order (the kettle's: 3 linear, 3 angular). Uniform noise of the
sensors is added, of at most 0.001 for the robot and 0.00005 for the kitchen. A seed changes nothing else:
every episode starts from the same state, but the noisy joint positions enter the control, so that episodes
diverge.
Action, shape (9,): velocities of the robot's joints, 1.0 being 2 rad/s (fingers: 2 m/s), within their limits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otpr.envs.catalog import SUITES
from otpr.envs.kitchen_expert import KitchenExpert
from otpr.envs.robotics import RoboticsSimulator
from otpr.envs.task_env import Outcome, TaskEnv

SUBTASKS: dict[str, tuple[str, ...]] = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
"""The subtasks of each task, in any order, as in D4RL's `kitchen-complete`, `-partial`, `-mixed`.

The order is that of the names in D4RL, and the expert's.
"""


class KitchenSimulator(RoboticsSimulator):
    """The kitchen with some subtasks by the package's names; each counts once, when first completed."""

    def __init__(self, subtasks: tuple[str, ...], render_mode: str | None):
        super().__init__(
            "franka_kitchen:KitchenEnv",
            SUITES["kitchen"].tasks["complete"].observation_keys,
            render_mode,
            tasks_to_complete=list(subtasks),
        )

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`. The reward is the number of subtasks that this step completes."""
        observation, reward, done, _, _ = self.env.step(action)
        return Outcome(self.flat(observation), reward, success=done, terminated=done)


def make_simulator(name: str, render_mode: str | None) -> KitchenSimulator:
    """The simulator of the task `kitchen/NAME`."""
    return KitchenSimulator(SUBTASKS[name], render_mode)


def make_expert(name: str, env: TaskEnv) -> KitchenExpert:
    """The scripted policy of the task `kitchen/NAME`."""
    simulator = env.simulator
    assert isinstance(simulator, KitchenSimulator)
    return KitchenExpert(SUBTASKS[name], simulator.env)
