"""Rules for the next subgoal of an OGBench task, from the current state and the goal.

The rules are evaluated after every subgoal, so that a subgoal that failed or was undone by noise is repeated.
Positions are in metres. The environments are the package's: cubes, `SceneEnv`, `PuzzleEnv`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ON_TABLE = 0.02  # height of a cube's centre when it lies on the table
_NEAR = 0.06  # two cubes whose centres are closer than this cannot stand side by side
_CLEAR = 0.09  # room for the fingers beside a cube
_DRAWER_OPEN = -0.16
_IN_DRAWER = 0.1  # a cube whose centre is below lies in the drawer, or is held just above its bottom
_ACROSS_DRAWER = 0.03
_SLIDE_TOLERANCE = 0.04  # the package's, for drawer and window


class Subgoal(NamedTuple):
    """A subgoal.

    Attributes:
        kind: `"cube"` (move it), `"stow"` (put it into the open drawer), `"button"`, `"drawer"` or
            `"window"`.
        number: index of the cube or button.
        target: the goal position (3,) of a cube, travel of a drawer or window, or state (0 or 1) of a button.
    """

    kind: str
    number: int
    target: Any


def next_of_cubes(env: Any) -> Subgoal | None:
    """The next cube to move; None if all are in place."""
    positions = np.stack([_cube_position(env, i) for i in range(env._num_cubes)])
    goals = np.asarray(env.cur_task_info["goal_xyzs"])
    return next_cube(positions, goals, env._compute_successes())


def next_cube(
    positions: NDArray[np.floating], goals: NDArray[np.floating], placed: list[bool]
) -> Subgoal | None:
    """Place cubes from the lowest goal up, after clearing cubes on top of the cube or on its goal.

    Args:
        positions: (n, 3), where the cubes are.
        goals: (n, 3), where they should be.
        placed: n flags, whether a cube is near enough to its goal.
    """
    for cube in np.argsort(goals[:, 2], kind="stable"):
        if placed[cube]:
            continue
        for other in range(len(goals)):
            if other != cube and _in_the_way(positions[other], positions[cube], goals[cube]):
                return Subgoal("cube", other, _place_for(other, positions, goals))
        return Subgoal("cube", int(cube), goals[cube])
    return None


def _in_the_way(other: NDArray[np.floating], cube: NDArray[np.floating], goal: NDArray[np.floating]) -> bool:
    on_cube = _apart(other, cube) < _ON_TABLE * 2 and other[2] > cube[2] + _ON_TABLE
    on_goal = _apart(other, goal) < _NEAR and other[2] > goal[2] - _ON_TABLE
    return bool(on_cube or on_goal)


def _place_for(
    cube: int, positions: NDArray[np.floating], goals: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The cube's own goal if it is free and on the table, otherwise the nearest unneeded place."""
    others = [other for other in range(len(goals)) if other != cube]
    goal = goals[cube]
    if goal[2] <= _ON_TABLE + 1e-3 and all(_apart(positions[other], goal) >= _NEAR for other in others):
        return goal
    places = np.array([[x, y, _ON_TABLE] for x in (0.35, 0.425, 0.5) for y in (-0.2, -0.1, 0.0, 0.1, 0.2)])
    needed = np.concatenate([positions[others], goals])
    free = [place for place in places if min(_apart(place, point) for point in needed) >= _CLEAR]
    return min(free, key=lambda place: _apart(place, positions[cube]))


def _apart(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(one[:2] - other[:2]))


def _cube_position(env: Any, cube: int) -> NDArray[np.floating]:
    return env.data.joint(f"object_joint_{cube}").qpos[:3].copy()


