"""Shifts of the properties and positions of bodies, in any simulator based on MuJoCo."""

from __future__ import annotations

import abc
from typing import Any

import mujoco as _mujoco
import numpy as np

from otpr.envs.cameras import Scene
from otpr.envs.shifts.effects import Effect, Place
from otpr.errors import OtprError

mujoco: Any = _mujoco  # its functions come out of a compiled module that type checkers cannot see into

PUT_AWAY = 5.0
"""Metres from the world's origin beyond which an object is not part of the scene."""

_TOUCH = -0.002
"""Largest overlap of a pushed body with others, in metres; contacts resolve it."""


def scene_of(place: Place) -> Scene:
    """The MuJoCo model and data of a simulator.

    Raises:
        OtprError: the simulator has none.
    """
    offered = getattr(place.simulator, "scene", None)
    if offered is None:
        raise OtprError(f"{place.task}: this shift needs a simulator that is made with MuJoCo.")
    return offered()


def robot_trees(model: Any) -> set[int]:
    """The roots of the kinematic trees that an actuator or a weld to a mocap body drives."""
    roots: set[int] = set()
    for actuator in range(model.nu):
        kind, target = model.actuator_trntype[actuator], model.actuator_trnid[actuator, 0]
        if kind == mujoco.mjtTrn.mjTRN_TENDON:
            start = model.tendon_adr[target]
            wraps = range(start, start + model.tendon_num[target])
            joints = [model.wrap_objid[w] for w in wraps if model.wrap_type[w] == mujoco.mjtWrap.mjWRAP_JOINT]
            bodies = [model.jnt_bodyid[joint] for joint in joints]
        elif kind == mujoco.mjtTrn.mjTRN_SITE:
            bodies = [model.site_bodyid[target]]
        elif kind == mujoco.mjtTrn.mjTRN_BODY:
            bodies = [target]
        else:
            bodies = [model.jnt_bodyid[target]]
        roots |= {int(model.body_rootid[body]) for body in bodies}
    for equality in range(model.neq):
        if model.eq_type[equality] == mujoco.mjtEq.mjEQ_WELD:
            pair = [model.eq_obj1id[equality], model.eq_obj2id[equality]]
            if any(model.body_mocapid[body] >= 0 for body in pair):
                roots |= {int(model.body_rootid[b]) for b in pair if model.body_mocapid[b] < 0}
    return roots


def object_joints(model: Any) -> list[int]:
    """The joints of movable bodies that are not driven."""
    robots = robot_trees(model)
    return [j for j in range(model.njnt) if int(model.body_rootid[model.jnt_bodyid[j]]) not in robots]


class OfModel(Effect, abc.ABC):
    """Changes arrays of the model for an episode and restores them."""

    names: tuple[str, ...]
    """The names of the changed arrays."""

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        scene_of(place)
        self._kept: dict[str, Any] = {}
        self._model: Any = None

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        self._model = scene_of(self.place).model
        self._kept = {name: getattr(self._model, name).copy() for name in self.names}
        self.change(self._model)

    @abc.abstractmethod
    def change(self, model: Any) -> None:
        """Change the arrays."""

    def end(self) -> None:
        """See `Effect.end`."""
        for name, array in self._kept.items():
            getattr(self._model, name)[:] = array
        self._kept = {}


class Friction(OfModel):
    """Multiplies all friction coefficients by `amount`. A contact uses the larger one of its two geoms."""

    names = ("geom_friction", "pair_friction")

    def change(self, model: Any) -> None:
        """See `OfModel.change`."""
        for name in self.names:
            getattr(model, name)[:] *= self.amount


class Mass(OfModel):
    """Multiplies mass and inertia of all movable bodies except robots by `amount`."""

    names = ("body_mass", "body_inertia")

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        if not object_joints(scene_of(place).model):
            raise OtprError(f"{place.task}: nothing moves in it but the robot, so nothing can be heavier.")

    def change(self, model: Any) -> None:
        """See `OfModel.change`."""
        roots = {int(model.body_rootid[model.jnt_bodyid[joint]]) for joint in object_joints(model)}
        of_objects = np.isin(model.body_rootid, sorted(roots)) & (model.body_rootid != 0)
        for name in self.names:
            getattr(model, name)[of_objects] *= self.amount
        self._derive(model)

    def end(self) -> None:
        """See `Effect.end`."""
        changed = bool(self._kept)
        super().end()
        if changed:
            self._derive(self._model)

    def _derive(self, model: Any) -> None:
        # Recompute what MuJoCo derives from masses, in a separate state.
        mujoco.mj_setConst(model, mujoco.MjData(model))


class Push(Effect):
    """Displaces a free object by `amount` metres along the table, once, at 5 to 30% of the episode.

    Object, step and direction are random. A direction in which the object would collide is turned by an
    eighth of a circle until it does not.
    """

    def __init__(self, place: Place, amount: float):
        super().__init__(place, amount)
        if not self._objects(scene_of(place).model):
            raise OtprError(f"{place.task}: no object in it moves freely, so none can be displaced.")

    def _objects(self, model: Any) -> list[int]:
        free = mujoco.mjtJoint.mjJNT_FREE
        return [joint for joint in object_joints(model) if model.jnt_type[joint] == free]

    def begin(self, rng: np.random.Generator) -> None:
        """See `Effect.begin`."""
        super().begin(rng)
        limit = self.place.episode_limit
        self._at = int(rng.integers(max(1, round(0.05 * limit)), max(2, round(0.3 * limit)) + 1))
        self._angle = float(rng.uniform(0, 2 * np.pi))
        self._pick = float(rng.random())
        self._step = 0

    def act(self, action: np.ndarray) -> np.ndarray:
        """See `Effect.act`."""
        if self._step == self._at:
            self._displace()
        self._step += 1
        return action

    def _displace(self) -> None:
        scene = scene_of(self.place)
        model, data = scene.model, scene.data
        near = [
            joint
            for joint in self._objects(model)
            if np.linalg.norm(data.xpos[model.jnt_bodyid[joint]]) < PUT_AWAY
        ]
        if not near:
            return
        joint = near[int(self._pick * len(near))]
        address = model.jnt_qposadr[joint]
        root = int(model.body_rootid[model.jnt_bodyid[joint]])
        start = data.qpos[address : address + 2].copy()
        depths: dict[float, float] = {}
        for turn in range(8):
            angle = self._angle + turn * np.pi / 4
            self._put(model, data, address, start, angle)
            depths[angle] = _deepest(model, data, root)
            if depths[angle] > _TOUCH:
                return
        self._put(model, data, address, start, max(depths, key=lambda angle: depths[angle]))

    def _put(self, model: Any, data: Any, address: int, start: np.ndarray, angle: float) -> None:
        data.qpos[address : address + 2] = start + self.amount * np.array([np.cos(angle), np.sin(angle)])
        mujoco.mj_forward(model, data)


def _deepest(model: Any, data: Any, root: int) -> float:
    """The smallest contact distance between a tree and other bodies, in metres; negative for overlap."""
    depths = [
        data.contact.dist[contact]
        for contact in range(data.ncon)
        if root in {int(model.body_rootid[model.geom_bodyid[g]]) for g in data.contact.geom[contact]}
    ]
    return min(depths, default=0.0)
