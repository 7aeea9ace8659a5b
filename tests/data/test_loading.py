from __future__ import annotations

import dataclasses
import re
import warnings

import numpy as np
import pytest

from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.envs import Setup, task_spec
from otpr.errors import OtprError
from otpr.spec import Entry

TASK = "metaworld/peg-insert-side-v3"


def episode(steps: int, reward: float, success: bool = True) -> Episode:
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = reward
    zeros = np.zeros((steps + 1, 39), np.float32)
    return Episode(
        {"state": zeros}, np.zeros((steps, 4), np.float32), rewards, success, not success, success, steps
    )


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
    assert task == Setup(TASK)
    assert [[len(e) for e in episodes] for episodes in sets] == [[9, 8], [9, 8]]


def test_sets_of_another_task_are_refused(folder) -> None:
    with pytest.raises(OtprError, match=f"data set other and (?s:.*)task: metaworld/reach-v3 against {TASK}"):
        DataConfig(("a", "other")).read(None)
    with pytest.raises(OtprError, match=f"data set a and (?s:.*)task: {TASK} against metaworld/reach-v3"):
        DataConfig(("a",)).read("metaworld/reach-v3")
    told: list[str] = []
    sets, task = DataConfig(("a", "other"), accept=("task", "robot")).read(None, told.append)
    assert told[-1] == "--accept robot: the data differ from nothing in that"
    assert not any(line.startswith("--accept task") for line in told)
    assert (task, [len(episodes) for episodes in sets]) == (Setup(TASK), [5, 5])


def test_a_set_in_float64_is_rounded_to_what_the_task_shows(tmp_path) -> None:
    spec = dataclasses.replace(task_spec(TASK).spec, observation={"state": Entry((39,), "float64")})
    wide = np.random.default_rng(0).normal(size=(len(EPISODES[0]) + 1, 39))
    episodes = [dataclasses.replace(EPISODES[0], observations={"state": wide})]
    write_dataset(episodes, tmp_path / "set", spec=spec, task_id=TASK, expert="test", noise=0, seed=0)
    np.testing.assert_array_equal(
        read_dataset(tmp_path / "set").episodes[0].observations["state"], wide, strict=True
    )
    ((read,),), _ = DataConfig((str(tmp_path / "set"),)).read(None)
    np.testing.assert_array_equal(read.observations["state"], wide.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observation": {"joints": Entry((39,))}},
            "observation 'joints': vector (39,) float32 against nothing",
        ),
        ({"control_rate": 20}, "control-rate: 20 Hz against 80 Hz"),
        ({"action_low": (0, 0, 0, 0)}, "action-bounds: [0, 1] against [-1, 1]"),
    ],
)
def test_sets_of_another_spec_are_refused(tmp_path, changes: dict, message: str) -> None:
    spec = dataclasses.replace(task_spec(TASK).spec, **changes)
    ((name, entry),) = spec.observation.items()
    episodes = [
        dataclasses.replace(e, observations={name: e.observations["state"].astype(entry.dtype)})
        for e in EPISODES
    ]
    write_dataset(episodes, tmp_path / "set", spec=spec, task_id=TASK, expert="test", noise=0, seed=0)
    with pytest.raises(OtprError, match=re.escape(message)) as caught:
        DataConfig((str(tmp_path / "set"),)).read(None)
    assert str(caught.value).startswith(
        f"The data set {tmp_path / 'set'} and the task {TASK} do not fit together"
    )


def test_every_entry_that_differs_is_listed(tmp_path) -> None:
    wide = dataclasses.replace(
        EPISODES[0],
        actions=np.zeros((9, 7), np.float32),
        observations={"state": np.zeros((10, 3), np.float32)},
    )
    write_dataset([wide], tmp_path / "set", task_id=TASK, expert="test", noise=0, seed=0)
    with pytest.raises(
        OtprError, match=r"\(3,\) float32 against vector \(39,\)(?s:.*)action dimensions: 7 against 4"
    ):
        DataConfig((str(tmp_path / "set"),)).read(None)


def test_record_tells_data_and_selections_apart(folder) -> None:
    def record(config: DataConfig) -> dict:
        return config.record(config.read(None)[0])

    whole = record(DataConfig(("a",)))
    assert whole == record(DataConfig(("a",)))
    assert record(DataConfig(("a",), first=2))["data_sha256"] == record(DataConfig(("b",)))["data_sha256"]
    assert record(DataConfig(("a",), first=3))["data_sha256"] != whole["data_sha256"]


def test_a_task_of_dictionaries_reads_a_set_that_is_flat_already(tmp_path) -> None:
    zeros = np.zeros((4, 28), np.float32)
    flat = Episode(
        {"state": zeros}, np.zeros((3, 4), np.float32), np.ones(3, np.float32), True, False, True, None
    )
    write_dataset([flat], tmp_path / "set", task_id="fetch/push", expert="test", noise=0, seed=0)
    sets, task = DataConfig((str(tmp_path / "set"),)).read("fetch/push")
    assert task == Setup("fetch/push")
    assert sets[0][0].observations["state"].shape == (4, 28)


def test_a_task_of_dictionaries_says_which_parts_of_a_foreign_set_are_read(tmp_path) -> None:
    import gymnasium
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    from otpr.data.datasets import read_dataset

    box = gymnasium.spaces.Box(-9, 9, (3,), np.float32)
    space = gymnasium.spaces.Dict(
        {
            "achieved_goal": box,
            "desired_goal": box,
            "observation": gymnasium.spaces.Box(-9, 9, (25,), np.float32),
        }
    )
    parts = {name: np.full((4, *part.shape), i, np.float32) for i, (name, part) in enumerate(space.items())}
    buffer = EpisodeBuffer(
        observations=parts,
        actions=np.zeros((3, 4), np.float32),
        rewards=[0.0, 0.0, 1.0],
        terminations=[False, False, True],
        truncations=[False] * 3,
        infos={},
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's, about what the test leaves out
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        create_dataset_from_buffers(
            "foreign-v0",
            [buffer],
            observation_space=space,
            action_space=gymnasium.spaces.Box(-1, 1, (4,), np.float32),
            author="a",
            author_email="b",
            code_permalink="c",
            algorithm_name="d",
            description="e",
        )
        sets, _ = DataConfig(("foreign-v0",)).read("fetch/push")
        assert read_dataset("foreign-v0").episodes[0].observations["state"].shape == (4, 31)
    np.testing.assert_array_equal(sets[0][0].observations["state"][0], [2.0] * 25 + [1.0] * 3)
