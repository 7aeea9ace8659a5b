"""Answers of environments: each gives the right value or an error with advice; the advice is followed."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Sequence, Text, Tuple
from gymnasium.wrappers import FilterObservation, FlattenObservation, TimeLimit, TransformObservation

from otpr.envs import user_answers as answers
from otpr.envs.task_env import TaskEnv
from otpr.envs.user_env import GymSimulator
from otpr.errors import OtprError

YES_AND_NO = [
    (True, True),
    (np.False_, False),
    (1, True),
    (0.0, False),
    (np.float32(1), True),
    (np.array([True]), True),
    (np.array([[0]], np.uint8), False),
    (np.array(True), True),
    (jnp.asarray([False]), False),
]
NEITHER = [
    0.3,
    2,
    -1,
    float("nan"),
    "False",
    "",
    [False],
    (True,),
    [],
    np.array([True, False]),
    np.array([]),
    np.array(["x"]),
    {"a": True},
    None,
]


@pytest.mark.parametrize(("given", "expected"), YES_AND_NO)
def test_flags(given: Any, expected: bool) -> None:
    assert answers.flag(given, "it") is expected


@pytest.mark.parametrize("given", NEITHER)
def test_what_is_no_flag_is_shown(given: Any) -> None:
    with pytest.raises(OtprError) as refused:
        answers.flag(given, "terminated")
    assert str(refused.value).startswith(f"terminated is {given!r}, expected True or False, 0 or 1,")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"success": None}, None),
        ({"success": None, "is_success": True}, True),
        ({"success": False, "is_success": None}, False),
        ({"success": 1, "is_success": np.True_}, True),
        ({"is_success": np.array([0.0])}, False),
    ],
)
def test_success(info: dict[str, Any], expected: bool | None) -> None:
    assert answers.success(info) is expected


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"success": "False"}, r"info\['success'\] is 'False', expected"),
        ({"success": True, "is_success": [True] * 50}, r"info\['is_success'\] is \[True, .*\.\.\., expected"),
        ({"success": True, "is_success": False}, r"is True and info\['is_success'\] is False: leave out"),
        (None, "info is None, expected a dictionary"),
    ],
)
def test_doubtful_success(info: Any, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        answers.success(info)


@pytest.mark.parametrize("given", [2.5, np.array([2.5]), np.float16(2.5), jnp.asarray(2.5)])
def test_rewards(given: Any) -> None:
    assert answers.number(given, "the reward") == 2.5


@pytest.mark.parametrize("given", [None, "2", [2.5], np.array([1.0, 2.0]), 1j])
def test_what_is_no_reward(given: Any) -> None:
    with pytest.raises(OtprError, match=r"the reward is .* expected one real number"):
        answers.number(given, "the reward")


SPACE = Dict({"b": Box(-9, 9, (2,)), "a": Tuple((Box(-9, 9, (1,)), Box(0, 255, (), np.uint8)))})


def flat(space: gymnasium.Space[Any], given: Any) -> np.ndarray:
    return np.concatenate(list(answers.parts(space, given).values()))


def test_observations_are_flattened_as_gymnasium_does() -> None:
    given = {"b": [1, 2.5], "a": (np.array([-3]), 200)}
    arrays = {"b": np.array([1, 2.5]), "a": (np.array([-3.0]), np.array(200))}
    expected = gymnasium.spaces.flatten(SPACE, arrays)
    np.testing.assert_array_equal(flat(SPACE, given), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        # as many numbers as expected, but not where they belong
        ({"b": [1], "a": ([1, 2], 3)}, r"the part 'a/0' of an observation has shape \(2,\), expected \(1,\)"),
        ({"b": [1, 2], "a": ([1], 3), "c": 1}, r"has the entries \['a', 'b', 'c'\], expected \['a', 'b'\]"),
        ({"b": [1, 2]}, r"has the entries \['b'\], expected"),
        ({"b": [1, 2], "a": [[1]]}, r"the part 'a' .* is \[\[1\]\], expected 2 parts"),
        ({"b": ["x", "y"], "a": ([1], 3)}, r"the part 'b' .* is \['x', 'y'\], expected an array of numbers"),
        ({"b": [1e300, 2], "a": ([1], 3)}, r"the part 'b' .* holds 1e\+300, too large for float32"),
        (np.zeros(4), r"an observation has the entries array.*, expected \['a', 'b'\]"),
    ],
)
def test_observations_that_leave_their_space(given: Any, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        flat(SPACE, given)


class Odd(gymnasium.Env[Any, Any]):
    """One step, with the space and the observation given."""

    action_space = Box(-1, 1, (1,))

    def __init__(self, space: gymnasium.Space[Any], observation: Any, ending: dict[str, Any] | None = None):
        self.observation_space, self._observation = space, observation
        self._ending = {"success": True} if ending is None else ending

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return self._observation, {}

    def step(self, action: Any) -> Any:
        return self._observation, np.array([0.5]), np.array([False]), 0, self._ending


def state(env: gymnasium.Env[Any, Any]) -> list[float]:
    simulator = GymSimulator(env, "task")
    return simulator.reset(0).tolist()


VECTOR = np.array([0.25, 0.5], np.float32)
BOX = Box(-1, 1, (2,))


@pytest.mark.parametrize("kind", [Dict({"a": BOX, "mode": Discrete(3)}), Tuple((BOX, Discrete(3)))])
def test_advice_for_counts(kind: gymnasium.Space[Any]) -> None:
    env = Odd(kind, {"a": VECTOR, "mode": 1} if isinstance(kind, Dict) else (VECTOR, 1))
    with pytest.raises(OtprError, match=r"^task: .* holds Discrete\(3\)\. Wrap .*FlattenObservation\(env\)"):
        state(env)
    assert state(FlattenObservation(env)) == [0.25, 0.5, 0, 1, 0]


def test_advice_for_texts() -> None:
    env = Odd(Dict({"a": BOX, "mission": Text(9)}), {"a": VECTOR, "mission": "go"})
    advice = r"the part 'mission' holds Text.*gymnasium\.wrappers\.FilterObservation\(env, \['a'\]\)"
    with pytest.raises(OtprError, match=advice):
        state(env)
    assert state(FilterObservation(env, ["a"])) == VECTOR.tolist()


def test_advice_for_sequences() -> None:
    env = Odd(Sequence(BOX), (VECTOR, 2 * VECTOR))
    with pytest.raises(OtprError, match=r"hold Sequence.*the function makes such a vector of an observation"):
        state(env)
    assert state(TransformObservation(env, lambda seen: seen[0], BOX)) == VECTOR.tolist()


def test_arrays_of_one_and_numbers_are_read() -> None:
    simulator = GymSimulator(Odd(BOX, VECTOR.tolist(), {"success": np.array([1])}), "task")
    outcome = simulator.step(np.zeros(1, np.float32))
    assert (outcome.reward, outcome.success, outcome.terminated, outcome.truncated) == (
        0.5,
        True,
        False,
        False,
    )
    assert all(type(value) is bool for value in outcome[2:])


@pytest.mark.parametrize("limited", [True, False])
def test_success_must_be_told_when_the_limit_ends_the_episode(limited: bool) -> None:
    """Also where the limit is otpr's own, of which the environment knows nothing."""
    env = Odd(BOX, VECTOR, {})
    simulator = GymSimulator(TimeLimit(env, 2) if limited else env, "task")
    task = TaskEnv(simulator, task_id="task", spec=simulator.spec, episode_limit=2)
    task.reset(seed=0)
    assert task.step(np.zeros(1, np.float32))[4] == {"success": False}
    with pytest.raises(OtprError, match="nothing tells success from failure"):
        task.step(np.zeros(1, np.float32))


def test_an_older_interface_is_told() -> None:
    class Older(Odd):
        def step(self, action: Any) -> Any:
            return super().step(action)[:4]

        def reset(self):
            return self._observation

    bare = GymSimulator(Older(BOX, VECTOR), "task")
    with pytest.raises(
        OtprError, match=r"step\(\): returned 4 values, expected 5: return observation, reward"
    ):
        bare.step(np.zeros(1, np.float32))
    with pytest.raises(OtprError, match=r"def reset\(self, \*, seed=None, options=None\)"):
        bare.reset(0)
    wrapped = GymSimulator(TimeLimit(Older(BOX, VECTOR), 3), "task")
    wrapped.env._elapsed_steps = 0
    with pytest.raises(
        OtprError, match=r"step\(\) must return observation, reward, terminated, truncated, info"
    ):
        wrapped.step(np.zeros(1, np.float32))
