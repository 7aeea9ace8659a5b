from __future__ import annotations

import json
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from otpr.data.collect import collect
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.seeds import evaluation_seed
from otpr.envs import list_tasks, make_env, make_expert, task_spec
from otpr.envs.chunked import ChunkedVectorEnv

TASKS = [spec.id for spec in list_tasks() if spec.extra == "robosuite"]
LIFT = "robosuite/lift"
CAN = "robosuite/can"


@pytest.fixture(scope="module")
def lift():
    env = make_env(LIFT)
    yield env
    env.close()


@pytest.fixture(scope="module")
def can():
    env = make_env(CAN)
    yield env
    env.close()


def trajectory(env, seed: int, steps: int) -> np.ndarray:
    """Observations under large, slowly changing actions, downwards into the objects."""
    generator = np.random.default_rng(0)
    observations = [env.reset(seed=seed)[0]]
    for step in range(steps):
        if step % 8 == 0:
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            action[2::7] = -0.6
        observation, _, terminated, _, _ = env.step(action)
        observations.append(observation)
        if terminated:
            break
    return np.stack(observations)


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """The matrix of a quaternion in robosuite's order, x y z w."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.roll(quaternion.astype(np.float64), 1))
    return matrix.reshape(3, 3)


def check_task(task_id: str) -> None:
    """Dimensions; the seed fixes the episode whatever was run before; different seeds differ."""
    spec = task_spec(task_id).spec
    fresh, used = make_env(task_id), make_env(task_id)
    expected = trajectory(fresh, 7, 40)
    assert expected.shape == (41, *spec.observation["state"].shape)
    assert expected.dtype == np.float32
    assert fresh.simulator.env.action_dim == spec.action_dim == fresh.action_space.shape[0]
    assert fresh.simulator.env.control_freq == spec.control_rate
    for seed in (3, 4):
        trajectory(used, seed, 100)
    np.testing.assert_array_equal(trajectory(used, 7, 40), expected)
    assert np.abs(trajectory(used, 8, 0)[0] - expected[0]).max() > 1e-2
    fresh.close()
    used.close()


@pytest.mark.long
@pytest.mark.parametrize("task_id", [LIFT, CAN])
def test_dimensions_and_seeds(task_id: str) -> None:
    check_task(task_id)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", [task_id for task_id in TASKS if task_id not in (LIFT, CAN)])
def test_dimensions_and_seeds_of_the_other_tasks(task_id: str) -> None:
    check_task(task_id)


def test_tasks_and_limits_are_robomimic_s() -> None:
    assert {task_id: task_spec(task_id).episode_limit for task_id in TASKS} == {
        "robosuite/can": 400,
        "robosuite/lift": 400,
        "robosuite/square": 400,
        "robosuite/tool-hang": 700,
        "robosuite/transport": 700,
    }
    assert task_spec(LIFT).observation_keys == (
        "robot0_eef_pos",
        "robot0_eef_quat",
        "robot0_gripper_qpos",
        "object",
    )
    assert task_spec("robosuite/transport").observation_keys == (
        "robot0_eef_pos",
        "robot0_eef_quat",
        "robot0_gripper_qpos",
        "robot1_eef_pos",
        "robot1_eef_quat",
        "robot1_gripper_qpos",
        "object",
    )


@pytest.mark.long
def test_the_same_seed_in_another_process(lift) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7)).astype(np.float32)
    actions[..., 2] = -0.5
    with ChunkedVectorEnv(LIFT, num_envs=1, execute=12, processes=True) as envs:
        first = envs.reset([11])
        there = envs.step(actions[None]).observations["state"]
    np.testing.assert_array_equal(lift.reset(seed=11)[0], first["state"][0])
    np.testing.assert_array_equal([lift.step(action)[0] for action in actions], there[0])


def test_observation_of_lift_in_robomimic_s_order(lift) -> None:
    observation = trajectory(lift, 5, 30)[-1]
    data, model = lift.simulator.env.sim.data, lift.simulator.env.sim.model
    hand = data.site_xpos[model.site_name2id("gripper0_right_grip_site")]
    cube = model.body_name2id("cube_main")
    np.testing.assert_allclose(observation[:3], hand, atol=1e-6)
    turn = np.roll(data.get_body_xquat("robot0_right_hand"), -1)  # w x y z to x y z w
    np.testing.assert_allclose(observation[3:7], turn, atol=1e-6)
    assert 0 <= observation[7] <= 0.04 and -0.04 <= observation[8] <= 0  # two fingers, metres
    np.testing.assert_allclose(observation[9:12], data.body_xpos[cube], atol=1e-6)
    np.testing.assert_allclose(observation[12:16], np.roll(data.body_xquat[cube], -1), atol=1e-6)
    # robosuite 1.5 has it the other way round than robomimic's v1 files.
    np.testing.assert_allclose(observation[16:], hand - data.body_xpos[cube], atol=1e-6)


def test_relative_poses_of_can_are_those_of_this_very_step(can) -> None:
    # robosuite 1.5 computes them out of what was seen before, which is nothing in the first observation.
    for observation in trajectory(can, 5, 30)[[0, 1, 30]]:
        hand, turned = observation[:3], rotation(observation[3:7])
        thing, relative = observation[9:12], observation[16:19]
        np.testing.assert_allclose(turned @ relative + hand, thing, atol=1e-5)
        np.testing.assert_allclose(
            turned @ rotation(observation[19:23]), rotation(observation[12:16]), atol=1e-5
        )
        assert np.linalg.norm(relative) > 0.1


def test_success_pays_one_and_ends_the_episode(lift) -> None:
    expert = make_expert(LIFT, lift)
    observation, info = lift.reset(seed=1)
    assert info == {"success": False}
    outcomes = []
    for _ in range(100):
        action = expert.act(observation)
        assert lift.action_space.contains(action)
        observation, *outcome = lift.step(action)
        outcomes.append((outcome[0], outcome[1], outcome[2], outcome[3]["success"]))
        if outcome[1]:
            break
    assert 20 < len(outcomes) < 50
    assert set(outcomes[:-1]) == {(0.0, False, False, False)}
    assert outcomes[-1] == (1.0, True, False, True)
    assert observation[11] > 0.84  # the cube's centre, metres: 4 cm above the table, which is at 0.80
    with pytest.raises(ResetNeeded):
        lift.step(np.zeros(7, np.float32))


def test_truncated_at_exactly_400_steps(lift) -> None:
    lift.reset(seed=2)
    outcomes = [lift.step(np.zeros(7, np.float32))[1:4] for _ in range(400)]
    assert outcomes == [(0.0, False, False)] * 399 + [(0.0, False, True)]


def test_actions_are_clipped_and_must_be_finite(lift) -> None:
    reached = []
    for action in ([1, -1, 0.5, 0, 0, 1, 1], [7, -9, 0.5, 0, 0, 3, 4]):
        lift.reset(seed=2)
        for _ in range(5):
            observation, *_ = lift.step(np.array(action, np.float32))
        reached.append(observation)
    np.testing.assert_array_equal(*reached)
    with pytest.raises(ValueError, match="finite"):
        lift.step(np.full(7, np.nan, np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_actions_displace_the_hand_along_the_world_s_axes(lift, axis: int) -> None:
    action = np.zeros(7, np.float32)
    action[axis] = 0.2
    start, _ = lift.reset(seed=3)
    for _ in range(20):
        observation, *_ = lift.step(action)
    moved = observation[:3] - start[:3]
    # The target leads the hand by a centimetre, a fifth of 5 cm, of which it makes some part in each step.
    assert 0.03 < moved[axis] < 0.2
    assert np.abs(np.delete(moved, axis)).max() < 0.02


def test_actions_turn_the_hand_about_the_world_s_axes_and_move_the_fingers(lift) -> None:
    start, _ = lift.reset(seed=3)
    for _ in range(10):
        closed, *_ = lift.step(np.array([0, 0, 0, 0, 0, 0.5, 1], np.float32))
    turn = rotation(closed[3:7]) @ rotation(start[3:7]).T
    assert turn[1, 0] > 0.2  # anticlockwise seen from above
    assert turn[2, 2] > 0.99
    lift.reset(seed=3)
    for _ in range(10):
        opened, *_ = lift.step(np.array([0, 0, 0, 0, 0, 0, -1], np.float32))
    assert closed[7] < start[7] < opened[7]


@pytest.mark.slow
def test_both_arms_of_transport_move_along_the_world_s_axes() -> None:
    # robosuite 1.5's default is each arm's own base, and these stand turned by a quarter to either side.
    env = make_env("robosuite/transport")
    for arm in (0, 1):
        action = np.zeros(14, np.float32)
        action[7 * arm] = 0.2
        start, _ = env.reset(seed=3)
        for _ in range(20):
            observation, *_ = env.step(action)
        moved = (observation - start)[9 * arm : 9 * arm + 3]
        assert moved[0] > 0.03
        assert np.abs(moved[1:]).max() < 0.02
    env.close()


def run_expert(env, task_id: str, seed: int) -> int | None:
    """Steps until the task was solved; None: never."""
    expert = make_expert(task_id, env)
    observation, _ = env.reset(seed=seed)
    expert.reset()
    for step in range(1, task_spec(task_id).episode_limit + 1):
        observation, _, terminated, _, _ = env.step(expert.act(observation))
        if terminated:
            return step
    return None


def test_experts_solve_lift_and_can(lift, can) -> None:
    for seed in range(4):
        steps = run_expert(lift, LIFT, evaluation_seed(seed))
        assert steps is not None and steps < 50
    steps = run_expert(can, CAN, evaluation_seed(0))
    assert steps is not None and steps < 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_id", "least"),
    [
        (LIFT, 49),
        (CAN, 48),
        ("robosuite/square", 46),
        ("robosuite/transport", 40),
        ("robosuite/tool-hang", 46),
    ],
)
def test_experts_solve_nearly_all_of_fifty_episodes(task_id: str, least: int) -> None:
    env = make_env(task_id)
    solved = [run_expert(env, task_id, evaluation_seed(i)) is not None for i in range(50)]
    env.close()
    assert sum(solved) >= least


@pytest.mark.long
def test_the_arms_of_transport_first_clear_their_bins_at_the_same_time() -> None:
    env = make_env("robosuite/transport")
    expert = make_expert("robosuite/transport", env)
    observation, _ = env.reset(seed=evaluation_seed(0))
    expert.reset()
    group = env.simulator.env.transport
    lid = group.lid_handle_pos
    for _ in range(160):
        action = expert.act(observation)
        assert action.shape == (14,)
        assert np.abs(action).max() <= 1.0
        observation, *_ = env.step(action)
    assert group.trash_in_trash_bin
    # beside the bin, on the table; the hammer has not been touched
    assert group.lid_handle_pos[0] < lid[0] - 0.3
    assert group.lid_handle_pos[2] < 0.84
    assert np.linalg.norm(group.payload_pos[:2] - lid[:2]) < 0.05
    env.close()


@pytest.mark.long
def test_the_expert_of_tool_hang_inserts_the_frame_and_then_hangs_the_tool() -> None:
    env = make_env("robosuite/tool-hang")
    expert = make_expert("robosuite/tool-hang", env)
    observation, _ = env.reset(seed=evaluation_seed(0))
    expert.reset()
    tool = observation[37:39]
    inserted = None
    for step in range(700):
        action = expert.act(observation)
        assert action.shape == (7,)
        assert np.abs(action).max() <= 1.0
        observation, _, terminated, _, _ = env.step(action)
        if inserted is None and observation[-2] == 1:
            inserted = step
            np.testing.assert_allclose(observation[37:39], tool, atol=0.01)  # it has not been touched
        if terminated:
            break
    env.close()
    assert inserted is not None and inserted < 250
    assert terminated
    np.testing.assert_array_equal(observation[-2:], [1, 1])
    assert observation[39] > 0.9  # the tool hangs above the table


def test_an_expert_that_let_the_cube_slip_takes_it_once_more(lift) -> None:
    expert = make_expert(LIFT, lift)
    observation, _ = lift.reset(seed=0)
    expert.reset()
    for step in range(150):
        action = expert.act(observation)
        if 20 < step < 50:
            action[6] = -1  # keeps the fingers open
        observation, _, terminated, _, _ = lift.step(action)
        if terminated:
            break
    assert terminated
    assert step > 50


def test_demonstrations_are_collected_and_written(tmp_path) -> None:
    episodes = collect(LIFT, episodes=2, noise=0.3, seed=0)
    write_dataset(episodes, tmp_path / "demos", task_id=LIFT, expert="scripted", noise=0.3, seed=0)
    stored = read_dataset(tmp_path / "demos").episodes
    for one, other in zip(stored, episodes, strict=True):
        np.testing.assert_array_equal(one.observations["state"], other.observations["state"])
        assert one.success and one.rewards.sum() == 1.0


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


QUIET = """
import os, warnings
warnings.simplefilter("error")
import numpy as np
from otpr.envs import make_env
os.environ.pop("MUJOCO_GL", None)
env = make_env("robosuite/lift")
assert "MUJOCO_GL" not in os.environ
env.reset(seed=0)
env.step(np.ones(7, np.float32))
env.close()
"""


def test_prints_nothing_warns_of_nothing_and_leaves_the_environment_alone() -> None:
    result = run(QUIET)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


RENDER = """
import json
import numpy as np
from otpr.envs import make_env
env = make_env("robosuite/lift", render_mode="rgb_array")
env.reset(seed=0)
picture = env.render().astype(int)
for _ in range(10):
    env.step(np.array([0, 0, 1, 0, 0, 0, 0], np.float32))
later = env.render().astype(int)
red = (picture[..., 0] > 1.8 * picture[..., 1]) & (picture[..., 0] > 80)
change = np.abs(later - picture).sum(-1) > 60
print(json.dumps({
    "shape": picture.shape, "dtype": str(env.render().dtype), "red": int(red.sum()),
    "cube_row": float(np.nonzero(red)[0].mean()), "arm_row": float(np.nonzero(change)[0].mean()),
    "table": float(picture[-40:].mean()), "wall": float(picture[:40, :120].mean()),
}))
env.close()
"""


@pytest.mark.long
def test_picture_is_upright() -> None:
    try:
        import mujoco.egl  # noqa: F401
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no EGL here: {error}")
    result = run(RENDER, MUJOCO_GL="egl")
    if "EGL" in result.stderr and result.returncode != 0:
        pytest.skip("EGL does not render here")
    assert result.returncode == 0, result.stderr
    picture = json.loads(result.stdout)
    assert (picture["shape"], picture["dtype"]) == ([256, 256, 3], "uint8")
    # The white table is below, the grey wall above; the arm moves above the red cube.
    assert picture["table"] > 180 > 160 > picture["wall"]
    assert picture["red"] > 30
    assert picture["arm_row"] < picture["cube_row"] - 20
