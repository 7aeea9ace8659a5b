from __future__ import annotations

import numpy as np
import pytest

from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.data.minari_io import write_dataset
from otpr.errors import OtprError

TASK = "metaworld/peg-insert-side-v3"


def episode(steps: int, reward: float, success: bool = True) -> Episode:
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = reward
    zeros = np.zeros((steps + 1, 39), np.float32)
    return Episode(zeros, np.zeros((steps, 4), np.float32), rewards, success, not success, success, steps)


EPISODES = [episode(9, 1), episode(8, 0, success=False), episode(7, 1), episode(6, 2), episode(5, 1)]


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({}, [9, 8, 7, 6, 5]),
        ({"only_successes": True}, [9, 7, 6, 5]),
        ({"first": 2}, [9, 8]),
        ({"first": 2, "only_successes": True}, [9, 7]),
        ({"best": 1}, [6]),
        ({"best": 2}, [6, 5]),  # of equal return the shorter
        ({"best": 5}, [9, 8, 7, 6, 5]),
    ],
)
def test_selection(settings, lengths) -> None:
    assert [len(e) for e in DataConfig(**settings).select(EPISODES, "set")] == lengths


def test_more_than_there_is_is_an_error() -> None:
    with pytest.raises(OtprError, match="set: at least 6 episodes asked for, and it holds 5"):
        DataConfig(first=6).select(EPISODES, "set")
    with pytest.raises(OtprError, match="at least 5 successful episodes asked for, and it holds 4"):
        DataConfig(best=5, only_successes=True).select(EPISODES, "set")
    with pytest.raises(OtprError, match="at least 1 successful episodes asked for, and it holds 0"):
        DataConfig(only_successes=True).select(EPISODES[1:2], "set")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": 0}, "first must be at least 1"),
        ({"best": -1}, "best must be at least 1"),
        ({"first": 1, "best": 1}, "not both"),
        ({"data": ()}, "at least one data set"),
        ({"weights": (1.0, 2.0)}, "2 weights for 1 data sets"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        DataConfig(**settings)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, episodes in (("a", EPISODES), ("b", EPISODES[:2])):
        write_dataset(episodes, name, task_id=TASK, expert="test", noise=0, seed=0)
    write_dataset(EPISODES, "other", task_id="metaworld/reach-v3", expert="test", noise=0, seed=0)


def test_several_sets_are_read_and_each_is_selected_from(folder) -> None:
    sets, task = DataConfig(("a", "b"), first=2).read(None)
    assert task == TASK
    assert [[len(e) for e in episodes] for episodes in sets] == [[9, 8], [9, 8]]


def test_sets_of_another_task_are_refused(folder) -> None:
    with pytest.raises(OtprError, match=r"other are of the task 'metaworld/reach-v3', not of"):
        DataConfig(("a", "other")).read(None)
    with pytest.raises(OtprError, match=r"in a are of the task"):
        DataConfig(("a",)).read("metaworld/reach-v3")


def test_record_tells_data_and_selections_apart(folder) -> None:
    def record(config: DataConfig) -> dict:
        return config.record(config.read(None)[0])

    whole = record(DataConfig(("a",)))
    assert whole == record(DataConfig(("a",)))
    assert record(DataConfig(("a",), first=2))["data_sha256"] == record(DataConfig(("b",)))["data_sha256"]
    assert record(DataConfig(("a",), first=3))["data_sha256"] != whole["data_sha256"]
