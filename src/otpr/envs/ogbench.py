"""OGBench (Park et al., 2025): a UR5e arm in MuJoCo moves cubes, buttons, a drawer and a window.

Single-task variants: the goal is fixed by the task and not part of the observation. Lengths along x, y, z are
given relative to (0.425, 0, 0) metres, in units of 10 cm. The observation is, in this order:

- arm (19): 6 joint angles in radians, 6 joint speeds in rad/s, position of the gripper's pinch point,
  cosine and sine of its yaw, three times its closing (0 open, 3 closed), contact force at a finger (1 from
  50 N on);
- each cube (9): position, quaternion (w, x, y, z), cosine and sine of its yaw;
- each button (4): its state, 0 or 1, as a one-hot pair, 120 times its travel (pressed: below -2.4), its speed
  in m/s; the buttons of a puzzle row by row;
- in a scene also (4): 18 times the drawer's position (0 closed, -2.88 open), its speed in m/s, 15 times the
  window's position (0 closed, 3 open), its speed in m/s.

`cube-single` has one cube (28 numbers), `cube-double` two (37), `scene` one and two buttons (40),
`puzzle-3x3` and `puzzle-4x4` 9 and 16 buttons (55 and 83).

Action, shape (5,): displacement of the gripper along x, y, z (1.0 is 5 cm), its turn about the vertical
(1.0 is 0.3 rad), and change of its closing (1.0 closes, -1.0 opens fully).
"""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import Any

import mujoco as _mujoco
import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # dm_control, which the package builds its models with, looks for a display as soon as it is imported.
    warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.envs.puzzle_env import PuzzleEnv
    from ogbench.manipspace.envs.scene_env import SceneEnv

from otpr.envs.cameras import Scene
from otpr.envs.ogbench_expert import OGBenchExpert
from otpr.envs.task_env import Outcome, TaskEnv, sparse

mujoco: Any = _mujoco  # its functions come out of a compiled module that type checkers cannot see into
_CAMERA = "front"
_PICTURE_SIZE = 256
_CUBE_SINGLE_TASK = 2  # the package's default task of this environment


class OGBenchSimulator:
    """One task; `name` is e.g. `"cube-single"` or `"scene-task3"`.

    Attributes:
        env: the package's environment.
    """

    def __init__(self, name: str):
        self.env = _package_env(name)

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`."""
        env = self.env
        self._package_reset(seed)
        # The package first takes random steps in the goal state, from a generator that cannot be seeded. They
        # persist in the solver's warm start and the contact forces, which are therefore reset.
        qpos, mocap_pos, mocap_quat = (
            np.copy(part) for part in (env.data.qpos, env.data.mocap_pos, env.data.mocap_quat)
        )
        mujoco.mj_resetData(env.model, env.data)
        env.data.qpos[:], env.data.mocap_pos[:], env.data.mocap_quat[:] = qpos, mocap_pos, mocap_quat
        mujoco.mj_forward(env.model, env.data)
        return env.compute_observation()

    def _package_reset(self, seed: int) -> None:
        with warnings.catch_warnings():
            # It states the bounds of its actions in float64, for spaces of float32.
            warnings.filterwarnings("ignore", message=".*precision lowered by casting")
            self.env.reset(seed=seed)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        # The package's reward is minus the number of unmet subgoals: only its success flag is used. The
        # package prints a line when it restores a cube that the solver has ejected.
        with contextlib.redirect_stdout(None):
            observation, _, _, _, info = self.env.step(action)
        return sparse(observation, bool(info["success"]))

    def scene(self) -> Scene:
        """What cameras see."""
        if self.env._model is None:  # the first reset builds the model
            self._package_reset(0)
        return Scene(self.env.model, self.env.data)

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        return self.env.render(camera=_CAMERA)

    def close(self) -> None:
        """See `Simulator.close`."""
        if self.env._renderer is not None:
            self.env._renderer.close()
            self.env._renderer = None
        self.env.close()


def _package_env(name: str) -> Any:
    match = re.fullmatch(r"(cube-single|cube-double|scene|puzzle-3x3|puzzle-4x4)(?:-task([1-5]))?", name)
    assert match is not None, name
    kind, task = match.group(1), int(match.group(2) or _CUBE_SINGLE_TASK)
    options: dict[str, Any] = {
        "reward_task_id": task,
        # "pre", as in the package's own single-task environments, reports a success one step late.
        "success_timing": "post",
        "width": _PICTURE_SIZE,
        "height": _PICTURE_SIZE,
    }
    if kind == "scene":
        return SceneEnv("scene", permute_blocks=False, **options)
    family, variant = kind.split("-")
    if family == "cube":
        return CubeEnv(variant, permute_blocks=False, **options)
    return PuzzleEnv(variant, **options)


def make_simulator(name: str, render_mode: str | None) -> OGBenchSimulator:
    """The simulator of the task `ogbench/NAME`."""
    return OGBenchSimulator(name)


def make_expert(name: str, env: TaskEnv) -> OGBenchExpert:
    """The expert of the task `ogbench/NAME`."""
    assert isinstance(env.simulator, OGBenchSimulator)
    return OGBenchExpert(name, env.simulator.env)
