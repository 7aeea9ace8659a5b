from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from otpr.envs import list_tasks, make_env, make_expert

TASK = "metaworld/peg-insert-side-v3"
# One with contacts, one with a hinge, one with a tool, one whose goal is high up.
SOME_TASKS = [TASK, "metaworld/door-open-v3", "metaworld/hammer-v3", "metaworld/basketball-v3"]


@pytest.fixture(scope="module")
def env():
    env = make_env(TASK)
    yield env
    env.close()


def trajectory(env, task_id: str, seed: int, steps: int) -> np.ndarray:
    """Observations under the expert's actions mixed with noise: they touch and move the objects."""
    expert = make_expert(task_id, env)
    generator = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    observations = [observation]
    for _ in range(steps):
        action = np.clip(expert.act(observation) + 0.3 * generator.standard_normal(4), -1, 1).astype(
            np.float32
        )
        observation, _, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        if terminated or truncated:
            break
    return np.stack(observations)


def check_that_a_seed_fixes_the_episode(task_id: str, dirty_steps: int) -> None:
    fresh, used = make_env(task_id), make_env(task_id)
    expected = trajectory(fresh, task_id, 7, 30)
    for seed in (3, 4):
        trajectory(used, task_id, seed, dirty_steps)
    after_others = trajectory(used, task_id, 7, 30)
    other_seed = trajectory(used, task_id, 8, 0)
    fresh.close()
    used.close()
    assert expected.dtype == np.float32
    assert used.metadata["render_fps"] == used.simulator._simulator.metadata["render_fps"]
    np.testing.assert_array_equal(after_others, expected)
    assert not np.allclose(other_seed[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_a_seed_fixes_the_episode_whatever_was_run_before(task_id: str) -> None:
    check_that_a_seed_fixes_the_episode(task_id, dirty_steps=200)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", [spec.id for spec in list_tasks() if spec.extra == "metaworld"])
def test_a_seed_fixes_the_episode_in_every_task(task_id: str) -> None:
    check_that_a_seed_fixes_the_episode(task_id, dirty_steps=200)


def test_without_a_seed_the_stream_of_the_last_seed_goes_on(env) -> None:
    def first_observations() -> list[np.ndarray]:
        return [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]

    one, other = first_observations(), first_observations()
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one[0], one[1], atol=1e-3)
    assert not np.allclose(one[1], one[2], atol=1e-3)


def test_it_is_the_package_s_own_environment(env) -> None:
    """From one and the same initial condition, step by step as in the package's MT1 benchmark."""
    import metaworld

    benchmark = metaworld.MT1("peg-insert-side-v3", seed=0)
    reference = benchmark.train_classes["peg-insert-side-v3"]()
    reference.set_task(benchmark.train_tasks[0])
    expected, _ = reference.reset()
    draws = [np.array([0.1, 0.6, 0.02, -0.3, 0.45, 0.0]), reference._last_rand_vec]
    env.simulator._simulator._get_state_rand_vec = lambda: draws.pop(
        0
    )  # a reset draws twice, uses the second
    observation, _ = env.reset()
    del env.simulator._simulator._get_state_rand_vec
    np.testing.assert_array_equal(observation, expected.astype(np.float32))
    expert = make_expert(TASK, env)
    solved = []
    for _ in range(150):
        action = expert.act(observation)
        expected, _, _, _, info = reference.step(action)
        observation, reward, terminated, _, _ = env.step(action)
        np.testing.assert_array_equal(observation, expected.astype(np.float32))
        assert reward == info["success"]
        solved.append(terminated)
        if terminated:
            break
    reference.close()
    assert len(solved) == 95
    assert solved[-1]


def test_the_goal_is_seen_and_differs_between_seeds(env) -> None:
    goals = []
    for seed in (0, 1):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(
            observation[36:], env.simulator._simulator._target_pos.astype(np.float32)
        )
        observation, *_ = env.step(np.zeros(4, np.float32))
        np.testing.assert_array_equal(
            observation[36:], env.simulator._simulator._target_pos.astype(np.float32)
        )
        goals.append(observation[36:])
    assert np.abs(goals[0] - goals[1]).max() > 0.01
    for goal in goals:
        assert -0.32 <= goal[0] <= -0.22  # metres; the box stands at the left of the table
        assert 0.4 <= goal[1] <= 0.7


def test_reward_is_one_on_the_step_that_succeeds_and_ends_the_episode(env) -> None:
    expert = make_expert(TASK, env)
    observation, info = env.reset(seed=1)
    assert info == {"success": False}
    rewards, ends, successes = [], [], []
    for _ in range(200):
        observation, reward, terminated, truncated, info = env.step(expert.act(observation))
        assert env.observation_space.contains(observation)
        rewards.append(reward)
        ends.append(terminated)
        successes.append(info["success"])
        assert not truncated
        if terminated:
            break
    assert 40 < len(rewards) < 200
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert ends == successes == [False] * (len(rewards) - 1) + [True]
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))


