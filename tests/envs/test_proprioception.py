"""Which numbers of an observation a robot knows of itself: found out by moving things, then the robot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import pytest

from otpr.envs import list_tasks, make_env
from otpr.envs.catalog import SUITES
from otpr.envs.task_env import TaskEnv

MINUTE = 0.02
"""How far joints are moved: metres or radians, and per second."""


def ranges(task_id: str) -> tuple[tuple[int, int], ...]:
    suite, _, name = task_id.partition("/")
    return SUITES[suite].tasks[name].proprioception


def own(task_id: str) -> np.ndarray:
    """Whether the robot knows it of itself, for each number of the observation."""
    suite, _, name = task_id.partition("/")
    known = np.zeros(SUITES[suite].tasks[name].observation_dim, bool)
    for start, end in ranges(task_id):
        known[start:end] = True
    return known


@pytest.mark.parametrize("suite", SUITES)
def test_ranges_are_in_order_apart_and_within_the_observation(suite: str) -> None:
    for task in SUITES[suite].tasks.values():
        ends = [end for pair in task.proprioception for end in pair]
        assert ends == sorted(set(ends)) and ends[0] >= 0 and ends[-1] < task.observation_dim


def test_in_robosuite_they_are_the_parts_of_the_arms() -> None:
    for task in SUITES["robosuite"].tasks.values():
        assert task.proprioception == ((0, sum(n for name, n in task.parts if name.startswith("robot"))),)


# --------------------------------------------------------------------------- how each suite is looked into

# What the names of a robot's joints begin with; of what has none the number of its first joints.
ROBOTS: dict[str, tuple[str, ...] | int] = {
    "adroit/pen": 24,
    "adroit/door": 28,
    "adroit/hammer": 26,
    "adroit/relocate": 30,
    "fetch": ("robot0:",),
    "kitchen": ("robot:",),
    "metaworld": ("right_", "r_close", "l_close"),
    "ogbench": ("ur5e/",),
    "robosuite": ("robot", "gripper"),
}


def observe(env: TaskEnv) -> np.ndarray:
    """The observation of the state as it is now, computed anew and without noise that differs."""
    simulator: Any = env.simulator
    match type(simulator).__name__:
        case "MetaWorldSimulator":
            simulator._simulator._get_obs()  # it becomes the one a step before
            return simulator._simulator._get_obs()
        case "OGBenchSimulator":
            return simulator.env.compute_observation()
        case "RobosuiteSimulator":
            return simulator._observe()
        case "KitchenSimulator":
            robot = simulator.env.robot_env
            robot.np_random = np.random.default_rng(0)
            return simulator.flat(simulator.env._get_obs(robot._get_obs()))
        case _:
            return simulator.flat(simulator.env._get_obs())


def move(env: TaskEnv, task_id: str, chosen: Callable[[bool], bool]) -> None:
    """Move the joints of the robot, or of all else, a little."""
    scene, random = env.simulator.scene(), np.random.default_rng(1)  # pyright: ignore
    model, data = scene.model, scene.data
    robot = ROBOTS.get(task_id, ROBOTS.get(task_id.partition("/")[0]))
    for index in range(model.njnt):
        joint = model.joint(index)
        of_robot = index < robot if isinstance(robot, int) else joint.name.startswith(robot)
        if chosen(of_robot):
            # a quaternion's first number stays, so that it remains about one of unit length
            positions = data.qpos[joint.qposadr[0] :][: {0: 7, 1: 4}.get(model.jnt_type[index], 1)]
            positions += MINUTE * random.uniform(0.5, 1, len(positions))
            velocities = data.qvel[joint.dofadr[0] :][: {0: 6, 1: 3}.get(model.jnt_type[index], 1)]
            velocities += MINUTE * random.uniform(0.5, 1, len(velocities))


def move_goal(env: TaskEnv) -> None:
    """Move also what no joint moves: goals, and things that are part of the world."""
    simulator: Any = env.simulator
    model = simulator.scene().model
    match type(simulator).__name__:
        case "MetaWorldSimulator":
            simulator._simulator._target_pos = simulator._simulator._target_pos + MINUTE
            of_robot = {model.body(name).rootid[0] for name in ("hand", "rightclaw")}
            for body in range(1, model.nbody):
                if model.body_rootid[body] not in of_robot and model.body_parentid[body] == 0:
                    model.body_pos[body] += MINUTE
        case "FetchSimulator":
            simulator.env.goal = simulator.env.goal + MINUTE
        case "AdroitSimulator":
            targets = {
                "AdroitHandPenEnv": "target",
                "AdroitHandDoorEnv": "frame",
                "AdroitHandHammerEnv": "nail_board",
            }
            if (name := targets.get(type(simulator.env).__name__)) is not None:
                model.body(name).pos += MINUTE
                model.body(name).quat += MINUTE * np.array([0, 1, 1, 1])
            else:
                model.site("target").pos += MINUTE
        case _:
            pass


def state(env: TaskEnv) -> tuple[np.ndarray, np.ndarray]:
    data = env.simulator.scene().data  # pyright: ignore
    return data.qpos.copy(), data.qvel.copy()


def check(task_id: str) -> None:
    """What is the robot's own moves with the robot alone; of the rest nothing does."""
    env = make_env(task_id)
    env.reset(seed=1)
    for action in np.random.default_rng(0).uniform(-0.3, 0.3, (8, *env.action_space.shape)):
        env.step(action.astype(np.float32))
    scene = env.simulator.scene()  # pyright: ignore
    mujoco.mj_forward(scene.model, scene.data)
    start, before = state(env), observe(env)
    move(env, task_id, lambda of_robot: of_robot)
    mujoco.mj_forward(scene.model, scene.data)
    with_robot = observe(env) != before
    scene.data.qpos[:], scene.data.qvel[:] = start
    move(env, task_id, lambda of_robot: not of_robot)
    move_goal(env)
    mujoco.mj_forward(scene.model, scene.data)
    with_things = observe(env) != before
    env.close()
    known = own(task_id)
    assert not with_things[known].any(), np.nonzero(with_things & known)
    assert not (with_robot & ~with_things)[~known].any(), np.nonzero(with_robot & ~with_things & ~known)
    assert with_things.any()
    # a finger's contact (OGBench) is felt by the robot, but nothing is touched here
    assert with_robot[known].sum() >= known.sum() - (task_id.startswith("ogbench/"))


LIGHT = [
    *(f"adroit/{name}" for name in SUITES["adroit"].tasks),
    *(f"fetch/{name}" for name in SUITES["fetch"].tasks),
    *(f"metaworld/{name}-v3" for name in ("peg-insert-side", "drawer-open")),
]
HEAVY = [
    spec.id
    for spec in list_tasks()
    if spec.installed and spec.id not in LIGHT and not spec.id.startswith("libero")
]


@pytest.mark.parametrize("task_id", LIGHT)
def test_it_moves_with_the_robot_alone(task_id: str) -> None:
    check(task_id)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", HEAVY)
def test_it_moves_with_the_robot_alone_in_the_other_tasks(task_id: str) -> None:
    check(task_id)
