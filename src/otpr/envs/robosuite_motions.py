"""Straight hand motions, from which the experts of the robomimic tasks are composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]  # (3,), metres, in the world frame
Matrix = NDArray[np.float64]  # (3, 3), a rotation: its columns are the body's axes in the world frame
Plan = Iterator[NDArray[np.float64]]  # yields actions; the scene is up to date whenever it goes on

OPEN, CLOSED = -1.0, 1.0  # of the fingers
_STEP, _TURN = 0.05, 0.5  # displacement of an action of 1: metres, radians


class Scene:
    """The poses that an arm's expert reads from the simulator, and the servo for its motions.

    The hand's z axis points out of the hand along the fingers, which close along its y axis.

    Args:
        env: robosuite's environment.
        arm: index of the arm, 0 or 1.
    """

    def __init__(self, env: Any, arm: int = 0):
        self.env = env
        self.observation: NDArray[np.floating] = np.zeros(0)
        self._start = 9 * arm

    @property
    def hand(self) -> Vector:
        """Position of the grip site."""
        return self.observation[self._start : self._start + 3].astype(np.float64)

    @property
    def hand_turn(self) -> Matrix:
        """Orientation of the hand."""
        return rotation(self.observation[self._start + 3 : self._start + 7])

    @property
    def thing(self) -> Vector:
        """Position of the first object of the observation of a task with one arm."""
        return self.observation[9:12].astype(np.float64)

    @property
    def thing_turn(self) -> Matrix:
        """Orientation of that object."""
        return rotation(self.observation[12:16])

    def site(self, name: str) -> Vector:
        """Position of a site of the model."""
        data, model = self.env.sim.data, self.env.sim.model
        return np.array(data.site_xpos[model.site_name2id(name)])

    def servo(self, position: Vector, turn: Matrix, grip: float) -> NDArray[np.float64]:
        """The action, (7,), that brings the hand nearer to a pose: proportional, clipped."""
        axis_angle = Rotation.from_matrix(turn @ self.hand_turn.T).as_rotvec()
        return np.clip([*(position - self.hand) / _STEP, *axis_angle / _TURN, grip], -1.0, 1.0)

    def go(
        self,
        position: Callable[[], Vector],
        turn: Callable[[], Matrix],
        grip: float,
        *,
        within: float = 0.01,
        angle: float = 0.1,
        steps: int = 60,
    ) -> Plan:
        """Servo to a pose, looked up in each step, until the hand is close enough or `steps` are over."""
        for _ in range(steps):
            if np.linalg.norm(position() - self.hand) < within and distance(turn(), self.hand_turn) < angle:
                return
            yield self.servo(position(), turn(), grip)

    def hold(self, grip: float, steps: int) -> Plan:
        """Keep the hand where it is while the fingers move."""
        position, turn = self.hand, self.hand_turn
        for _ in range(steps):
            yield self.servo(position, turn, grip)


def rotation(quaternion: NDArray[np.floating]) -> Matrix:
    """The matrix of a quaternion x y z w."""
    return Rotation.from_quat(quaternion).as_matrix()


def distance(one: Matrix, other: Matrix) -> float:
    """The angle between two orientations, radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ other) - 1.0) / 2.0, -1.0, 1.0)))


def heading(turn: Matrix) -> float:
    """The direction of the x axis seen from above, radians anticlockwise from the world's x axis."""
    return float(np.arctan2(turn[1, 0], turn[0, 0]))


def downwards(yaw: float) -> Matrix:
    """The hand pointing straight down, its x axis in direction `yaw`, radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def about_z(angle: float) -> Matrix:
    """A rotation about the vertical, radians anticlockwise seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def nearest(angle: float, fold: int) -> float:
    """The angle nearest to 0 that differs from `angle` by a multiple of a `fold`-th of a turn."""
    part = 2.0 * np.pi / fold
    return float((angle + part / 2.0) % part - part / 2.0)


def up(metres: float) -> Vector:
    """An upward displacement in metres."""
    return np.array([0.0, 0.0, metres])
