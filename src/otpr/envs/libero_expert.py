"""The scripted expert of LIBERO-Long, which achieves a goal's predicates one after the other.

`In` and `On` are one skill, pick and place: an object is grasped across a narrow side if it has one,
otherwise by a knob on its top, otherwise by its rim. `Turnon` turns a stove's knob, `Close` pushes a drawer
shut. Goals and poses come from LIBERO's environment. Positions are in metres in the world frame: x points
away from the robot, y to its left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    about_z,
    downwards,
    nearest,
    up,
)

_ORDER = ("turnon", "open", "in", "on", "close")
"""The order of predicates: objects are put into a drawer before it is closed."""
_OPENING = 0.07  # how wide a thing may be that the fingers are to reach around
_KNOB = 0.04  # how wide a knob may be
_IN_THE_WAY = 0.1  # how near another thing's middle has to be
_TRAVEL = 0.2  # how high above where it was and will be a thing is carried
_ASIDE = {"in": 0.02, "on": 0.055}  # how far from the middle two things stand that share a place
_DROP = 0.02  # from how high above the place it is let go


@dataclass(frozen=True)
class Grasp:
    """A grasp: a position relative to the object's body, and the hand's orientation."""

    offset: Vector
    turn: Matrix


class Things:
    """The bodies and regions of LIBERO's environment."""

    def __init__(self, env: Any):
        self.env = env
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self._roots = self._model.body_rootid[self._model.geom_bodyid]
        self._collides = (self._model.geom_contype | self._model.geom_conaffinity) != 0

    def place(self, name: str) -> Vector:
        """Position of an object's body, or of a region's site."""
        if name in self.env.obj_body_id:
            return self._data.xpos[self.env.obj_body_id[name]].copy()
        return self._data.site(name).xpos.copy()

    def half_height(self, region: str) -> float:
        """Half the height of a region, which is a box; 0 for an object."""
        if region in self.env.obj_body_id:
            return 0.0
        site = self._data.site(region)
        half = self._model.site_size[site.id]
        return float(np.abs(site.xmat.reshape(3, 3)[2] @ half))

    def box(self, name: str) -> tuple[Vector, Vector]:
        """The corners of the axis-aligned box around an object, relative to its body."""
        low, high = self._boxes(self._roots == self._model.body_rootid[self.env.obj_body_id[name]])
        return low.min(axis=0) - self.place(name), high.max(axis=0) - self.place(name)

    def knob(self, name: str) -> tuple[Vector, Vector] | None:
        """The corners of the box around a knob on top of an object, relative to its body; or None."""
        lows, highs = self._boxes(self._roots == self._model.body_rootid[self.env.obj_body_id[name]])
        top = int(highs[:, 2].argmax())
        low, high = lows[top] - self.place(name), highs[top] - self.place(name)
        central = np.linalg.norm((low + high)[:2] / 2) < 0.02
        return (low, high) if central and (high - low)[:2].min() < _KNOB else None

    def part(self, name: str) -> tuple[Vector, Vector]:
        """The corners of the box around one body, in the world."""
        low, high = self._boxes(self._model.geom_bodyid == self._model.body(name).id)
        return low.min(axis=0), high.max(axis=0)

    def _boxes(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The corners of the axis-aligned boxes, (n, 3) each, around those of these geoms that collide."""
        geoms = np.flatnonzero(chosen & self._collides)
        turn = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        middle, half = self._model.geom_aabb[geoms].reshape(-1, 2, 3, 1).swapaxes(0, 1)
        centre = self._data.geom_xpos[geoms] + (turn @ middle)[..., 0]
        extent = (np.abs(turn) @ half)[..., 0]
        return centre - extent, centre + extent


def grasp_of(
    low: Vector,
    high: Vector,
    knob: tuple[Vector, Vector] | None = None,
    others: Sequence[Vector] = (),
) -> Grasp:
    """The grasp from above for an object with this box: across it, by its knob, or by its rim.

    A long object is grasped beside its middle if the hand would touch another object there. All positions are
    relative to its body.
    """
    if (high - low)[:2].min() > _OPENING and knob is not None:
        low, high = knob
    middle, size = (low + high) / 2, high - low
    if size[:2].min() <= _OPENING:
        # the fingers close along the hand's y axis
        turn = downwards(0.0 if size[1] <= size[0] else np.pi / 2)
        height = max(middle[2], high[2] - 0.03)
        longest = int(np.argmax(size[:2]))
        if size[longest] > 1.5 * size[1 - longest] and _room(middle, others) < _IN_THE_WAY:
            beside = np.eye(3)[longest] * 0.3 * size[longest]
            middle = max((middle, middle + beside, middle - beside), key=lambda place: _room(place, others))
        return Grasp(np.array([middle[0], middle[1], height]), turn)
    # by the rim on the near side, off the middle, where there is no handle
    rim = np.array([low[0] + 0.006, middle[1], high[2] - 0.012])
    return Grasp(rim, downwards(np.pi / 2))


def _room(place: Vector, others: Sequence[Vector]) -> float:
    """The horizontal distance to the nearest of the other objects."""
    return min((float(np.linalg.norm((other - place)[:2])) for other in others), default=np.inf)


def put(scene: Scene, things: Things, name: str, where: str, beside: Vector) -> Plan:
    """Pick up an object and place it in or on a region or another object."""
    low, high = things.box(name)
    others = [things.place(other) - things.place(name) for other in things.env.objects_dict if other != name]
    grasp = grasp_of(low, high, things.knob(name), others)

    def held_at() -> Vector:
        return things.place(name) + grasp.offset

    yield from scene.go(lambda: held_at() + up(0.12), lambda: grasp.turn, OPEN, within=0.015, steps=80)
    yield from scene.go(held_at, lambda: grasp.turn, OPEN, within=0.008, steps=40)
    yield from scene.hold(CLOSED, 10)
    start = scene.hand
    yield from scene.go(lambda: start + up(_TRAVEL), lambda: grasp.turn, CLOSED, within=0.03, steps=40)
    if np.linalg.norm(held_at() - scene.hand) > 0.05:
        return
    height = things.place(where)[2] + things.half_height(where) - low[2] + _DROP

    def target(above: float) -> Callable[[], Vector]:
        def place() -> Vector:
            goal = things.place(where) + beside
            return scene.hand + np.array([*goal[:2], height + above]) - things.place(name)

        return place

    yield from scene.go(target(_TRAVEL - 0.05), lambda: grasp.turn, CLOSED, within=0.02, steps=120)
    yield from scene.go(target(0.0), lambda: grasp.turn, CLOSED, within=0.01, steps=60)
    yield from scene.hold(OPEN, 8)
    start = scene.hand
    yield from scene.go(lambda: start + up(_TRAVEL), lambda: grasp.turn, OPEN, within=0.03, steps=30)


def turn_on(scene: Scene, things: Things, stove: str) -> Plan:
    """Grasp the knob's ridge and turn it anticlockwise."""
    data = things.env.sim.data._data
    knob = data.body(f"{stove}_button")
    joint = data.joint(f"{stove}_button")
    turn = downwards(nearest(float(joint.qpos[0]), 2))
    top = things.part(f"{stove}_button")[1][2]
    grip = np.array([*knob.xpos[:2], top - 0.005])
    yield from scene.go(lambda: grip + up(0.12), lambda: turn, OPEN, within=0.015, steps=80)
    yield from scene.go(lambda: grip, lambda: turn, OPEN, within=0.008, steps=40)
    yield from scene.hold(CLOSED, 8)
    further = about_z(1.2) @ turn
    for _ in range(60):
        if joint.qpos[0] > 0.9:
            break
        yield scene.servo(grip, further, CLOSED)
    yield from scene.hold(OPEN, 6)
    yield from scene.go(lambda: grip + up(0.15), lambda: scene.hand_turn, OPEN, within=0.03, steps=30)


def close(scene: Scene, things: Things, region: str) -> Plan:
    """Push a drawer shut at its front; it slides along y."""
    env = things.env
    (joint,) = env.object_sites_dict[region].joints
    drawer = env.sim.data._data.joint(joint)
    body = env.sim.model._model.joint(joint).bodyid[0]
    low, high = things.part(env.sim.model._model.body(body).name)
    # the hand leans back from the drawer, so that it passes under the handles of those above
    turn = Rotation.from_rotvec([np.pi / 4, 0.0, 0.0]).as_matrix() @ downwards(np.pi / 2)
    front = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])

    def before(metres: float) -> Vector:
        return front - np.array([0.0, metres, 0.0])

    yield from scene.go(lambda: before(0.06) + up(0.2), lambda: turn, CLOSED, within=0.03, steps=80)
    yield from scene.go(lambda: before(0.06) + up(0.01), lambda: turn, CLOSED, within=0.015, steps=50)
    for _ in range(80):
        if drawer.qpos[0] > 0.003:
            break
        yield scene.servo(scene.hand * [0, 1, 0] + before(0.0) * [1, 0, 1] + [0, 0.05, 0.0], turn, CLOSED)
    yield from scene.go(lambda: scene.hand - [0, 0.03, 0], lambda: turn, CLOSED, steps=8)
    yield from scene.go(lambda: scene.hand + up(0.05), lambda: turn, CLOSED, steps=10)


