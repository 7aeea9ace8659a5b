"""The scripted expert of Franka Kitchen: straight hand motions, one subtask at a time.

Each motion uses differential inverse kinematics: the hand's distance from a pose gives its velocity, damped
least squares with MuJoCo's Jacobian gives the joint velocities, and a model of the joint servos gives the
action. Positions are defined relative to the handled object, whose pose is looked up in every step. Positions
are in metres in the world frame; x points right along the counters, y away from the robot, z up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]  # (3,), metres
Matrix = NDArray[np.float64]  # (3, 3), a rotation: its columns are the hand's axes in the world frame
Plan = Iterator[NDArray[np.float64]]  # yields actions, (9,); the scene is up to date whenever it goes on

# of the fingers: as fast as they go, so that noise on an action does not loosen a grasp
OPEN, CLOSED = 1.0, -1.0
_ARM = 7  # joints
_FULL = 2.0  # rad/s that an action of 1 asks for
_TIP = 0.055  # metres from the grip site to the ends of the fingers
_GAIN = 5.0  # per second: how fast the hand closes in on a pose
_SPEED, _SPIN = 0.7, 2.0  # of the hand, at most; m/s, rad/s
_DAMPING = 0.02  # of the least squares
_LEVER = 0.2  # metres: a radian of the hand's direction counts as much as this of its position
_MARGIN = 0.02  # radians from the end of a joint's range
_POSTURE = np.array([-0.3, -1.4, 1.6, -2.1, 0.3, 1.0, 1.6])
"""Joint angles, near the initial ones, that the arm approaches in the null space of the hand's pose."""


class Arm:
    """The arm of the package's kitchen: the pose of its hand, and actions that move it to a pose.

    The hand's z axis points out of the hand along the fingers, which close along its y axis.

    Args:
        env: the package's environment.
    """

    def __init__(self, env: Any):
        robot = env.robot_env
        self.model, self.data, self._step = robot.model, robot.data, robot.dt
        self._site = self.model.site("end_effector").id
        stiffness = self.model.actuator_gainprm[:_ARM, 0]
        # Share of the distance to its target that a joint's servo covers in one step.
        time = self.model.dof_damping[:_ARM] / stiffness
        self._reached = 1.0 - np.exp(-self._step / time)
        self._stiffness = stiffness
        self._reach = (
            self.model.actuator_forcerange[:_ARM, 1] / stiffness
        )  # radians; the force saturates beyond
        self._limits = self.model.jnt_range[:_ARM]

    @property
    def hand(self) -> Vector:
        """Position of the grip site, between the fingers."""
        return self.data.site_xpos[self._site].copy()

    @property
    def hand_turn(self) -> Matrix:
        """Orientation of the hand."""
        return self.data.site_xmat[self._site].reshape(3, 3).copy()

    def site(self, name: str) -> Vector:
        """Position of a site of the model."""
        return self.data.site(name).xpos.copy()

    def servo(self, position: Vector, turn: Matrix, grip: float) -> NDArray[np.float64]:
        """The action, (9,), that brings the hand nearer to a pose."""
        way = _at_most(_GAIN * (position - self.hand), _SPEED)
        spin = _at_most(_GAIN * Rotation.from_matrix(turn @ self.hand_turn.T).as_rotvec(), _SPIN)
        velocities = self._joints(np.concatenate([way, spin]))
        return np.append(self._told(velocities) / (_FULL * self._step), [grip, grip])

    def _joints(self, twist: Vector) -> Vector:
        """Joint velocities, (7,), for a hand velocity, (6,), within the joints' ranges."""
        whole = np.zeros((6, self.model.nv))
        jacobian_of = mujoco.mj_jacSite  # pyright: ignore[reportAttributeAccessIssue]
        jacobian_of(self.model, self.data, whole[:3], whole[3:], self._site)
        weights = np.array([1.0, 1.0, 1.0, _LEVER, _LEVER, _LEVER])
        jacobian, angles = weights[:, None] * whole[:, :_ARM], self.data.qpos[:_ARM]
        low, high = self._limits[:, 0] + _MARGIN, self._limits[:, 1] - _MARGIN
        while True:
            inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6))
            wanted = _POSTURE - angles
            velocities = inverse @ (weights * twist) + wanted - inverse @ (jacobian @ wanted)
            leaving = ((angles < low) & (velocities < 0)) | ((angles > high) & (velocities > 0))
            leaving &= jacobian.any(axis=0)
            if not leaving.any():
                return np.where(jacobian.any(axis=0), velocities, 0.0)
            jacobian = jacobian * ~leaving  # solved without these joints

    def _told(self, velocities: Vector) -> Vector:
        """Offsets of the joints' targets, (7,) in radians, that give these velocities."""
        ahead = velocities * self._step / self._reached
        weight = self.data.qfrc_bias[:_ARM] / self._stiffness  # sag of a joint below its target
        room = np.maximum(self._reach - np.abs(weight), 0.01)
        return weight + ahead * min(1.0, float(np.min(room / np.maximum(np.abs(ahead), 1e-9))))

    def go(
        self,
        position: Callable[[], Vector],
        turn: Matrix,
        grip: float,
        *,
        within: float = 0.02,
        steps: int = 40,
        until: Callable[[], bool] = lambda: False,
    ) -> Plan:
        """Move to a pose, looked up in each step, until it is reached, `until` holds or `steps` are over."""
        for _ in range(steps):
            if np.linalg.norm(position() - self.hand) < within or until():
                return
            yield self.servo(position(), turn, grip)

    def hold(self, grip: float, steps: int) -> Plan:
        """Keep the hand where it is while the fingers move."""
        position, turn = self.hand, self.hand_turn
        for _ in range(steps):
            yield self.servo(position, turn, grip)


