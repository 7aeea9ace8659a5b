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

    def __init__(self, ends: int | None = None, **spoilt: Any):
        self.ends, self.spoilt = ends, spoilt

    def observe(self) -> dict[str, Any]:
        plain = {name: np.full(entry.shape, self.steps) for name, entry in ENTRIES.items()}
        return {**plain, "camera": plain["camera"].astype(np.uint8), **self.spoilt}

    def reset(self, seed: int):
        self.steps = seed
        return self.observe()

    def step(self, action: np.ndarray):
        self.steps += 1
        return sparse(self.observe(), solved=self.steps == self.ends)

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


def group_of(
    monkeypatch: pytest.MonkeyPatch, execute: int, history: int, ends: int | None = None
) -> EnvGroup:
    task = TaskSpec(Setup("counter"), "", "", True, SPEC, LIMIT, expert=False)
    monkeypatch.setattr(env_group, "task_spec", lambda setup: task)
    monkeypatch.setattr(env_group, "make_env", lambda setup: env_of(Counter(ends=ends)))
    return EnvGroup(Setup("counter"), 2, execute, history)


def test_a_group_keeps_every_entry_in_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(monkeypatch, execute=4, history=1)
    first = group.reset([10, None])
    assert {name: (entry.shape, entry.dtype.name) for name, entry in first.items()} == {
        name: ((2, *entry.shape), entry.dtype) for name, entry in ENTRIES.items()
    }
    for expected in ([11, 12, 13, 14], [15, 15, 15, 15]):  # the limit is in the middle of the second four
        step = group.step(np.zeros((2, 4, 1), np.float32))
        for name, entry in SPEC.vectors.items():
            wanted = np.zeros((2, 4, *entry.shape), entry.dtype)
            wanted[0] = np.reshape(expected, (4, *[1] * len(entry.shape)))
            np.testing.assert_array_equal(step.observations[name], wanted, strict=True)
        wanted = np.zeros((2, 1, 2, 3, 3), np.uint8)
        wanted[0] = expected[-1]  # what the next decision sees, and the last of the episode
        np.testing.assert_array_equal(step.images["camera"], wanted, strict=True)
        assert not step.looked[1].any()
    assert first["joints"][0].tolist() == [10.0] * 4  # not changed by what came later


@pytest.mark.parametrize(
    ("execute", "history", "ends", "looked"),
    [
        (4, 1, None, [[4], [5]]),
        (4, 2, None, [[3, 4], [5]]),  # the state at the limit sees step 4 too, which was looked at
        (3, 2, None, [[2, 3], [4, 5]]),
        (2, 3, None, [[1, 2], [3, 4], [5]]),
        (4, 1, 2, [[2]]),  # an end that nobody foresees is looked at all the same
        (4, 2, 3, [[3]]),
    ],
)
def test_images_are_looked_at_where_a_decision_sees_them(
    monkeypatch: pytest.MonkeyPatch, execute: int, history: int, ends: int | None, looked: list[list[int]]
) -> None:
    group = group_of(monkeypatch, execute, history, ends)
    group.reset([0, None])
    for steps in looked:
        step = group.step(np.zeros((2, execute, 1), np.float32))
        frames = step.images["camera"][0, :, 0, 0, 0].tolist()
        assert frames == steps + [0] * (min(execute, history) - len(steps))
        assert int(step.looked[0].sum()) == len(steps)
        counted = step.observations["joints"][0, step.looked[0], 0]
        assert counted.tolist() == steps
