"""The scripted expert of `robosuite/tool-hang`: the frame is put into its stand, then the tool hung on it.

The frame is an L: a rod, which ends in a tip and has a grip near its other end, and a bar, which ends in an
upright post. It is grasped leaning, so that the hand still points somewhat downwards when the rod is upright.

The tool is a wrench with a ring at its end. The ring is too narrow to pass over the bar's end and the post
straight: it is laid over the post, and the handle is then lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from otpr.envs.robosuite_motions import CLOSED, OPEN, Matrix, Plan, Scene, Vector, about_z, rotation, up

Pose = tuple[Vector, Matrix]

_CLEAR = 1.15  # metres, a height of the hand over everything that stands on the table
_GRIP = 0.034  # metres, from the frame's corner down its rod to the middle of its grip
_HOLE = np.array([0.0, 0.045, 0.155])  # metres, the rim of the stand's hole, from the middle of its base
_BOTTOM = -0.15  # of the hole, from its rim
_FRAME_LEAN, _TOOL_LEAN = np.radians(30), np.radians(20)  # of the hand, from the vertical, in grasping
# The ring's path over the post, on which all gaps are 2 mm: for the tilt of the handle below the horizontal,
# how far the ring's centre is inwards of the bar's end, and how far above the bar's axis, metres.
_TILTS = np.radians([0, 30, 60])
_INWARDS = np.array([1.0, 3.5, 8.5]) / 1000
_UPWARDS = np.array([9.0, 4.5, -0.5]) / 1000


def tool_hang(scene: Scene) -> Plan:
    """Insert the frame unless that is done, then hang the tool."""
    assembled = scene.observation[-2] > 0.5
    yield from _hang(scene) if assembled else _insert(scene)


def _insert(scene: Scene) -> Plan:
    """Grasp the frame, turn it upright above the hole, lower it, let go and move back."""

    def frame() -> Pose:
        return scene.site("frame_tip_site"), rotation(scene.observation[26:30])

    def grip() -> Vector:
        return scene.observation[23:26].astype(np.float64) - _GRIP * frame()[1][:, 2]

    def hand_turn() -> Matrix:
        # The opposite side of the rod would need more of the last joint than it can turn.
        return _leaning(-frame()[1][:, 0], -frame()[1][:, 2], _FRAME_LEAN)

    def at(height: float) -> Callable[[], Pose]:
        """The frame upright, its bar pointing away from the robot, its tip at a height above the hole."""

        def pose() -> Pose:
            stand = rotation(scene.observation[12:16])
            rim = scene.observation[9:12].astype(np.float64) + stand @ _HOLE
            # a target just below the tip keeps the descent slow
            return rim + up(max(height, (frame()[0] - rim)[2] - 0.025)), stand @ about_z(np.pi)

        return pose

    if not (yield from _grasp(scene, grip, hand_turn)):
        return
    yield from _carry(scene, frame, at(0.06), within=0.003, angle=0.03, steps=120)
    yield from _carry(scene, frame, at(_BOTTOM), within=0.006, angle=0.1, steps=60)
    yield from scene.hold(OPEN, 6)
    start, turn = scene.hand, scene.hand_turn
    yield from scene.go(lambda: start - 0.15 * turn[:, 2], lambda: turn, OPEN, within=0.03, steps=30)


def _hang(scene: Scene) -> Plan:
    """Grasp the tool, lay its ring over the post, lower its handle, let go and rise."""

    def tool() -> Pose:
        return scene.site("tool_hole1_center"), rotation(scene.observation[40:44])

    def middle() -> Vector:
        return scene.observation[37:40].astype(np.float64)

    def hand_turn() -> Matrix:
        return _leaning(tool()[1][:, 1], tool()[1][:, 0], _TOOL_LEAN)

    def at(tilt: float, height: float = 0.0) -> Callable[[], Pose]:
        """The handle pointing away from the bar and `tilt` downwards; the ring `height` above its path."""

        def pose() -> Pose:
            end = scene.site("frame_hang_site")
            inwards = _unit((scene.site("frame_intersection_site") - end) * [1, 1, 0])
            handle = -float(np.cos(tilt)) * inwards - float(np.sin(tilt)) * up(1.0)
            side = np.cross(inwards, up(1.0))
            place = end + np.interp(tilt, _TILTS, _INWARDS) * inwards
            place += up(np.interp(tilt, _TILTS, _UPWARDS) + height)
            return place, np.stack([handle, side, np.cross(handle, side)], axis=1)

        return pose

    if not (yield from _grasp(scene, middle, hand_turn)):
        return
    yield from _carry(scene, tool, at(0.0, 0.06), within=0.01, angle=0.1, steps=120)
    yield from _carry(scene, tool, at(0.0, 0.025), within=0.002, angle=0.03, steps=30)
    yield from _carry(scene, tool, at(0.0), within=0.002, angle=0.03, steps=20)
    for tilt in np.radians(range(10, 61, 10)):
        yield from _carry(scene, tool, at(tilt), within=0.0015, angle=0.04, steps=8)
    yield from scene.hold(OPEN, 8)
    start, turn = scene.hand, scene.hand_turn
    yield from scene.go(lambda: start - 0.1 * turn[:, 2], lambda: turn, OPEN, within=0.03, steps=30)


def _grasp(
    scene: Scene, point: Callable[[], Vector], turn: Callable[[], Matrix]
) -> Generator[NDArray[np.float64], None, bool]:
    """Grasp a thing on the table at a point of it and lift it. Returns whether it is in the hand."""

    def before(metres: float) -> Callable[[], Vector]:
        return lambda: point() - metres * turn()[:, 2]

    start = scene.hand
    yield from scene.go(lambda: np.array([*start[:2], _CLEAR]), turn, OPEN, within=0.05, angle=0.5, steps=40)
    yield from scene.go(before(0.15), turn, OPEN, within=0.02)
    # Going down at full speed would carry the hand aside by centimetres.
    yield from scene.go(before(0.05), turn, OPEN, within=0.006, steps=40)
    yield from scene.go(before(0.0), turn, OPEN, within=0.006, steps=40)
    yield from scene.hold(CLOSED, 9)
    start, grasped = scene.hand, scene.hand_turn
    yield from scene.go(lambda: start + up(0.15), lambda: grasped, CLOSED, within=0.02, steps=30)
    return bool(np.linalg.norm(point() - scene.hand) < 0.03)


def _carry(
    scene: Scene,
    thing: Callable[[], Pose],
    target: Callable[[], Pose],
    *,
    within: float,
    angle: float,
    steps: int,
) -> Plan:
    """Servo the pose of the thing in the hand, rather than the hand's, so that slips do not matter."""

    def turn() -> Matrix:
        return target()[1] @ thing()[1].T

    return scene.go(
        lambda: target()[0] + turn() @ (scene.hand - thing()[0]),
        lambda: turn() @ scene.hand_turn,
        CLOSED,
        within=within,
        angle=angle,
        steps=steps,
    )


def _leaning(closing: Vector, towards: Vector, angle: float) -> Matrix:
    """A hand that points down, but leans `angle` towards a direction, with fingers closing along another."""
    closing = _unit(closing * [1, 1, 0])
    pointing = _unit(np.sin(angle) * _unit(towards * [1, 1, 0]) - np.cos(angle) * up(1.0))
    return np.stack([np.cross(closing, pointing), closing, pointing], axis=1)


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)