def next_of_scene(env: Any) -> Subgoal | None:
    """The next of cube, drawer, window and their locks (the buttons); None if the goal is reached."""
    goal = env.cur_task_info["goal"]
    into_drawer = bool(goal["block_xyzs"][0][2] > 2 * _ON_TABLE)
    if into_drawer and not stowed(env):
        return _slide(env, "drawer", _DRAWER_OPEN) or Subgoal("stow", 0, env._drawer_center.copy())
    # The handle of an open drawer obstructs a cube in front of it: close it before, open it after.
    if goal["drawer_pos"] > _DRAWER_OPEN / 2 and (subgoal := _slide(env, "drawer", goal["drawer_pos"])):
        return subgoal
    if not into_drawer and not env._compute_successes()[0][0]:
        return Subgoal("cube", 0, goal["block_xyzs"][0])
    if subgoal := _slide(env, "drawer", goal["drawer_pos"]) or _slide(env, "window", goal["window_pos"]):
        return subgoal
    for button, state in enumerate(goal["button_states"]):
        if env._cur_button_states[button] != state:
            return Subgoal("button", button, int(state))
    return None


def stowed(env: Any) -> bool:
    """Whether the cube of a scene is in the drawer at the position that closing moves to its goal."""
    cube = _cube_position(env, 0)
    # Closing the drawer pushes the cube to its front: only the position across the drawer matters.
    across = abs(cube[0] - env._drawer_center[0])
    return bool(env._is_in_drawer(cube) and across <= _ACROSS_DRAWER and cube[2] <= _IN_DRAWER)


def _slide(env: Any, kind: str, target: float) -> Subgoal | None:
    """The subgoal for the drawer or the window; None if it is at its target."""
    if abs(env.data.joint(f"{kind}_slide").qpos[0] - target) <= _SLIDE_TOLERANCE:
        return None
    lock = ("drawer", "window").index(kind)
    if env._cur_button_states[lock] == 0:
        return Subgoal("button", lock, 1)
    return Subgoal(kind, 0, target)


def next_of_puzzle(env: Any) -> Subgoal | None:
    """The nearest button of a shortest solution; None if the pattern is reached."""
    states = np.asarray(env._cur_button_states)
    presses = solve_lights(env._num_rows, env._num_cols, states != env.cur_task_info["goal_button_states"])
    if not presses.any():
        return None
    gripper = env.data.site_xpos[env._pinch_site_id]
    buttons = env.data.site_xpos[env._button_site_ids]
    distances = np.linalg.norm(buttons[:, :2] - gripper[:2], axis=1)
    button = int(np.argmin(np.where(presses, distances, np.inf)))
    return Subgoal("button", button, 1 - int(states[button]))


def solve_lights(rows: int, columns: int, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A smallest set of buttons whose pressing toggles exactly the wrong ones ("Lights Out").

    A press toggles a button and its four neighbours. The order does not matter and no button is pressed
    twice, so this is a linear system modulo 2. Elimination solves it, and the solution with the fewest
    presses is taken.

    Args:
        rows: number of rows.
        columns: number of columns.
        wrong: (rows * columns,), row by row, the buttons that must change.

    Raises:
        ValueError: there is no solution.
    """
    count = rows * columns
    row, column = np.divmod(np.arange(count), columns)
    steps = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    system = np.concatenate([steps <= 1, np.asarray(wrong, bool)[:, None]], axis=1)
    pivots: list[int] = []
    for unknown in range(count):
        candidates = np.flatnonzero(system[len(pivots) :, unknown]) + len(pivots)
        if len(candidates) == 0:
            continue
        system[[len(pivots), candidates[0]]] = system[[candidates[0], len(pivots)]]
        for equation in np.flatnonzero(system[:, unknown]):
            if equation != len(pivots):
                system[equation] ^= system[len(pivots)]
        pivots.append(unknown)
    if system[len(pivots) :, -1].any():
        raise ValueError(f"No presses toggle exactly the buttons {np.flatnonzero(wrong)}")
    free = [unknown for unknown in range(count) if unknown not in pivots]
    solutions: list[NDArray[np.bool_]] = []
    for choice in np.ndindex(*(2,) * len(free)):
        presses = np.zeros(count, bool)
        presses[free] = choice
        toggled = np.logical_xor.reduce(system[: len(pivots), free] & presses[free], axis=1)
        presses[pivots] = system[: len(pivots), -1] ^ toggled
        solutions.append(presses)
    return min(solutions, key=np.count_nonzero)
