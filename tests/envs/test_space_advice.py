"""The advice on spaces is followed, as it is printed, and what comes of it is a task."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Space, Text, Tuple

from otpr.envs.space_advice import action_advice, observation_advice
from otpr.envs.user_env import GymSimulator
from otpr.errors import OtprError
from otpr.spec import Entry

VECTOR = Box(-9, 9, (2,))


class Shows(gymnasium.Env):
    """Shows a sample of its observation space, and keeps the actions it is given."""

    def __init__(self, observation_space: Space[Any] = VECTOR, action_space: Space[Any] = VECTOR):
        self.observation_space, self.action_space = observation_space, action_space
        self.given: list[Any] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.given.append(action)
        return self.shown, 0.0, False, False, {"success": False}


def followed(env: Shows, advice: str, **names: Any) -> gymnasium.Env[Any, Any]:
    """The environment wrapped as the advice says."""
    (code,) = re.findall(r"gymnasium\.wrappers\.\w+\(.*\)(?=[.:])", advice)
    return eval(code, {"gymnasium": gymnasium, "env": env, "low": -2.0, "high": 3.0, **names})


@pytest.mark.parametrize(
    ("space", "length"),
    [
        (Discrete(5), 5),
        (MultiDiscrete([2, 3]), 5),
        (MultiBinary(4), 4),
        (Tuple((VECTOR, Discrete(3))), 5),
        (Dict(a=VECTOR, mode=Discrete(3, start=1), on=MultiBinary(2)), 7),
        (Dict(a=VECTOR, mission=Text(9)), 2),
        (Dict(a=VECTOR, mode=Discrete(3), many=Sequence(VECTOR)), 5),
        (Dict(a=Tuple((VECTOR, VECTOR)), mission=Text(9)), 4),
    ],
)
def test_of_an_observation(space: Space[Any], length: int) -> None:
    env = Shows(space)
    with pytest.raises(OtprError, match=re.escape(observation_advice(space))):
        GymSimulator(env, "task")
    simulator = GymSimulator(followed(env, observation_advice(space)), "task")
    assert simulator.spec.observation["state"].shape == (length,)
    seen = simulator.reset(0)
    flat = gymnasium.spaces.flatten(space, env.shown) if length > 2 and _flat(space) else seen
    np.testing.assert_array_equal(seen, flat)
    assert simulator.reset(0).tolist() == seen.tolist()


def _flat(space: Space[Any]) -> bool:
    return not isinstance(space, Dict) or not {"mission", "many"} & set(space)


def test_of_an_observation_without_any_numbers() -> None:
    advice = observation_advice(Text(9))
    wrapped = followed(
        Shows(Text(9)), advice, function=lambda text: np.array([len(text)], np.float32), space=Box(0, 9, (1,))
    )
    simulator = GymSimulator(wrapped, "task")
    assert simulator.spec.observation == {"state": Entry((1,))}
    assert simulator.reset(0).shape == (1,)


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (Discrete(4), [0, 3, 2]),
        (Discrete(3, start=-1), [-1, 1, 0]),
        (MultiBinary(3), [[0, 0, 0], [1, 1, 1], [1, 1, 1]]),
        (Box(-1, 1, (2, 2)), [-np.ones((2, 2)), np.ones((2, 2)), np.full((2, 2), 0.1)]),
        (Box(0, 4, ()), [0, 4, 2.2]),
        (Box(np.array([[0, -1]]), np.array([[2, 1]])), [[[0, -1]], [[2, 1]], [[1.1, 0.1]]]),
        (Box(-np.inf, np.inf, (2,)), [[-2, -2], [3, 3], [0.75, 0.75]]),
        (Box(-np.inf, np.inf, (2, 1)), [[[-2], [-2]], [[3], [3]], [[0.75], [0.75]]]),
    ],
)
def test_of_an_action(space: Space[Any], given: list[Any]) -> None:
    env = Shows(action_space=space)
    with pytest.raises(OtprError, match=re.escape(action_advice(space))):
        GymSimulator(env, "task")
    simulator = GymSimulator(followed(env, action_advice(space)), "task")
    simulator.reset(0)
    for unit in (-1.0, 1.0, 0.1):
        simulator.step(np.full(simulator.spec.action_dim, unit, np.float32))
    for one, expected in zip(env.given, given, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-6)