class LiberoExpert:
    """Achieves the unmet predicates of a goal and repeats failed ones.

    Args:
        env: LIBERO's environment, whose state the expert reads.
    """

    def __init__(self, env: Any):
        self._env = env
        self._things = Things(env)
        self._scene = Scene(env)
        self._goal = sorted(env.parsed_problem["goal_state"], key=lambda state: _ORDER.index(state[0]))
        self._plan = self._attempts()

    def _attempts(self) -> Plan:
        while True:
            for state in self._goal:
                if not self._env._eval_predicate(state):
                    yield from self._bring_about(state)
            yield from self._scene.hold(OPEN, 1)

    def _bring_about(self, state: list[str]) -> Plan:
        kind, name = state[:2]
        if kind in ("in", "on"):
            return put(self._scene, self._things, name, state[2], self._beside(state))
        if kind == "turnon":
            return turn_on(self._scene, self._things, name)
        return close(self._scene, self._things, name)

    def _beside(self, state: list[str]) -> Vector:
        """Offset of an object from the middle of its place; objects that share a place stand side by side."""
        region = self._env.object_sites_dict.get(state[2])
        if region is not None and region.joints:  # a drawer: the handles of those above it stand out
            return np.array([0.0, -0.025, 0.0])
        sharing = [other[1] for other in self._goal if len(other) == 3 and other[2] == state[2]]
        if len(sharing) == 1:
            return np.zeros(3)
        apart = _ASIDE[state[0]]
        return np.array([apart if sharing.index(state[1]) else -apart, 0.0, 0.0])

    def reset(self) -> None:
        """Begin an episode."""
        self._plan = self._attempts()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, (7,), in [-1, 1], for one observation."""
        self._scene.observation = observation
        return next(self._plan).astype(np.float32)
