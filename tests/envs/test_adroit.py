from __future__ import annotations

import numpy as np
import pytest

from otpr.envs import make_env
from otpr.envs.task_env import TaskEnv

TASKS = ["adroit/pen", "adroit/door", "adroit/hammer", "adroit/relocate"]


def put_before_success(env: TaskEnv) -> None:
    """Set the package's state to one that counts as solved."""
    simulator = env.simulator.env
    wanted = simulator._state_space.spaces
    state = {name: value for name, value in simulator.get_env_state().items() if name in wanted}
    match type(simulator).__name__:
        case "AdroitHandPenEnv":
            state["desired_orien"] = simulator.model.body("Object").quat.copy()
        case "AdroitHandDoorEnv":
            state["qpos"][simulator.model.joint("door_hinge").qposadr[0]] = 1.4  # radians
        case "AdroitHandHammerEnv":
            state["qpos"][simulator.model.joint("nail_dir").qposadr[0]] = 0.09  # metres
        case "AdroitHandRelocateEnv":
            state["obj_pos"] = state["target_pos"]
    simulator.set_env_state(state)


@pytest.mark.parametrize("task_id", TASKS)
def test_success_pays_one_and_ends_the_episode(task_id: str) -> None:
    env = make_env(task_id)
    still = np.zeros(env.action_space.shape or (), np.float32)
    env.reset(seed=0)
    assert env.step(still)[1:] == (0.0, False, False, {"success": False})
    put_before_success(env)
    assert env.step(still)[1:] == (1.0, True, False, {"success": True})
    env.close()


def test_a_pen_that_rolls_into_place_is_success_too() -> None:
    """A real episode that ends in success: the definition is the package's, and looks at one step only."""
    env = make_env("adroit/pen")
    env.reset(seed=1)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.zeros(24, np.float32))
        assert not truncated
        assert info["success"] == terminated
        rewards.append(reward)
    assert 5 < len(rewards) < 50
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    env.close()


@pytest.mark.parametrize(
    ("task_id", "first"),
    [("adroit/pen", 0), ("adroit/door", 1), ("adroit/hammer", 0), ("adroit/relocate", 0)],
)
def test_minus_one_and_one_are_the_ends_of_a_joint_s_range(task_id: str, first: int) -> None:
    """Joint by joint: the action's order is the observation's, but that `door` has one more before them."""
    env = make_env(task_id)
    model = env.simulator.env.model
    names = [model.actuator(i).name.removeprefix("A_") for i in range(model.nu)]
    assert names == [model.joint(i).name for i in range(model.nu)]
    for name in ("FFJ2", "MFJ2", "THJ3"):  # fingers that are free to bend
        joint = names.index(name)
        reached = []
        for command in (-1.0, 0.0, 1.0):
            action = np.zeros(model.nu, np.float32)
            action[joint] = command
            env.reset(seed=0)
            for _ in range(20):
                observation, *_ = env.step(action)
            reached.append(float(observation[joint - first]))
        low, high = model.actuator_ctrlrange[joint]
        assert reached[0] < reached[1] < reached[2]
        np.testing.assert_allclose(reached, [low, (low + high) / 2, high], atol=0.25 * (high - low))
    env.close()


def test_the_sparse_and_the_dense_variant_differ_in_their_reward_alone() -> None:
    """So that data sets recorded on either fit; and our reward is neither the 10 of the one nor the other."""
    from otpr.envs.robotics import environment_class

    make = environment_class("adroit_hand.adroit_door:AdroitHandDoorEnv")
    sparse, dense = make(reward_type="sparse"), make(reward_type="dense")
    observations = [variant.reset(seed=3)[0] for variant in (sparse, dense)]
    np.testing.assert_array_equal(*observations)
    action = np.full(28, 0.3)
    one, other = sparse.step(action), dense.step(action)
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == pytest.approx(-0.1)
    assert one[4] == other[4]
