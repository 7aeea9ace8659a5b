"""The scripted expert of OGBench's manipulation tasks: the package's oracles with scheduled subgoals.

Each of the package's Markov oracles achieves one subgoal (a cube's position, a button's state, the position
of a drawer or a window). They read their target from entries of the information dictionary that the package
only provides while it collects data with random targets. `OGBenchExpert` adds these entries for the subgoals
that `otpr.envs.ogbench_schedule` chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

from otpr.envs.ogbench_schedule import Subgoal, next_of_cubes, next_of_puzzle, next_of_scene, stowed

_ORACLES: dict[str, Any] = {
    "cube": CubeMarkovOracle,
    "stow": CubeMarkovOracle,
    "button": ButtonMarkovOracle,
    "drawer": DrawerMarkovOracle,
    "window": WindowMarkovOracle,
}
_SCHEDULES: dict[str, Callable[[Any], Subgoal | None]] = {
    "cube": next_of_cubes,
    "scene": next_of_scene,
    "puzzle": next_of_puzzle,
}
_MAX_STEPS = 100  # after which a subgoal is chosen anew
# Metres above the table. When done, the gripper rises to just above where each oracle begins to travel.
_RETREAT_HEIGHTS = {"cube": 0.19, "stow": 0.19, "button": 0.19, "drawer": 0.21, "window": 0.31}
_TRAVEL_HEIGHT = 0.15
# Metres beside and above a cube or a handle, and radians.
_BESIDE_FAR = 0.04  # where the oracles stop travelling and descend
_BESIDE_NEAR = 0.01  # where we let them
_TURN_NEAR = 0.2
_LOW = 0.025
_HOVER = 0.08
_HELD = 0.03
_CUBE_ALIGNED = 0.02  # where the oracles take it to have arrived
_SLIDE_ALIGNED = 0.01


class OGBenchExpert:
    """The expert for one environment of the package, whose state it reads.

    Args:
        name: the name of the task, e.g. `"scene-task3"`.
        env: the package's environment.
    """

    def __init__(self, name: str, env: Any):
        self._env = env
        self._next = _SCHEDULES[name.split("-")[0]]
        self._is_puzzle = name.startswith("puzzle")
        self._subgoal: Subgoal | None = None
        self._oracle: Any = None
        self._rising = False

    def reset(self) -> None:
        """Begin an episode."""
        self._oracle = None

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The scripted action, shape (5,), in [-1, 1], for the state the environment is in now."""
        info = self._env.compute_ob_info()
        position = info["proprio/effector_pos"]
        if self._oracle is None or self._oracle.done:
            self._subgoal = self._next(self._env)
            self._oracle = None if self._subgoal is None else self._oracle_for(self._subgoal)
            self._rising = True
        self._rising = self._rising and bool(position[2] < _TRAVEL_HEIGHT)
        if self._rising or self._oracle is None or self._subgoal is None:
            # An oracle that gave up leaves the gripper where it was stuck; the next one starts from above.
            return np.array([0, 0, 1, 0, 1 if self._is_puzzle else -1], np.float32)
        info |= target_entries(self._env, info, self._subgoal)
        # The package draws the final position of an oracle from NumPy's global generator. Here it ends
        # straight above its current position, so that demonstrations only depend on observed quantities.
        self._oracle._final_pos = np.array([*position[:2], _RETREAT_HEIGHTS[self._subgoal.kind]])
        self._oracle._final_yaw = info["proprio/effector_yaw"][0]
        action = adjusted(self._oracle.select_action(observation, info), info, self._subgoal)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _oracle_for(self, subgoal: Subgoal) -> Any:
        # In a puzzle, the gripper only touches buttons and stays closed.
        options = {"gripper_always_closed": self._is_puzzle} if subgoal.kind == "button" else {}
        oracle = _ORACLES[subgoal.kind](env=self._env, max_step=_MAX_STEPS, **options)
        oracle._step = 0  # `reset` sets it too, but draws from NumPy's global generator
        return oracle


def adjusted(action: NDArray[np.floating], info: dict[str, Any], subgoal: Subgoal) -> NDArray[np.floating]:
    """The oracle's action, adjusted so that it does not descend before it is aligned with its target.

    The oracles descend from up to 4 cm beside the target. A finger that lands on top of a cube or a handle
    gets stuck, and a cube that is set down askew is grasped again and pushed away.
    """
    if subgoal.kind == "button":
        return action
    moves_cube = subgoal.kind in ("cube", "stow")
    name = f"block_{subgoal.number}" if moves_cube else f"{subgoal.kind}_handle"
    target = info[f"privileged/target_{'block' if moves_cube else name}_pos"]
    position, hand_yaw = info[f"privileged/{name}_pos"], info["proprio/effector_yaw"][0]
    contact = info["proprio/gripper_contact"][0]
    if np.linalg.norm(target - position) <= (_CUBE_ALIGNED if moves_cube else _SLIDE_ALIGNED):
        # Release and rise, as the oracle does, but without moving towards the target's centre in the drawer.
        return np.array([0.0, 0, 0, 0, -1]) if subgoal.kind == "stow" and contact > 0.1 else action
    offset = position - info["proprio/effector_pos"]
    held = moves_cube and contact > 0.5 and bool(np.linalg.norm(offset) < _HELD)
    turn = _nearest(info[f"privileged/{name}_yaw"][0] - hand_yaw, np.pi / 2 if moves_cube else np.pi)
    if held:
        offset = target - position
        # The fingers open along the drawer's front, in order not to land on it.
        turn = _nearest(np.pi / 2 - hand_yaw, np.pi) if subgoal.kind == "stow" else 0.0
    beside = float(np.linalg.norm(offset[:2]))
    is_above = beside <= _BESIDE_FAR and offset[2] < -_LOW
    if is_above and (beside > _BESIDE_NEAR or abs(turn) > _TURN_NEAR):
        return np.array([*offset[:2] / 0.05, (_HOVER + offset[2]) / 0.05, 3.0 * turn, 1.0 if held else -1.0])
    if held and subgoal.kind == "stow":
        action[3] = 3.0 * turn
    return action


def _nearest(angle: float, period: float) -> float:
    """The angle nearest to zero among those that differ from this one by whole periods."""
    return (angle + period / 2) % period - period / 2


def target_entries(env: Any, info: dict[str, Any], subgoal: Subgoal) -> dict[str, Any]:
    """The entries from which an oracle reads its target, under the package's names."""
    kind, index, target = subgoal
    if kind in ("cube", "stow"):
        if kind == "stow" and stowed(env):
            # The drawer has no room for another grasp over the last centimetre: release.
            target = info[f"privileged/block_{index}_pos"]
        # The current yaw, because goals only specify positions.
        yaw = info[f"privileged/block_{index}_yaw"]
        entries = {"target_block": index, "target_block_pos": target, "target_block_yaw": yaw}
    elif kind == "button":
        top = env.data.site_xpos[env._button_site_ids[index]].copy()
        entries = {"target_button": index, "target_button_state": target, "target_button_top_pos": top}
    else:
        # The window moves along +x, the drawer along -y: it opens towards +y by negative travel.
        axis = np.array([1.0, 0.0, 0.0]) if kind == "window" else np.array([0.0, -1.0, 0.0])
        missing = target - info[f"privileged/{kind}_pos"][0]
        handle = info[f"privileged/{kind}_handle_pos"] + missing * axis
        entries = {f"target_{kind}_pos": np.array([target]), f"target_{kind}_handle_pos": handle}
    return {f"privileged/{entry}": value for entry, value in entries.items()}
