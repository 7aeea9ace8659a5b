"""`TaskEnv` and `EnvGroup` with observations of several entries, which no simulator here has."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from otpr.envs import Setup, env_group
from otpr.envs.env_group import EnvGroup
from otpr.envs.registry import TaskSpec
from otpr.envs.task_env import TaskEnv, sparse
from otpr.errors import OtprError
from otpr.spec import Entry, Spec

ENTRIES = {
    "camera": Entry((2, 3, 3), "uint8", "image"),
    "joints": Entry((4,)),
    "wrench": Entry((6,), "float64"),
}
SPEC = Spec(ENTRIES, (-1.0,), (1.0,), control_rate=12.5)
LIMIT = 5


class Counter:
    """Shows the number of steps so far, in every entry; the action is not looked at."""

    def __init__(self, **spoilt: Any):
        self.spoilt = spoilt

    def observe(self) -> dict[str, Any]:
        plain = {name: np.full(entry.shape, self.steps) for name, entry in ENTRIES.items()}
        return {**plain, "camera": plain["camera"].astype(np.uint8), **self.spoilt}

    def reset(self, seed: int):
        self.steps = seed
        return self.observe()

    def step(self, action: np.ndarray):
        self.steps += 1
        return sparse(self.observe(), solved=False)

    def close(self) -> None:
        pass


def env_of(simulator: Any) -> TaskEnv:
    return TaskEnv(simulator, task_id="counter", spec=SPEC, episode_limit=LIMIT)


def test_several_entries_come_as_a_dictionary_in_their_own_types() -> None:
    env = env_of(Counter())
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    observation, _ = env.reset(seed=7)
    assert env.observation_space.contains(observation)
    assert {name: array.dtype.name for name, array in observation.items()} == {
        "camera": "uint8",
        "joints": "float32",
        "wrench": "float64",
    }
    observation, *_ = env.step(np.zeros(1, np.float32))
    assert all((array == 8).all() for array in observation.values())
    assert env.metadata["render_fps"] == 12


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"joints": np.zeros(3)}, r"entry 'joints' has shape \(3,\), expected \(4,\)"),
        ({"camera": np.zeros((2, 3, 3))}, r"entry 'camera' has .* of float64, expected \(2, 3, 3\) of uint8"),
        ({"depth": np.zeros(2)}, r"has the entries \['camera', 'depth', 'joints', 'wrench'\], expected \["),
    ],
)
def test_what_does_not_fit_the_spec_is_refused(spoilt: dict[str, Any], message: str) -> None:
    with pytest.raises(OtprError, match=f"^counter: .*{message}.*keep to its observation space"):
        env_of(Counter(**spoilt)).reset(seed=0)


def test_a_group_keeps_every_entry_in_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskSpec(Setup("counter"), "", "", True, SPEC, LIMIT, expert=False)
    monkeypatch.setattr(env_group, "task_spec", lambda task_id: task)
    monkeypatch.setattr(env_group, "make_env", lambda setup: env_of(Counter()))
    group = EnvGroup(Setup("counter"), 2, 4, 1)
    first = group.reset([10, None])
    assert {name: (entry.shape, entry.dtype.name) for name, entry in first.items()} == {
        name: ((2, *entry.shape), entry.dtype) for name, entry in ENTRIES.items()
    }
    for expected in ([11, 12, 13, 14], [15, 15, 15, 15]):  # the limit is in the middle of the second four
        seen = group.step(np.zeros((2, 4, 1), np.float32)).observations
        for name, entry in ENTRIES.items():
            wanted = np.zeros((2, 4, *entry.shape), entry.dtype)
            wanted[0] = np.reshape(expected, (4, *[1] * len(entry.shape)))
            np.testing.assert_array_equal(seen[name], wanted, strict=True)
    assert first["joints"][0].tolist() == [10.0] * 4  # not changed by what came later
