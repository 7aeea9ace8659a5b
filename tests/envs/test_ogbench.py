from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest

from otpr.data.collect import collect
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.seeds import evaluation_seed
from otpr.envs import ChunkedVectorEnv, list_tasks, make_env, make_expert

FAMILIES = ["cube-double", "scene", "puzzle-3x3", "puzzle-4x4"]
# One of each kind; the hardest for its expert.
SOME_TASKS = [
    "ogbench/cube-single",
    "ogbench/cube-double-task4",
    "ogbench/scene-task5",
    "ogbench/puzzle-3x3-task4",
    "ogbench/puzzle-4x4-task5",
]
ALL_TASKS = ["ogbench/cube-single", *(f"ogbench/{name}-task{i}" for name in FAMILIES for i in range(1, 6))]
GRIPPER = slice(12, 15)  # in the observation, in units of 10 cm


@pytest.fixture(scope="module")
def env_of():
    """One environment a task, for the whole file: each takes a second or two to make."""
    envs = {}

    def env_of(task_id: str):
        if task_id not in envs:
            envs[task_id] = make_env(task_id)
        return envs[task_id]

    yield env_of
    for env in envs.values():
        env.close()


def trajectory(env, task_id: str, seed: int, steps: int) -> np.ndarray:
    """Observations under the expert's actions mixed with noise: they touch and move the objects."""
    expert = make_expert(task_id, env)
    generator = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    observations = [observation]
    for _ in range(steps):
        noisy = expert.act(observation) + 0.3 * generator.standard_normal(5)
        observation, _, terminated, truncated, _ = env.step(np.clip(noisy, -1, 1).astype(np.float32))
        observations.append(observation)
        if terminated or truncated:
            break
    return np.stack(observations)


def run_expert(env, task_id: str, seed: int) -> bool:
    """Whether it succeeds; reward, ends and success are checked on the way."""
    expert = make_expert(task_id, env)
    observation, info = env.reset(seed=seed)
    assert info == {"success": False}
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        action = expert.act(observation)
        assert env.action_space.contains(action)
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert info["success"] == terminated
        rewards.append(reward)
    assert terminated != truncated
    assert rewards == [0.0] * (len(rewards) - 1) + [float(terminated)]
    return terminated


def test_the_tasks_are_these() -> None:
    assert sorted(ALL_TASKS) == [spec.id for spec in list_tasks() if spec.id.startswith("ogbench/")]


def check_dimensions(env) -> None:
    observation, _ = env.reset(seed=0)  # raises where the catalog says another length
    assert observation.dtype == np.float32
    assert env.action_space.shape == env.simulator.env.action_space.shape == (5,)
    assert env.metadata["render_fps"] == pytest.approx(1 / env.simulator.env._control_timestep)


@pytest.mark.long
@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_dimensions_agree_with_the_catalog(env_of, task_id: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        check_dimensions(env_of(task_id))


@pytest.mark.parametrize(
    ("task_id", "number"), [("cube-single", 2), ("scene-task5", 5), ("puzzle-3x3-task4", 4)]
)
def test_it_is_the_package_s_task_of_that_number(env_of, task_id: str, number: int) -> None:
    env = env_of(f"ogbench/{task_id}")
    env.reset(seed=0)
    assert env.simulator.env.cur_task_id == number


def simulator_state(env, seed: int) -> np.ndarray:
    """All that a step depends on after a reset, the solver's warm start and contact forces included."""
    import mujoco

    env.reset(seed=seed)
    package = env.simulator.env
    parts = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(package.model, parts))
    mujoco.mj_getState(package.model, package.data, state, parts)
    return np.concatenate([state, package.data.cfrc_ext.ravel(), package.model.dof_damping])


def test_a_reset_leaves_nothing_of_the_past_in_the_simulator(env_of) -> None:
    # The package takes unseeded random steps in each reset.
    env = env_of("ogbench/scene-task5")
    one = simulator_state(env, 7)
    trajectory(env, "ogbench/scene-task5", 3, 40)
    np.testing.assert_array_equal(simulator_state(env, 7), one)


