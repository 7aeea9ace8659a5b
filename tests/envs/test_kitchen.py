from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from otpr.envs import make_env, task_spec
from otpr.envs.kitchen import SUBTASKS, KitchenSimulator
from otpr.envs.task_env import TaskEnv

# Where the hand goes, in metres. In front of the kettle and through it, towards the burner behind it:
KETTLE = [(-0.27, 0.12, 1.80), (-0.27, 0.45, 1.80)]
# To the left of the handle of the slide cabinet, and to the right:
SLIDE_CABINET = [(-0.40, 0.30, 2.50), (-0.25, 0.50, 2.60), (-0.20, 0.62, 2.60), (0.30, 0.62, 2.60)]


def kitchen(*subtasks: str) -> TaskEnv:
    simulator = KitchenSimulator(subtasks, None)
    return TaskEnv(simulator, task_id="kitchen", spec=task_spec("kitchen/mixed").spec, episode_limit=280)


def follow(env: TaskEnv, waypoints: list[tuple[float, float, float]]) -> Iterator[tuple]:
    """Move the hand along the waypoints by joint velocities (damped least squares); what `step` returned."""
    robot = env.simulator.env.robot_env
    site = robot.model.site("end_effector").id
    jacobian = np.zeros((3, robot.model.nv))
    for waypoint in waypoints:
        for _ in range(40):
            way = np.array(waypoint) - robot.data.site_xpos[site]
            if np.linalg.norm(way) < 0.05:
                break
            speed = min(6.0, 0.5 / np.linalg.norm(way))  # at most half a metre a second
            mujoco.mj_jacSite(robot.model, robot.data, jacobian, None, site)
            arm = jacobian[:, :7]
            velocities = arm.T @ np.linalg.solve(arm @ arm.T + 1e-3 * np.eye(3), speed * way)
            outcome = env.step(np.append(velocities / 2, [0, 0]).astype(np.float32))
            yield outcome
            if outcome[2] or outcome[3]:
                return


def test_the_subtasks_are_those_of_d4rl() -> None:
    # D4RL, Fu et al. (2020), and the goals in the Minari sets D4RL/kitchen/{complete,partial,mixed}-v2.
    assert set(SUBTASKS["complete"]) == {"microwave", "kettle", "light switch", "slide cabinet"}
    assert set(SUBTASKS["partial"]) == {"microwave", "kettle", "light switch", "slide cabinet"}
    assert set(SUBTASKS["mixed"]) == {"microwave", "kettle", "bottom burner", "light switch"}
    env = make_env("kitchen/mixed")
    assert set(env.simulator.env.goal) == set(SUBTASKS["mixed"])
    env.close()


@pytest.fixture(scope="module")
def complete():
    env = make_env("kitchen/complete")
    yield env
    env.close()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_subtask_pays_once_when_it_is_first_done(complete, seed: int) -> None:
    """The hand pushes the kettle to the back burner, then slides the cabinet open: two of the four."""
    start, _ = complete.reset(seed=seed)
    rewards = []
    for outcome in follow(complete, KETTLE):
        observation, reward, *ends = outcome
        assert ends == [False, False, {"success": False}]
        rewards.append(reward)
    assert sorted(rewards) == [0.0] * (len(rewards) - 1) + [1.0]
    assert observation[33] - start[33] > 0.1  # the kettle's y, metres; it stands upright where it was
    assert abs(observation[34] - start[34]) < 0.02
    back = [(-0.35, 0.10, 1.90), (-0.40, 0.10, 2.30)]
    rewards = []
    for outcome in follow(complete, back + SLIDE_CABINET):
        observation, reward, *ends = outcome
        assert ends == [False, False, {"success": False}]
        rewards.append(reward)
    assert sorted(rewards) == [0.0] * (len(rewards) - 1) + [1.0]
    assert observation[28] > 0.07  # the cabinet's slide, metres: 0.37 less 0.3 counts as done


def test_the_kettle_does_not_count_where_it_is_not_asked_for() -> None:
    env = kitchen("slide cabinet")
    env.reset(seed=0)
    assert all(reward == 0.0 for _, reward, *_ in follow(env, KETTLE))
    env.close()


def test_the_last_subtask_is_success_and_ends_the_episode() -> None:
    env = kitchen("kettle")
    for seed in range(2):
        _, info = env.reset(seed=seed)
        assert info == {"success": False}
        outcomes = list(follow(env, KETTLE))
        assert [reward for _, reward, *_ in outcomes] == [0.0] * (len(outcomes) - 1) + [1.0]
        assert [terminated for _, _, terminated, _, _ in outcomes] == [False] * (len(outcomes) - 1) + [True]
        assert outcomes[-1][3:] == (False, {"success": True})
    env.close()


def test_an_action_turns_its_joint_by_at_most_two_radians_a_second(complete) -> None:
    for joint in range(7):
        start, _ = complete.reset(seed=0)
        action = np.zeros(9, np.float32)
        action[joint] = 0.5
        for _ in range(5):
            observation, *_ = complete.step(action)
        # 5 steps of 0.08 s at 1 rad/s are 0.4 rad, less the lag of the arm and what its weight does.
        assert 0.1 < observation[joint] - start[joint] < 0.4


def test_a_seed_fixes_the_noise_and_changes_nothing_else(complete) -> None:
    states = []
    for seed in (0, 1):
        observation, _ = complete.reset(seed=seed)
        again, _ = complete.reset(seed=seed)
        np.testing.assert_array_equal(observation, again)
        states.append((complete.simulator.env.data.qpos.copy(), observation))
    np.testing.assert_array_equal(states[0][0], states[1][0])
    noise = states[0][1] - states[1][1]
    assert 1e-4 < np.abs(noise[:18]).max() < 2e-3
    assert 0 < np.abs(noise[18:]).max() < 2e-4
