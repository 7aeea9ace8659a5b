"""Against data sets that Minari's own collector wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.data.meaning import Meaning
from otpr.errors import OtprError
from otpr.spec import Entry, Spec

LIMIT = 6


class Reach(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A point is moved towards a goal: dict observations as in gymnasium-robotics, actions in [-2, 2]."""

    observation_space = Dict(
        {
            "observation": Box(-np.inf, np.inf, (2,)),
            "desired_goal": Dict({"place": Box(-np.inf, np.inf, (2,)), "size": Box(0, 1, (1,))}),
        }
    )
    action_space = Box(-2, 2, (2,))

    def __init__(self, record_success: bool = True):
        self._record_success = record_success

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._place, self._goal = np.zeros(2, np.float32), self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray):
        self._place = self._place + 0.25 * action.astype(np.float32)
        self._steps += 1
        solved = self._near()
        return self._observation(), float(solved), solved, self._steps >= LIMIT and not solved, self._info()

    def _near(self) -> bool:
        return bool(np.linalg.norm(self._place - self._goal) < 0.2)

    def _info(self) -> dict[str, Any]:
        return {"success": self._near()} if self._record_success else {}

    def _observation(self) -> dict[str, Any]:
        return {
            "observation": self._place.copy(),
            "desired_goal": {"place": self._goal.copy(), "size": np.array([0.2], np.float32)},
        }


def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> minari.MinariDataset:
    """Four episodes; those of odd number stand still and time out."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    gymnasium.register("OtprReach-v0", f"{__name__}:Reach", kwargs=kwargs)
    try:
        env = minari.DataCollector(gymnasium.make("OtprReach-v0"), record_infos=True)
        for episode in range(4):
            observation, _ = env.reset(seed=episode)
            over = False
            while not over:
                way = observation["desired_goal"]["place"] - observation["observation"]
                action = np.clip(way, -2, 2) if episode % 2 == 0 else np.zeros(2)
                observation, _, terminated, truncated, _ = env.step(action.astype(np.float32))
                over = terminated or truncated
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on authors, code and descriptions not given
            warnings.simplefilter("ignore", ResourceWarning)  # it forgets a temporary folder
            dataset = env.create_dataset("test/reach-v0")
        env._tmp_dir.cleanup()  # its own `close` leaves a warning to whoever runs when it is freed
        return dataset
    finally:
        del gymnasium.registry["OtprReach-v0"]


KEYS = ("observation", "desired_goal/place")


def flat(observations: dict[str, Any]) -> np.ndarray:
    return np.hstack([observations["observation"], observations["desired_goal"]["place"]])


def test_every_number_is_what_minari_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = collected(tmp_path, monkeypatch)
    source = open_source("test/reach-v0", keys=KEYS)  # by id, as `minari download` would have put it
    assert (source.format, source.keys) == ("minari", (("observation", 2), ("desired_goal/place", 2)))
    for given, stored in zip(source.episodes(), dataset, strict=True):
        np.testing.assert_array_equal(given.observations, flat(stored.observations))
        np.testing.assert_array_equal(given.actions, stored.actions)
        np.testing.assert_array_equal(given.rewards, stored.rewards)
        np.testing.assert_array_equal(given.success, stored.infos["success"][1:])
        assert given.terminated == stored.terminations[-1]
        assert given.truncated == stored.truncations[-1]
        assert given.seed == stored.id


def test_action_range_is_told_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = collected(tmp_path, monkeypatch)
    source = open_source(tmp_path / "minari" / "test" / "reach-v0", keys=KEYS)
    tally = convert(source, tmp_path / "out", rules=Rules(action_low=(-2.0,), action_high=(2.0,)))
    written = read_dataset(tmp_path / "out")
    assert (tally.episodes, tally.successes) == (4, 2)
    assert written.spec == Spec({"state": Entry((4,))}, (-2, -2), (2, 2))
    assert written.meaning == Meaning(
        parts=tuple((key, 2) for key in KEYS), facts={"environment": "OtprReach-v0"}
    )
    for i, (episode, stored) in enumerate(zip(written.episodes, dataset, strict=True)):
        np.testing.assert_allclose(episode.actions, stored.actions / 2, atol=1e-7)
        np.testing.assert_array_equal(episode.observations["state"], flat(stored.observations))
        assert (episode.success, episode.terminated, episode.truncated) == (
            i % 2 == 0,
            i % 2 == 0,
            i % 2 == 1,
        )
        assert episode.seed == i


def test_without_recorded_success_a_rewarded_termination_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(tmp_path, monkeypatch, record_success=False)
    assert "test/reach-v0" in minari.list_local_datasets()
    source = open_source("test/reach-v0", keys=("observation",))
    assert [recorded.success for recorded in source.episodes()] == [None] * 4
    convert(source, tmp_path / "out", rules=Rules(action_low=(-2.0,), action_high=(2.0,)))
    assert [episode.success for episode in read_dataset(tmp_path / "out").episodes] == [True, False] * 2
    assert [episode.success for episode in read_dataset("test/reach-v0", ("observation",)).episodes] == [
        True,
        False,
    ] * 2


def test_a_converted_set_keeps_its_spec_when_it_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(tmp_path, monkeypatch)
    source = open_source(tmp_path / "minari" / "test" / "reach-v0", keys=KEYS)
    rules = Rules(action_low=(-2.0,), action_high=(2.0, 3.0))  # other bounds than those that are stored
    with pytest.raises(OtprError, match=r"action-bounds: \[-2, 2\] against \[-2, 2\] \[-2, 3\]"):
        convert(source, tmp_path / "one", rules=rules)
    convert(source, tmp_path / "one", rules=rules, accept=("action-bounds",))
    convert(open_source(tmp_path / "one"), tmp_path / "two")
    one, two = (read_dataset(tmp_path / name) for name in ("one", "two"))
    assert one.spec == two.spec == Spec({"state": Entry((4,))}, (-2, -2), (2, 3))
    np.testing.assert_array_equal(one.episodes[0].actions, two.episodes[0].actions)


def test_set_cannot_be_converted_onto_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected(tmp_path, monkeypatch)
    folder = tmp_path / "minari" / "test" / "reach-v0"
    with pytest.raises(OtprError, match="is the data set that is read; give another folder"):
        convert(open_source(folder, keys=KEYS), folder, overwrite=True)
    assert len(list(open_source(folder, keys=KEYS).episodes())) == 4