def check_that_a_seed_fixes_the_episode(used, task_id: str) -> None:
    fresh = make_env(task_id)
    expected = trajectory(fresh, task_id, 7, 60)
    fresh.close()
    np.random.seed(1)  # the package draws from it here and there
    for seed in (3, 4):
        trajectory(used, task_id, seed, 120)
    np.testing.assert_array_equal(trajectory(used, task_id, 7, 60), expected)
    assert np.abs(trajectory(used, task_id, 8, 0)[0] - expected[0]).max() > 0.01


@pytest.mark.parametrize("task_id", SOME_TASKS[1:3])
def test_a_seed_fixes_the_episode_whatever_was_run_before(env_of, task_id: str) -> None:
    check_that_a_seed_fixes_the_episode(env_of(task_id), task_id)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", ALL_TASKS)
def test_a_seed_fixes_the_episode_in_every_task(env_of, task_id: str) -> None:
    check_that_a_seed_fixes_the_episode(env_of(task_id), task_id)


def test_it_is_the_package_s_own_environment_except_that_success_is_not_late(env_of) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = gymnasium.make("cube-double-singletask-task4-v0", disable_env_checker=True)
        expected, _ = package.reset(seed=3)
    task_id = "ogbench/cube-double-task4"
    env = env_of(task_id)
    expert = make_expert(task_id, env)
    observation, _ = env.reset(seed=3)
    # But for the contact force, which the package leaves over from random steps before the episode.
    np.testing.assert_array_equal(np.delete(observation, 18), np.delete(expected, 18).astype(np.float32))
    rewards, terminated, late = [], False, False
    while not terminated:
        action = expert.act(observation)
        observation, _, terminated, _, _ = env.step(action)
        expected, reward, late, _, _ = package.step(action)
        rewards.append(reward)
        if len(rewards) == 40:  # before the solvers' different warm starts have grown
            np.testing.assert_allclose(observation, expected, atol=0.02)
    assert set(rewards) == {-2.0, -1.0}  # minus the number of cubes that are out of place
    assert not late
    *_, late, _, info = package.step(np.zeros(5))
    package.close()
    assert late and info["success"]


def test_success_is_what_is_seen(env_of) -> None:
    task_id = "ogbench/puzzle-3x3-task4"
    env = env_of(task_id)
    expert = make_expert(task_id, env)
    observation, _ = env.reset(seed=2)
    terminated = False
    while not terminated:
        lights = observation[19:].reshape(9, 4)[:, 1]
        assert not lights.all()  # the goal of this task is that all are 1
        observation, _, terminated, _, _ = env.step(expert.act(observation))
    assert (observation[19:].reshape(9, 4)[:, 1] == 1).all()


def test_truncated_at_the_limit_of_the_benchmark(env_of) -> None:
    env = env_of("ogbench/cube-single")
    env.reset(seed=0)
    outcome = [env.step(np.zeros(5, np.float32))[1:] for _ in range(200)]
    assert [truncated for _, _, truncated, _ in outcome] == [False] * 199 + [True]
    assert {(reward, terminated) for reward, terminated, _, _ in outcome} == {(0.0, False)}


def after(env, action: list[float], steps: int) -> np.ndarray:
    env.reset(seed=2)
    for _ in range(steps):
        observation, *_ = env.step(np.array(action, np.float32))
    return observation


def test_actions_are_clipped(env_of) -> None:
    env = env_of("ogbench/cube-single")
    np.testing.assert_array_equal(after(env, [1, -1, 0.5, 1, 1], 8), after(env, [7, -9, 0.5, 3, 2], 8))


def test_actions_move_the_gripper_as_the_docstring_says(env_of) -> None:
    env = env_of("ogbench/cube-single")
    start = after(env, [0, 0, 0, 0, 0], 5)
    for axis in range(3):
        for sign in (1, -1):
            action = [0.0] * 5
            action[axis] = 0.5 * sign
            moved = after(env, action, 5)[GRIPPER] - start[GRIPPER]
            assert 0.3 < moved[axis] * sign < 1.25  # 5 steps of at most 2.5 cm, less the arm's lag
            assert np.abs(np.delete(moved, axis)).max() < 0.15

    def yaw(observation: np.ndarray) -> float:
        return float(np.arctan2(observation[16], observation[15]))

    turned = (yaw(after(env, [0, 0, 0, 0.5, 0], 5)) - yaw(start) + np.pi) % (2 * np.pi) - np.pi
    assert 0.1 < turned < 0.75  # the arm turns sluggishly
    closed, opened = after(env, [0, 0, 0, 0, 1], 15)[17], after(env, [0, 0, 0, 0, -1], 15)[17]
    assert opened < 0.2 < 2.0 < closed <= 3.0


