"""Data sets as Minari wrote them before 0.5, with their metadata in attributes of the HDF5 file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.errors import OtprError

LENGTHS = (3, 5)
RNG = np.random.default_rng(0)
EPISODES = [
    (RNG.normal(size=(steps + 1, 3)), RNG.uniform(-1, 1, (steps, 2)).astype(np.float32)) for steps in LENGTHS
]
SPACES = {
    "observation_space": {"type": "Box", "dtype": "float64", "shape": [3], "low": [-9] * 3, "high": [9] * 3},
    "action_space": {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1] * 2, "high": [1] * 2},
}


def written(folder: Path, attributes: dict[str, Any], *, parts: bool = False) -> Path:
    """A set of two episodes; with `parts` the observation is a dictionary."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        # as NumPy scalars, which HDF5 makes of numbers
        file.attrs.update({"total_episodes": 2, "total_steps": 8, "env_spec": '{"id": "x"}', **attributes})
        for number, (observations, actions) in enumerate(EPISODES):
            episode = file.create_group(f"episode_{number}")
            episode.attrs["id"] = number
            episode.attrs["seed"] = 7 if number else "None"
            if parts:
                episode["observations/goal"] = observations[:, 2:]
                episode["observations/inner/place"] = observations[:, :2]
            else:
                episode["observations"] = observations
            steps = len(actions)
            last = np.arange(steps) == steps - 1
            episode["actions"], episode["rewards"] = actions, last.astype(float)
            episode["terminations"], episode["truncations"] = last & (number == 0), last & (number == 1)
            episode["infos/success"] = np.append(False, last & (number == 0))
    return folder


@pytest.mark.parametrize(
    "attributes",
    [
        {name: json.dumps(space) for name, space in SPACES.items()} | {"minari_version": "0.4.3"},
        {"flatten_observation": False, "flatten_action": False, "dataset_id": "door-human-v1"},  # 0.3
    ],
)
def test_every_number_is_read(tmp_path: Path, attributes: dict[str, Any]) -> None:
    folder = written(tmp_path / "set", attributes)
    found = read_dataset(folder)
    for episode, (observations, actions) in zip(found.episodes, EPISODES, strict=True):
        np.testing.assert_array_equal(episode.observations["state"], observations, strict=True)
        np.testing.assert_array_equal(episode.actions, actions, strict=True)
        assert episode.rewards.tolist() == [0] * (len(actions) - 1) + [1]
    assert [(e.success, e.terminated, e.truncated, e.seed) for e in found.episodes] == [
        (True, True, False, None),
        (False, False, True, 7),
    ]
    tally = convert(open_source(folder), tmp_path / "out")
    assert (tally.episodes, tally.steps, tally.successes) == (2, 8, 1)


def test_parts_of_the_observation_are_told_from_the_first_episode(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", {}, parts=True)
    assert open_source(folder).keys == (("goal", 1), ("inner/place", 2))
    source = open_source(folder, keys=("inner",))
    np.testing.assert_array_equal(next(source.episodes()).observations, EPISODES[0][0][:, :2])


def test_a_set_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "door-human-v1", {})
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert len(read_dataset("door-human-v1").episodes) == 2


def test_a_file_without_the_attributes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    with h5py.File(tmp_path / "set" / "data" / "main_data.hdf5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(OtprError, match=r"main_data\.hdf5: .*no attribute total_episodes"):
        read_dataset(tmp_path / "set")
