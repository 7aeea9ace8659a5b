"""Scripted experts for the robomimic tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.envs.robosuite_motions import (
    CLOSED,
    OPEN,
    Matrix,
    Plan,
    Scene,
    Vector,
    about_z,
    downwards,
    heading,
    nearest,
    up,
)
from otpr.envs.robosuite_tool_hang import tool_hang
from otpr.envs.robosuite_transport import transport


def lift(scene: Scene) -> Plan:
    """Align with the cube's faces above it, descend, grasp and lift."""

    def turn() -> Matrix:
        # The hand starts with heading 0; the nearest of four equivalent headings avoids the arm's limits.
        return downwards(nearest(heading(scene.thing_turn), 4))

    yield from scene.go(lambda: scene.thing + up(0.08), turn, OPEN, within=0.015)
    yield from scene.go(lambda: scene.thing, turn, OPEN, within=0.01, steps=30)
    yield from scene.hold(CLOSED, 6)
    grasped = scene.hand_turn
    yield from scene.go(lambda: scene.hand + up(0.05), lambda: grasped, CLOSED, steps=20)


def can(scene: Scene) -> Plan:
    """Grasp the can, lift it, carry it to its bin and release it."""

    def turn() -> Matrix:
        return downwards(0.0)

    yield from scene.go(lambda: scene.thing + up(0.12), turn, OPEN, within=0.02)
    yield from scene.go(lambda: scene.thing + up(0.01), turn, OPEN, within=0.012, steps=40)
    yield from scene.hold(CLOSED, 6)
    start = scene.hand
    # The walls between the bins are 0.90 m high, and the can extends 8 cm below the hand. The target is off
    # the bin's centre, where the arm would be nearly stretched and slow.
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
    """Grasp the nut by its handle, align it above the peg, and lower it.

    While the nut is in the hand, the servo controls the nut's pose instead of the hand's.
    """
    peg = scene.env.sim.data.body_xpos[scene.env.peg1_body_id].copy()
    handle = scene.env.nuts[scene.env.nut_to_id["square"]].important_sites["handle"]
    grasp = nearest(heading(scene.thing_turn), 2)  # the handle may be grasped from either side

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
    """The cost of turning the nut from heading `nut` to `yaw`, with the hand's heading at `hand`.

    All headings that differ by a quarter turn fit the peg, but the hand's joint has limits, and the arm would
    have to stretch if the handle points away from its base.
    """
    by = nearest(yaw - nut, 1)
    return abs(by) + 4.0 * max(0.0, np.cos(yaw)) + (10.0 if abs(hand + by) > 1.8 else 0.0)


_ATTEMPTS: dict[str, Callable[..., Plan]] = {
    "lift": lift,
    "can": can,
    "square": square,
    "transport": transport,
    "tool-hang": tool_hang,
}
"""Plans by the task's name: each takes the scene of each arm and yields the actions of all arms."""


class RobosuiteExpert:
    """Attempts task `name` in `env`, robosuite's environment, and repeats failed attempts."""

    def __init__(self, name: str, env: Any):
        self._scenes = [Scene(env, arm) for arm in range(2 if name == "transport" else 1)]
        self._attempt = _ATTEMPTS[name]
        self._plan = self._attempts()

    def _attempts(self) -> Plan:
        while True:
            yield from self._attempt(*self._scenes)

    def reset(self) -> None:
        """Begin an episode."""
        self._plan = self._attempts()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, (7,) for each arm, in [-1, 1], for one observation."""
        for scene in self._scenes:
            scene.observation = observation
        return next(self._plan).astype(np.float32)