def test_the_drawer_s_travel_is_negative_and_against_the_y_axis(env_of) -> None:
    from otpr.envs.ogbench_expert import target_entries
    from otpr.envs.ogbench_schedule import Subgoal

    env = env_of("ogbench/scene-task5")
    env.reset(seed=0)
    package = env.simulator.env
    for kind, aim in {"drawer": -0.16, "window": 0.2}.items():
        before = package.compute_ob_info()
        promised = target_entries(package, before, Subgoal(kind, 0, aim))[
            f"privileged/target_{kind}_handle_pos"
        ]
        package.data.joint(f"{kind}_slide").qpos[0] = aim
        package.set_state(package.data.qpos.copy(), package.data.qvel.copy(), package._cur_button_states)
        info = package.compute_ob_info()
        np.testing.assert_allclose(info[f"privileged/{kind}_handle_pos"], promised, atol=1e-3)
        assert np.linalg.norm(promised - before[f"privileged/{kind}_handle_pos"]) > 0.14
    assert package.data.site_xpos[package._drawer_site_id][1] > -0.1  # towards the robot's middle


@pytest.mark.parametrize("held", [False, True])
def test_expert_hovers_until_it_is_straight_above(held: bool) -> None:
    from otpr.envs.ogbench_expert import adjusted
    from otpr.envs.ogbench_schedule import Subgoal

    descend = np.array([1.0, 0, -1, 0, 0])

    def action(beside: float) -> np.ndarray:
        above = np.array([0.4, 0.0, 0.08])
        below = np.array([0.4 + beside, 0.0, 0.02])
        info = {
            "proprio/effector_pos": above,
            "proprio/effector_yaw": np.array([0.1]),
            "proprio/gripper_contact": np.array([float(held)]),
            "privileged/block_0_pos": above if held else below,
            "privileged/block_0_yaw": np.array([0.1 + np.pi]),
            "privileged/target_block_pos": below if held else np.array([0.4, 0.2, 0.02]),
        }
        return adjusted(descend, info, Subgoal("cube", 0, info["privileged/target_block_pos"]))

    np.testing.assert_array_equal(action(0.005), descend)
    np.testing.assert_array_equal(action(0.05), descend)  # far away: the oracle travels
    np.testing.assert_allclose(action(0.03), [0.6, 0, 0.4, 0, 1 if held else -1], atol=1e-9)


def test_locks_hold_the_drawer_and_the_window(env_of) -> None:
    task_id = "ogbench/scene-task5"
    env = env_of(task_id)
    expert = make_expert(task_id, env)
    observation, _ = env.reset(seed=0)
    seen, terminated = [], False
    while not terminated:
        action = expert.act(observation)
        subgoal = expert._subgoal
        if not seen or seen[-1] is not subgoal:
            seen.append(subgoal)
        observation, _, terminated, _, _ = env.step(action)
    order = [(kind, index) for kind, index, _ in seen]
    assert order.index(("button", 0)) < order.index(("drawer", 0)) < order.index(("stow", 0))
    assert order.index(("button", 1)) < order.index(("window", 0))
    assert {("button", 0), ("button", 1)} == set(order[-2:])  # locked again
    assert env.simulator.env._is_in_drawer(env.simulator.env.data.joint("object_joint_0").qpos[:3])


def test_nothing_is_said_when_a_cube_is_put_back(env_of, capfd) -> None:
    env = env_of("ogbench/scene-task5")
    env.reset(seed=0)
    env.simulator.env.data.joint("object_joint_0").qpos[:3] = [3.0, 0.0, 0.5]
    observation, *_ = env.step(np.zeros(5, np.float32))
    assert np.abs(observation[19:22]).max() < 3  # back within 30 cm
    assert capfd.readouterr() == ("", "")


