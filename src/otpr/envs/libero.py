"""LIBERO (Liu et al., 2023): 130 language-named household tasks of a Panda arm, in robosuite 1.4 on MuJoCo.

Observation, shape (9 + 7 n + m,), for n movable objects and fixtures that have m joints; in metres, radians
and the world frame: position of the grip site (3), orientation of the hand's body (x y z w, 4), finger joints
(2); of each movable object, then of each fixture but the table or floor, in the order of the task's BDDL
file, position and orientation (x y z w) of its body (7); joints of drawers, doors and knobs, in the model's
order.
Action, shape (7,): as in `otpr.envs.robosuite`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from otpr.envs.cameras import Scene
from otpr.envs.libero_expert import LiberoExpert
from otpr.envs.task_env import Outcome, TaskEnv, sparse


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


# See `otpr.envs.robosuite`: it logs when imported, and forces a rendering backend on children.
logging.getLogger("robosuite_logs").addFilter(_only_errors)
_backend = os.environ.get("MUJOCO_GL")

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The 'warn' method is deprecated", DeprecationWarning)
    from libero.libero import benchmark, get_libero_path  # pyright: ignore[reportMissingImports]
    from libero.libero.envs.env_wrapper import ControlEnv  # pyright: ignore[reportMissingImports]
    from robosuite.utils.errors import RandomizationError

if _backend is None:
    os.environ.pop("MUJOCO_GL", None)
else:
    os.environ["MUJOCO_GL"] = _backend

_PICTURE_SIZE = 256
_COLLISION_SHAPES = 0  # the group of geoms
_SETTLING_STEPS = 5  # as in LIBERO's own evaluation: the objects come to rest
_ARM = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


class LiberoSimulator:
    """One task; `name` is the suite's name and the task's index there, e.g. `"libero_10/3"`.

    Attributes:
        instruction: what is to be done, in words.
        env: LIBERO's own environment, for experts of the user's.
    """

    def __init__(self, name: str, render_mode: str | None):
        suite_name, _, index = name.partition("/")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the order of its tasks
            suite = benchmark.get_benchmark(suite_name)(task_order_index=0)
        task = suite.get_task(int(index))
        self.instruction: str = task.language
        self._states = suite.get_task_init_states(int(index))
        self.env: Any = ControlEnv(
            str(Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            ignore_done=True,
            hard_reset=False,  # rebuilding the model takes many seconds and changes nothing
        ).env
        # LIBERO's observables are slow and lag; their sources are read instead, once per step.
        self.env._update_observables = lambda force=False: None
        self._sensors = [self.env._observables[key]._sensor for key in _ARM]
        model = self.env.sim.model._model
        self._bodies = list(self.env.obj_body_id.values())
        self._joints = [
            model.jnt_qposadr[joint]
            for joint in range(model.njnt)
            if model.jnt_type[joint] in (2, 3)  # slide and hinge
            and not model.joint(joint).name.startswith(("robot0", "gripper0"))
        ]
        self._renderer = None
        if render_mode is not None:
            self._renderer = mujoco.Renderer(model, _PICTURE_SIZE, _PICTURE_SIZE)
            self._view = mujoco.MjvOption()  # pyright: ignore[reportAttributeAccessIssue]
            self._view.geomgroup[_COLLISION_SHAPES] = 0

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`.

        Seeds below 50 start from the benchmark's own fifty states in order. Every other seed draws the
        objects' positions from the task's regions.
        """
        # LIBERO draws from NumPy's global generator, whose state is restored afterwards.
        global_state = np.random.get_state()
        gripper = self.env.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)  # otherwise only rebuilding the model would reset it
        np.random.seed(seed)
        try:
            self._place()
        finally:
            np.random.set_state(global_state)
        if seed < len(self._states):
            self.env.sim.set_state_from_flattened(self._states[seed])
            self.env.sim.forward()
        for _ in range(_SETTLING_STEPS):
            self.env.step(np.zeros(7))
        return self._observe()

    def _place(self) -> None:
        while True:
            try:
                self.env.reset()
            except RandomizationError:  # no free place for an object: draw again, as in LIBERO
                continue
            return

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        self.env.step(action.astype(np.float64))
        return sparse(self._observe(), bool(self.env._check_success()))

    def _observe(self) -> NDArray[np.floating]:
        data = self.env.sim.data
        poses = np.concatenate(
            [data.body_xpos[self._bodies], np.roll(data.body_xquat[self._bodies], -1, axis=1)], axis=1
        )
        arm = [np.asarray(sensor({})) for sensor in self._sensors]
        return np.concatenate([*arm, poses.ravel(), data.qpos[self._joints]])

    def scene(self) -> Scene:
        """What cameras see."""
        sim = self.env.sim
        return Scene(sim.model._model, sim.data._data, hidden_groups=(_COLLISION_SHAPES,))

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        assert self._renderer is not None, "made without a render mode"
        self._renderer.update_scene(self.env.sim.data._data, "agentview", self._view)
        return self._renderer.render()

    def close(self) -> None:
        """See `Simulator.close`."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.env.close()


def make_simulator(name: str, render_mode: str | None) -> LiberoSimulator:
    """The simulator of the task `libero/NAME`."""
    return LiberoSimulator(name, render_mode)


def make_expert(name: str, env: TaskEnv) -> LiberoExpert:
    """The scripted policy of the task `libero/NAME`."""
    assert isinstance(env.simulator, LiberoSimulator)
    return LiberoExpert(env.simulator.env)
