"""Adroit (Rajeswaran et al., 2018; gymnasium-robotics, v1): a 24-joint hand on an arm, in four sparse tasks.

Observation: the package's own, positions in metres and angles in radians:

- `pen` (45): hand joints (24); pen position (3), linear and angular velocity (6; m/s, rad/s), direction (3,
  unit vector); wanted direction (3); position less wanted position (3); direction less wanted direction (3).
- `door` (39): arm and hand joints (27); latch angle; hinge angle; palm (3); handle (3); palm less handle (3);
  1 where the door is open by more than 1 rad, else -1.
- `hammer` (46): arm and hand joints (26); nail depth; hammer's linear and angular velocity (6; m/s, rad/s,
  clipped to [-1, 1]); palm (3); hammer (3); hammer's Euler angles (3); nail (3); force on the nail (1; N,
  clipped to [-1, 1]).
- `relocate` (39): arm translation (3) and rotation (3) and hand joints (24); palm less ball (3); palm less
  target (3); ball less target (3).

Action (24, 28, 26, 30): the target of each joint's position servo, linearly from -1 (lower end of its range)
to 1 (upper end), in the order of the joints above (in `door`, preceded by the arm's slide towards the door).
The package does the scaling; data sets recorded with it hold the same actions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otpr.envs.robotics import RoboticsSimulator
from otpr.envs.task_env import Outcome, sparse


class AdroitSimulator(RoboticsSimulator):
    """One task; `name` is `"pen"`, `"door"`, `"hammer"` or `"relocate"`."""

    def __init__(self, name: str, render_mode: str | None):
        super().__init__(f"adroit_hand.adroit_{name}:AdroitHand{name.capitalize()}Env", (), render_mode)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        # The package's reward, dense or sparse (10 and -0.1), is not 1 and 0: only its success flag is used.
        observation, _, _, _, info = self.env.step(action)
        return sparse(observation, bool(info["success"]))


def make_simulator(name: str, render_mode: str | None) -> AdroitSimulator:
    """The simulator of the task `adroit/NAME`."""
    return AdroitSimulator(name, render_mode)
