"""Scripted experts for the robomimic tasks: plans of straight motions, written as generators of actions."""

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
_STEP, _TURN = 0.05, 0.5  # what an action of 1 asks for: metres, radians


class Scene:
    """What the experts see: poses out of the simulator, and the one servo that all motions are made of.

    The hand's z axis points out of the hand along the fingers, which close along its y axis.
    """

    def __init__(self, env: Any):
        self.env = env
        self.observation: NDArray[np.floating] = np.zeros(0)

    @property
    def hand(self) -> Vector:
        """Position of the grip site."""
        return self.observation[:3].astype(np.float64)

    @property
    def hand_turn(self) -> Matrix:
        """Orientation of the hand."""
        return rotation(self.observation[3:7])

    @property
    def thing(self) -> Vector:
        """Position of the first object of the observation."""
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
        """Servo to a pose, looked up anew in each step, until the hand is near enough or `steps` are over."""
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
    """Of the angles that differ from `angle` by a multiple of a `fold`-th of a turn, the one nearest to 0."""
    part = 2.0 * np.pi / fold
    return float((angle + part / 2.0) % part - part / 2.0)


def up(metres: float) -> Vector:
    """That far upwards."""
    return np.array([0.0, 0.0, metres])


def lift(scene: Scene) -> Plan:
    """Over the cube, its faces between the fingers; down, close, up."""

    def turn() -> Matrix:
        # The hand starts with heading 0: the nearest of four alike keeps clear of the arm's limits.
        return downwards(nearest(heading(scene.thing_turn), 4))

    yield from scene.go(lambda: scene.thing + up(0.08), turn, OPEN, within=0.015)
    yield from scene.go(lambda: scene.thing, turn, OPEN, within=0.01, steps=30)
    yield from scene.hold(CLOSED, 6)
    grasped = scene.hand_turn
    yield from scene.go(lambda: scene.hand + up(0.05), lambda: grasped, CLOSED, steps=20)


def can(scene: Scene) -> Plan:
    """Down on the can, close, up, over to its bin, down and open."""

    def turn() -> Matrix:
        return downwards(0.0)

    yield from scene.go(lambda: scene.thing + up(0.12), turn, OPEN, within=0.02)
    yield from scene.go(lambda: scene.thing + up(0.01), turn, OPEN, within=0.012, steps=40)
    yield from scene.hold(CLOSED, 6)
    start = scene.hand
    # The walls between the bins reach up to 0.90, and the can 8 cm below the hand. The target is not the
    # bin's centre: there the arm is nearly stretched, and slow.
    bin_centre = scene.env.target_bin_placements[scene.env.object_to_id["can"]]
    over = np.array([bin_centre[0] - 0.04, bin_centre[1] - 0.04, 1.02])
    yield from scene.go(lambda: np.array([*start[:2], over[2]]), turn, CLOSED, within=0.03, steps=30)
    if np.linalg.norm(scene.thing - scene.hand) > 0.05:
        return
    yield from scene.go(lambda: over, turn, CLOSED, within=0.03, steps=80)
    yield from scene.go(lambda: over - up(0.1), turn, CLOSED, within=0.04, steps=30)
    yield from scene.hold(OPEN, 4)
    yield from scene.go(lambda: over, turn, OPEN, within=0.02, steps=30)


def square(scene: Scene) -> Plan:
    """The nut by its handle, over the peg, level and square with it, down.

    While the nut is in the hand, it is the nut's pose that is servoed, not the hand's.
    """
    peg = scene.env.sim.data.body_xpos[scene.env.peg1_body_id].copy()
    handle = scene.env.nuts[scene.env.nut_to_id["square"]].important_sites["handle"]
    grasp = nearest(heading(scene.thing_turn), 2)  # the handle may be held from either side

    def turn() -> Matrix:
        return downwards(grasp)

    yield from scene.go(lambda: scene.site(handle) + up(0.1), turn, OPEN, within=0.015)
    yield from scene.go(lambda: scene.site(handle), turn, OPEN, within=0.006, steps=40)
    yield from scene.hold(CLOSED, 9)
    yield from scene.go(lambda: scene.hand + up(0.05), turn, CLOSED, steps=8)
    if np.linalg.norm(scene.site(handle) - scene.hand) > 0.03:
        return
    nut = heading(scene.thing_turn)
    yaw = min((-np.pi, -np.pi / 2, 0.0, np.pi / 2, np.pi), key=lambda yaw: _awkward(nut, grasp, yaw))

    def carry(target: Callable[[], Vector], *, within: float, steps: int) -> Plan:
        return scene.go(
            lambda: scene.hand + target() - scene.thing,
            lambda: about_z(yaw) @ scene.thing_turn.T @ scene.hand_turn,
            CLOSED,
            within=within,
            angle=0.03,
            steps=steps,
        )

    yield from carry(lambda: peg + up(0.14), within=0.005, steps=80)
    yield from carry(lambda: np.array([*peg[:2], scene.thing[2] - 0.03]), within=0.0, steps=40)
    yield from scene.hold(OPEN, 4)
    yield from scene.go(lambda: scene.hand + up(0.05), turn, OPEN, steps=8)


def _awkward(nut: float, hand: float, yaw: float) -> float:
    """How little one likes to turn the nut from heading `nut` to `yaw`, held at the hand's heading `hand`.

    All that differ by a quarter fit the peg. But the hand's joint has its limits, and where the handle points
    away from the arm's base the arm would have to stretch.
    """
    by = nearest(yaw - nut, 1)
    return abs(by) + 4.0 * max(0.0, np.cos(yaw)) + (10.0 if abs(hand + by) > 1.8 else 0.0)


_ATTEMPTS: dict[str, Callable[[Scene], Plan]] = {"lift": lift, "can": can, "square": square}


class RobosuiteExpert:
    """Attempts task `name` in `env`, robosuite's environment, and again where something slipped."""

    def __init__(self, name: str, env: Any):
        self._scene = Scene(env)
        self._attempt = _ATTEMPTS[name]
        self._plan = self._attempts()

    def _attempts(self) -> Plan:
        while True:
            yield from self._attempt(self._scene)

    def reset(self) -> None:
        """Begin an episode."""
        self._plan = self._attempts()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, (7,), in [-1, 1], for one observation."""
        self._scene.observation = observation
        return next(self._plan).astype(np.float32)
