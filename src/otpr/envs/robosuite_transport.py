"""The scripted expert of `robosuite/transport`: a plan for each of two arms, which meet for a hand-over.

The first arm takes the lid off its bin, fetches the hammer from it and holds it between the tables. The
second arm removes the trash, takes the hammer by its other end and puts it into the free bin.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from otpr.envs.robosuite_motions import (
    CLOSED,
    OPEN,
    Matrix,
    Plan,
    Scene,
    Vector,
    downwards,
    heading,
    nearest,
    up,
)

_TABLE = 0.8  # metres, its height
_WALL = 0.15  # of a bin
_OVER = 0.22  # how far above a thing the hand stops before it goes down on it: above the walls of a bin
_APART = 0.055  # of the hammer's middle, along its handle, is it held: by one hand on each side
_MEETING = np.array([0.0, 0.0, 1.08])  # of the hammer's middle when it is handed over
_LID_PLACE = np.array([-0.18, -0.45, _TABLE + 0.03])  # on the first table, where nothing stands
_LEAN = np.radians(30)  # by so much the second hand points forwards at the meeting: its arm need not stretch
_AHEAD = (np.pi / 2, -np.pi / 2)  # in which direction each arm looks: its hand's heading at rest


@dataclass
class _Meeting:
    """The state that the arms share."""

    offered: bool = False  # the hammer is held out
    taken: bool = False  # by the second hand
    let_go: bool = False  # by the first one, which is out of the way


def transport(first: Scene, second: Scene) -> Plan:
    """Run both arms in parallel; yields their actions, (14,)."""
    meeting = _Meeting()
    plans = _give(first, meeting), _take(second, meeting)
    while True:
        actions = [next(plan, None) for plan in plans]
        if any(action is None for action in actions):  # one plan has ended: restart if anything is left to do
            return
        yield np.concatenate([action for action in actions if action is not None])


def _give(arm: Scene, meeting: _Meeting) -> Plan:
    """The first arm's plan: remove the lid, fetch the hammer and hold it out."""
    group = arm.env.transport
    turn = downwards(_AHEAD[0])
    while group.lid_handle_pos[2] > _TABLE + _WALL:
        if (yield from _fetch(arm, lambda: group.lid_handle_pos, turn)):
            yield from _carry(arm, lambda: group.lid_handle_pos, _LID_PLACE, turn)
    along = _handle(arm, turn[:, 0])

    def held_at() -> Vector:
        return group.payload_pos - _APART * _handle(arm, along)

    while not (yield from _fetch(arm, held_at, _across(along))):
        pass
    grip = arm.hand - group.payload_pos
    offset = Rotation.from_rotvec(up(_AHEAD[0] - heading(arm.hand_turn))).apply(grip)
    yield from arm.go(lambda: arm.hand * [1, 1, 0] + up(_MEETING[2]), lambda: arm.hand_turn, CLOSED, steps=30)
    yield from arm.go(lambda: _MEETING + offset, lambda: turn, CLOSED, within=0.012, angle=0.06, steps=90)
    meeting.offered = True
    yield from _until(arm, lambda: meeting.taken, CLOSED)
    yield from arm.hold(OPEN, 5)
    yield from arm.go(lambda: _MEETING + offset + up(0.12), lambda: turn, OPEN, within=0.03)
    meeting.let_go = True
    yield from arm.go(lambda: np.array([0.0, -0.4, 1.2]), lambda: turn, OPEN, within=0.05)
    yield from _until(arm, lambda: False, OPEN)


def _take(arm: Scene, meeting: _Meeting) -> Plan:
    """The second arm's plan: put the trash into its bin, then the hammer into the free bin."""
    group = arm.env.transport
    ahead = downwards(_AHEAD[1])
    while not group.trash_in_trash_bin:
        turn = downwards(_AHEAD[1] + nearest(heading(_turn_of(arm, group.trash_body_id)) - _AHEAD[1], 4))
        if (yield from _fetch(arm, lambda: group.trash_pos, turn)):
            yield from _carry(arm, lambda: group.trash_pos, group.trash_bin_pos + up(0.06), ahead)
    wait = np.array([0.0, 0.25, 1.2])
    yield from arm.go(lambda: wait, lambda: ahead, OPEN, within=0.03)
    yield from _until(arm, lambda: meeting.offered, OPEN)
    along = _handle(arm, ahead[:, 0])
    across = _across(along)
    leaning = Rotation.from_rotvec(_LEAN * across[:, 1]).as_matrix() @ across
    yield from _fetch(
        arm, lambda: group.payload_pos - _APART * _handle(arm, along), leaning, over=0.12, lift=False
    )
    meeting.taken = True
    yield from _until(arm, lambda: meeting.let_go, CLOSED)
    start = arm.hand
    yield from arm.go(lambda: start + up(0.08), lambda: leaning, CLOSED, within=0.03, steps=20)
    yield from _carry(arm, lambda: group.payload_pos, group.target_bin_pos + up(0.08), leaning)
    yield from arm.go(lambda: wait, lambda: ahead, OPEN, within=0.05)


def _fetch(
    arm: Scene, thing: Callable[[], Vector], turn: Matrix, *, over: float = _OVER, lift: bool = True
) -> Generator[NDArray[np.float64], None, bool]:
    """Grasp an object from above and lift it. Returns whether it is in the hand."""
    yield from arm.go(lambda: thing() + up(over), lambda: turn, OPEN, within=0.015, steps=80)
    yield from arm.go(thing, lambda: turn, OPEN, within=0.008, steps=40)
    yield from arm.hold(CLOSED, 8)
    if lift:
        start = arm.hand
        yield from arm.go(lambda: start + up(0.2), lambda: turn, CLOSED, within=0.03, steps=40)
    return bool(np.linalg.norm(thing() - arm.hand) < 0.04)


def _carry(arm: Scene, thing: Callable[[], Vector], place: Vector, turn: Matrix) -> Plan:
    """Carry the held object to a place, put it down, release it and rise."""

    def target(height: float) -> Callable[[], Vector]:
        return lambda: arm.hand + place + up(height) - thing()

    yield from arm.go(target(0.2), lambda: turn, CLOSED, within=0.03, steps=100)
    yield from arm.go(target(0.0), lambda: turn, CLOSED, within=0.015, steps=50)
    yield from arm.hold(OPEN, 5)
    start = arm.hand
    yield from arm.go(lambda: start + up(0.25), lambda: turn, OPEN, within=0.03, steps=30)


def _until(arm: Scene, holds: Callable[[], bool], grip: float) -> Plan:
    """Keep the hand where it is until something holds."""
    position, turn = arm.hand, arm.hand_turn
    while not holds():
        yield arm.servo(position, turn, grip)


def _turn_of(arm: Scene, body: int) -> Matrix:
    return arm.env.sim.data.body_xmat[body].reshape(3, 3)


def _handle(arm: Scene, along: Vector) -> Vector:
    """The direction of the hammer's handle, (3,), with the sign closer to `along`."""
    axis = _turn_of(arm, arm.env.transport.payload_body_id)[:, 2]
    return axis if axis @ along > 0 else -axis


def _across(direction: Vector) -> Matrix:
    """The hand's orientation for a handle in a given direction: pointing down, fingers on both sides."""
    return downwards(float(np.arctan2(direction[1], direction[0])))