def test_truncated_at_exactly_200_steps_again_and_again(env) -> None:
    # Three in a row: the package refuses to go on 500 steps after a reset, and must not be brought to it.
    for seed in range(3):
        env.reset(seed=seed)
        outcome = [env.step(np.zeros(4, np.float32))[1:] for _ in range(200)]
        assert [truncated for _, _, truncated, _ in outcome] == [False] * 199 + [True]
        assert {(reward, terminated) for reward, terminated, _, _ in outcome} == {(0.0, False)}
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))


def test_needs_a_reset_first() -> None:
    env = make_env(TASK)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))
    env.close()


def test_actions_are_clipped_and_must_be_finite(env) -> None:
    reached = []
    for action in ([1, -1, 0.5, 1], [7, -9, 0.5, 3]):
        env.reset(seed=2)
        for _ in range(10):
            observation, *_ = env.step(np.array(action, np.float32))
        reached.append(observation)
    np.testing.assert_array_equal(*reached)
    before, _ = env.reset(seed=2)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([0, 0, np.nan, 0], np.float32))
    after, *_ = env.step(np.array([1, 0, 0, 0], np.float32))
    assert after[0] > before[0]


def test_moves_at_most_a_centimetre_a_step_along_the_action(env) -> None:
    start, _ = env.reset(seed=3)
    for _ in range(20):
        observation, *_ = env.step(np.array([0.5, 0, 0, 0], np.float32))
    moved = observation[:3] - start[:3]
    assert 0.06 < moved[0] <= 0.11  # 20 steps of half a centimetre, less the lag of the controller
    assert np.abs(moved[1:]).max() < 0.02


def test_other_render_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="rgb_array"):
        make_env(TASK, render_mode="human")


def test_expert_solves_most_episodes_within_the_limit(env) -> None:
    # 200 seeds gave .91.
    expert = make_expert(TASK, env)
    solved = 0
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            action = expert.act(observation)
            assert env.action_space.contains(action)
            observation, _, terminated, truncated, _ = env.step(action)
        solved += terminated
    assert 15 <= solved <= 20


def test_expert_is_silent_and_leaves_the_warning_filters_alone(env) -> None:
    observation, _ = env.reset(seed=0)
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_expert(TASK, env).act(observation)
    assert caught == []
    assert list(warnings.filters) == filters


RENDER = """
import json, sys
import numpy as np
from otpr.envs import make_env
env = make_env("metaworld/peg-insert-side-v3", render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
for _ in range(20):
    env.step(np.array([0, 0, 1, 0], np.float32))
later = env.render()
env.close()
red = (later[..., 0] > 100) & (later[..., 1:].max(-1) < 60)  # the arm
before = (first[..., 0] > 100) & (first[..., 1:].max(-1) < 60)
rows = np.arange(256)
print(json.dumps({
    "shape": first.shape, "dtype": str(first.dtype),
    "top": float(first[:20].std((0, 1)).max()), "bottom": float(first[-20:].std((0, 1)).max()),
    "rise": float((before.any(1).argmax() - red.any(1).argmax())),
}))
"""


def test_picture_is_upright() -> None:
    # In a process of its own, because the rendering backend is chosen once, when MuJoCo is imported.
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    try:
        import mujoco.egl  # noqa: F401
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no EGL here: {error}")
    result = subprocess.run(
        [sys.executable, "-c", RENDER], capture_output=True, text=True, check=False, env=environment
    )
    if "EGL" in result.stderr and result.returncode != 0:
        pytest.skip("EGL does not render here")
    assert result.returncode == 0, result.stderr
    picture = json.loads(result.stdout)
    assert (picture["shape"], picture["dtype"]) == ([256, 256, 3], "uint8")
    # Above is the evenly grey background, below are table and floor; and the arm, lifted, rises.
    assert picture["top"] < 1.0 < 10.0 < picture["bottom"]
    assert picture["rise"] > 3
