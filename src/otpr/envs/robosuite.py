"""The robomimic tasks (Mandlekar et al., 2021) in robosuite 1.5 (Zhu et al., 2020): Panda arms in MuJoCo.

Observation: robomimic's low-dimensional keys in robomimic's order, concatenated. For each arm (`robot0`; in
`transport` then `robot1`) 9 numbers: `eef_pos` (grip site, metres), `eef_quat` (hand body, x y z w),
`gripper_qpos` (two finger joints, metres). Then `object`, all positions in metres in the world frame and all
quaternions x y z w:

- `lift`, 10: cube position and quaternion, grip site minus cube.
- `can` and `square`, 14: position and quaternion of the can or nut, then the same in the hand's frame.
- `transport`, 41: position and quaternion of payload (a hammer), trash and lid handle; positions of target
  bin and trash bin; payload minus grip site 0, lid handle minus 0, payload minus 1, trash minus 1; whether
  the payload is in the target bin and the trash in the trash bin (0 or 1).
- `tool-hang`, 44: position and quaternion, then the same in the hand's frame, of stand base, frame and tool;
  whether the frame is assembled and the tool hangs on it (0 or 1).

Action, shape (7,), twice that in `transport`: displacement of the hand's target along the world's x, y, z
(1.0 is 5 cm) and its rotation about them (1.0 is 0.5 rad) for one twentieth of a second, measured from where
the hand is; closing of the gripper (its sign: positive closes).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from otpr.envs.cameras import Scene
from otpr.envs.catalog import SUITES
from otpr.envs.robosuite_expert import RobosuiteExpert
from otpr.envs.robosuite_objects import ENTRIES
from otpr.envs.task_env import Outcome, TaskEnv, sparse
from otpr.errors import OtprError


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


# robosuite logs missing optional parts at import, and each configuration that it reads. The import sets the
# logger's level, so a filter is needed.
logging.getLogger("robosuite_logs").addFilter(_only_errors)
_backend = os.environ.get("MUJOCO_GL")

import robosuite  # noqa: E402

# The import forces a rendering backend on child processes.
if _backend is None:
    os.environ.pop("MUJOCO_GL", None)
else:
    os.environ["MUJOCO_GL"] = _backend

if not robosuite.__version__.startswith("1.5."):
    raise OtprError(
        f"The robosuite tasks need robosuite 1.5.2; installed is {robosuite.__version__}. (LIBERO needs 1.4: "
        f"give it an environment of its own.) Install with: {SUITES['robosuite'].install_command}"
    )
from robosuite.controllers import load_composite_controller_config  # noqa: E402

_PICTURE_SIZE = 256
_COLLISION_SHAPES = 0  # the group of geoms
_ENVIRONMENTS = {
    "lift": "Lift",
    "can": "PickPlaceCan",
    "square": "NutAssemblySquare",
    "transport": "TwoArmTransport",
    "tool-hang": "ToolHang",
}
_CAMERA = {
    "lift": "sideview",
    "can": "agentview",
    "square": "sideview",
    "transport": "frontview",
    "tool-hang": "sideview",
}


class RobosuiteSimulator:
    """One task; `name` is otpr's, e.g. `"tool-hang"`.

    Attributes:
        env: robosuite's own environment, for experts.
    """

    def __init__(self, name: str, render_mode: str | None):
        two_arms = name == "transport"
        controller = load_composite_controller_config(robot="Panda")
        assert controller is not None
        # As in robosuite up to 1.4: the same in all tasks except `transport`, whose arms' bases are rotated.
        controller["body_parts"]["right"]["input_ref_frame"] = "world"
        self.env: Any = robosuite.make(
            _ENVIRONMENTS[name],
            robots=["Panda", "Panda"] if two_arms else "Panda",
            **({"env_configuration": "opposed"} if two_arms else {}),
            controller_configs=[controller, controller] if two_arms else controller,
            control_freq=20,
            ignore_done=True,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            # Rebuilding the model takes seconds and is not needed for reproducibility: placements are drawn
            # from a generator that `reset` sets. Only the size of the cube of `lift`, 40 to 44 mm, is part of
            # the model; this seed fixes it.
            hard_reset=False,
            seed=0,
        )
        # robosuite's observables are sampled by their own clock, which lags behind the simulation's, and cost
        # a twentieth of a step. Their sensors are read instead, once per step.
        self.env._update_observables = lambda force=False: None
        keys = SUITES["robosuite"].tasks[name].observation_keys
        self._proprioception = keys[:-1]
        self._object = ENTRIES[name]
        self._sensors = {key: observable._sensor for key, observable in self.env._observables.items()}
        self._poses = [key for key in self._sensors if key.startswith("world_pose_in_")]
        self._camera = _CAMERA[name]
        self._renderer = None
        if render_mode is not None:
            self._renderer = mujoco.Renderer(self.env.sim.model._model, _PICTURE_SIZE, _PICTURE_SIZE)
            self._view = mujoco.MjvOption()  # pyright: ignore[reportAttributeAccessIssue]
            self._view.geomgroup[_COLLISION_SHAPES] = 0

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`."""
        # In place, because the placement samplers hold this generator.
        self.env.rng.bit_generator.state = np.random.PCG64(seed).state
        self.env.reset()
        return self._observe()

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        self.env.step(action.astype(np.float64))
        return sparse(self._observe(), bool(self.env._check_success()))

    def _observe(self) -> NDArray[np.floating]:
        values: dict[str, NDArray[np.floating]] = {}
        for key in (*self._proprioception, *self._poses, *self._object):
            values[key] = np.asarray(self._sensors[key](values), np.float64)
        if "gripper_to_cube_pos" in values:
            # robosuite 1.5 reversed this.
            values["gripper_to_cube_pos"] = -values["gripper_to_cube_pos"]
        return np.concatenate([np.atleast_1d(values[key]) for key in (*self._proprioception, *self._object)])

    @contextlib.contextmanager
    def widened(self, factor: float) -> Generator[None]:
        """See `otpr.envs.shifts.starts.Widened`; widens the horizontal positions of objects."""
        placing = self.env.placement_initializer
        samplers = list(getattr(placing, "samplers", {"": placing}).values())
        usual = [(sampler.x_range, sampler.y_range) for sampler in samplers]
        for sampler in samplers:
            _widen(sampler, factor)
        try:
            yield
        finally:
            for sampler, (sampler.x_range, sampler.y_range) in zip(samplers, usual, strict=True):
                sampler.__dict__.pop("_sample_x", None)
                sampler.__dict__.pop("_sample_y", None)

    def scene(self) -> Scene:
        """What cameras see."""
        sim = self.env.sim
        return Scene(sim.model._model, sim.data._data, hidden_groups=(_COLLISION_SHAPES,))

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        assert self._renderer is not None, "made without a render mode"
        self._renderer.update_scene(self.env.sim.data._data, self._camera, self._view)
        return self._renderer.render()

    def close(self) -> None:
        """See `Simulator.close`."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.env.close()


def _widen(sampler: Any, factor: float) -> None:
    """Make a placement sampler draw from ranges `factor` times as wide, outside the usual ones."""
    usual = sampler.x_range, sampler.y_range
    draws = sampler._sample_x, sampler._sample_y
    ranges = [(sum(ends) / 2, (max(ends) - min(ends)) / 2) for ends in usual]
    if not any(half for _, half in ranges):
        return  # it has a single position
    wide = [(centre - factor * half, centre + factor * half) for centre, half in ranges]
    sampler.x_range, sampler.y_range = wide
    drawn = [0.0, 0.0]

    def sample_x(radius: float) -> float:
        margin = radius if sampler.ensure_object_boundary_in_range else 0.0
        while True:
            drawn[:] = [draw(radius) for draw in draws]
            if any(
                not min(ends) + margin <= at <= max(ends) - margin
                for at, ends in zip(drawn, usual, strict=True)
            ):
                return drawn[0]

    def sample_y(radius: float) -> float:
        return drawn[1]

    sampler._sample_x, sampler._sample_y = sample_x, sample_y


def make_simulator(name: str, render_mode: str | None) -> RobosuiteSimulator:
    """The simulator of the task `robosuite/NAME`."""
    return RobosuiteSimulator(name, render_mode)


def make_expert(name: str, env: TaskEnv) -> RobosuiteExpert:
    """The expert of the task `robosuite/NAME`."""
    simulator = env.simulator
    assert isinstance(simulator, RobosuiteSimulator)
    return RobosuiteExpert(name, simulator.env)