def _at_most(vector: Vector, length: float) -> Vector:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


def facing(x: float, y: float, z: float) -> Matrix:
    """The hand pointing along (x, y, z), its fingers closing horizontally."""
    forward = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    across = np.cross(forward, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    return np.stack([np.cross(across, forward), across, forward], axis=1)


def tip_at(position: Vector, turn: Matrix) -> Vector:
    """The position of the grip site for a given position of the fingertips."""
    return position - _TIP * turn[:, 2]


def by(x: float, y: float, z: float) -> Vector:
    """A displacement to the right, away and up, in metres."""
    return np.array([x, y, z])


def microwave(arm: Arm) -> Plan:
    """Grasp the upright handle and move the door along its arc."""
    turn = facing(-0.45, 0.85, -0.25)
    forward = turn[:, 2]
    hinge = arm.data.body("microdoorroot").xpos.copy()

    def handle() -> Vector:
        return arm.site("microhandle_site")

    def along() -> Vector:
        """The handle's position with the door slightly further open."""
        return hinge + Rotation.from_rotvec([0.0, 0.0, -0.35]).apply(handle() - hinge)

    yield from arm.go(lambda: handle() - 0.14 * forward, turn, OPEN, within=0.02)
    yield from arm.go(handle, turn, OPEN, within=0.015)
    yield from arm.hold(CLOSED, 8)
    yield from arm.go(along, turn, CLOSED, until=lambda: arm.data.joint("microwave").qpos[0] < -0.65)
    yield from arm.hold(OPEN, 6)
    yield from arm.go(lambda: handle() - 0.14 * forward, turn, OPEN, within=0.04)


def kettle(arm: Arm) -> Plan:
    """Push the kettle low from the front towards the burner behind it."""
    turn = facing(0.0, 0.6, -0.8)

    def body() -> Vector:
        return arm.data.body("kettleroot").xpos.copy()

    yield from arm.go(lambda: tip_at(body() + by(0.0, -0.22, 0.2), turn), turn, CLOSED, within=0.05)
    yield from arm.go(lambda: tip_at(body() + by(0.0, -0.2, 0.07), turn), turn, CLOSED, within=0.03)
    yield from arm.go(
        lambda: tip_at(body() + by(0.0, 0.0, 0.07), turn), turn, CLOSED, until=lambda: body()[1] > 0.56
    )
    yield from arm.go(lambda: tip_at(body() + by(0.0, -0.3, 0.25), turn), turn, CLOSED, within=0.05)


def light_switch(arm: Arm) -> Plan:
    """Push the lever under the hood to the left."""
    turn = facing(0.0, 1.0, 0.0)

    def lever() -> Vector:
        return arm.site("light_site")

    def beside(x: float, y: float) -> Callable[[], Vector]:
        return lambda: tip_at(lever() + by(x, y, 0.0), turn)

    yield from arm.go(beside(0.1, -0.15), turn, CLOSED, within=0.04)
    yield from arm.go(beside(0.08, 0.02), turn, CLOSED, within=0.02)
    yield from arm.go(
        beside(-0.06, 0.02), turn, CLOSED, until=lambda: arm.data.joint("light_switch").qpos[0] < -0.65
    )
    yield from arm.go(beside(0.1, -0.15), turn, CLOSED, within=0.05)


def slide_cabinet(arm: Arm) -> Plan:
    """Push the upright handle to the right."""
    turn = facing(0.0, 0.85, 0.5)

    def handle() -> Vector:
        return arm.site("slide_site")

    def beside(x: float, y: float) -> Callable[[], Vector]:
        return lambda: tip_at(handle() + by(x, y, 0.0), turn)

    yield from arm.go(beside(-0.1, -0.12), turn, CLOSED, within=0.04)
    yield from arm.go(beside(-0.09, 0.03), turn, CLOSED, within=0.02)
    yield from arm.go(
        beside(0.1, 0.03), turn, CLOSED, until=lambda: arm.data.joint("slide_cabinet").qpos[0] > 0.3
    )
    yield from arm.go(beside(-0.1, -0.12), turn, CLOSED, within=0.04)


def bottom_burner(arm: Arm) -> Plan:
    """Push the upper end of the knob, an upright bar, to the right; the wrist is too weak for the left."""
    turn = facing(0.0, 1.0, 0.0)

    def turned() -> float:
        return -arm.data.joint("knob_Joint_2").qpos[0]

    def beside(x: float, y: float) -> Callable[[], Vector]:
        """A position relative to the contact with the left side of the knob's upper end."""

        def place() -> Vector:
            sine, cosine = np.sin(turned()), np.cos(turned())
            touching = 0.035 * by(sine, 0.0, cosine) + 0.03 * by(-cosine, 0.0, sine)
            return tip_at(arm.site("knob2_site") + touching + by(x, y, 0.0), turn)

        return place

    yield from arm.go(beside(-0.03, -0.12), turn, CLOSED, within=0.03)
    yield from arm.go(beside(-0.02, 0.015), turn, CLOSED, within=0.015)
    yield from arm.go(beside(0.12, 0.03), turn, CLOSED, until=lambda: turned() > 0.8)
    yield from arm.go(beside(-0.03, -0.15), turn, CLOSED, within=0.04)


ATTEMPTS: dict[str, Callable[[Arm], Plan]] = {
    "microwave": microwave,
    "kettle": kettle,
    "light switch": light_switch,
    "slide cabinet": slide_cabinet,
    "bottom burner": bottom_burner,
}
"""The motions by the package's names of the subtasks."""


class KitchenExpert:
    """Executes the subtasks in order and repeats failed ones until all are done or time is up.

    Args:
        subtasks: by the package's names, in the order in which they are to be done.
        env: the package's environment, whose state the expert reads.
    """

    def __init__(self, subtasks: tuple[str, ...], env: Any):
        self._subtasks, self._env = subtasks, env
        self._arm = Arm(env)
        self._plan = self._attempts()

    def _attempts(self) -> Plan:
        while self._env.tasks_to_complete:
            for subtask in self._subtasks:
                if subtask in self._env.tasks_to_complete:
                    yield from ATTEMPTS[subtask](self._arm)

    def reset(self) -> None:
        """Begin an episode."""
        self._plan = self._attempts()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, (9,), in [-1, 1]."""
        return np.clip(next(self._plan), -1.0, 1.0).astype(np.float32)