def test_expert_leaves_the_global_generator_alone(env_of) -> None:
    task_id = "ogbench/scene-task5"
    before = np.random.get_state()[1].copy()
    trajectory(env_of(task_id), task_id, 0, 60)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_expert_solves_its_task_for_a_reward_of_one(env_of, task_id: str) -> None:
    # 50 of 50 in each.
    assert [run_expert(env_of(task_id), task_id, seed) for seed in (10, 11)] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("task_id", ALL_TASKS)
def test_expert_solves_nearly_all_episodes_of_every_task(env_of, task_id: str) -> None:
    solved = [run_expert(env_of(task_id), task_id, evaluation_seed(i)) for i in range(50)]
    assert sum(solved) >= 49


def test_collects_demonstrations_despite_noise(tmp_path) -> None:
    task_id = "ogbench/cube-single"
    episodes = collect(task_id, episodes=2, noise=0.3, seed=0)
    write_dataset(episodes, tmp_path / "demos", task_id=task_id, expert="scripted", noise=0.3, seed=0)
    demonstrations = read_dataset(tmp_path / "demos")
    assert demonstrations.task_id == task_id
    for stored, collected in zip(demonstrations.episodes, episodes, strict=True):
        np.testing.assert_array_equal(stored.observations["state"], collected.observations["state"])
        assert stored.success and stored.rewards.sum() == 1.0


@pytest.mark.long
def test_processes_give_the_same(env_of) -> None:
    task_id = "ogbench/cube-single"
    env = env_of(task_id)
    expert = make_expert(task_id, env)
    expected, chunks = [], []
    for seed in (5, 6):
        observations, actions, terminated = [env.reset(seed=seed)[0]], [], False
        while not terminated:
            actions.append(expert.act(observations[-1]))
            observation, _, terminated, _, _ = env.step(actions[-1])
            observations.append(observation)
        expert.reset()
        expected.append(np.stack(observations))
        chunks.append(np.resize(np.stack(actions), (10, 8, 5)))
    with ChunkedVectorEnv(task_id, 2, 8, processes=True) as envs:
        first = envs.reset([5, 6])
        results = [envs.step(chunk) for chunk in np.stack(chunks, axis=1)]
    for slot in range(2):
        reached = [result.observations["state"][slot, : result.steps[slot]] for result in results]
        np.testing.assert_array_equal(
            np.concatenate([first["state"][slot : slot + 1], *reached]), expected[slot]
        )
        assert sum(int(result.success[slot]) for result in results) == 1


SILENT = """
import numpy as np
from otpr.envs import make_env, make_expert
env = make_env("ogbench/scene-task1")
expert = make_expert("ogbench/scene-task1", env)
for seed in range(2):
    observation, _ = env.reset(seed=seed)
    for _ in range(3):
        observation, *_ = env.step(expert.act(observation))
assert env.simulator.env._renderer is None
env.close()
"""

RENDER = """
import json
import numpy as np
from otpr.envs import make_env
env = make_env("ogbench/cube-single", render_mode="rgb_array")
env.reset(seed=0)
picture = env.render().astype(int)
env.close()
red = (picture[..., 0] > 100) & (picture[..., 1:].max(-1) < 60)  # the cube on the floor
bright = picture.min(-1) > 110  # the arm
print(json.dumps({
    "shape": picture.shape,
    "cube": np.argwhere(red).mean(0).tolist(),
    "arm": np.argwhere(bright).mean(0).tolist(),
}))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    without_display = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**without_display, **environment},
    )


def test_is_silent_where_there_is_no_display() -> None:
    result = python(SILENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.long
def test_picture_is_upright() -> None:
    # In a process of its own, because the rendering backend is chosen once, when MuJoCo is imported.
    try:
        import mujoco.egl  # noqa: F401
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no EGL here: {error}")
    result = python(RENDER, MUJOCO_GL="egl")
    if "EGL" in result.stderr and result.returncode != 0:
        pytest.skip("EGL does not render here")
    assert result.returncode == 0, result.stderr
    picture = json.loads(result.stdout)
    assert picture["shape"] == [256, 256, 3]
    # The arm comes down from above to the cube, which lies in the middle.
    assert picture["arm"][0] < 110 < 150 < picture["cube"][0]
    assert abs(picture["cube"][1] - 128) < 30
