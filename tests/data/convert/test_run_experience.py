"""A run's experience as a data set: looked into, converted, learnt from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otpr.cli.data import InspectData
from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter
from otpr.data.inspect import inspect
from otpr.data.loading import DataConfig
from otpr.envs import Setup, task_spec
from otpr.errors import OtprError
from otpr.spec import Entry, Spec

TASK = "metaworld/peg-insert-side-v3"
SPEC = task_spec(TASK).spec


def episode(seed: int, spec: Spec = SPEC) -> Episode:
    generator = np.random.default_rng(seed)
    return Episode(
        observations={
            name: generator.uniform(0, 9, (seed + 2, *entry.shape)).astype(entry.dtype)
            for name, entry in spec.observation.items()
        },
        actions=generator.uniform(-1, 1, (seed + 1, spec.action_dim)).astype(np.float32),
        rewards=generator.normal(size=seed + 1).astype(np.float32),
        terminated=seed % 2 == 0,
        truncated=seed % 2 == 1,
        success=seed % 2 == 0,
        seed=seed,
    )


EPISODES = [episode(seed) for seed in range(5)]


def written(folder: Path, spec: Spec = SPEC) -> Path:
    writer = ExperienceWriter(folder, Setup(TASK), spec)
    for first in (0, 2, 4):
        writer.add([episode(seed, spec) for seed in range(first, min(first + 2, 5))])
    return folder


def assert_same(found: list[Episode], expected: list[Episode]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, array in other.observations.items():
            np.testing.assert_array_equal(one.observations[name], array)
        for field in ("actions", "rewards"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        for field in ("terminated", "truncated", "success", "seed"):
            assert getattr(one, field) == getattr(other, field)


def test_inspection_describes_it(tmp_path: Path):
    folder = written(tmp_path / "experience")
    found = inspect(open_source(folder)).as_dict()
    assert (found["format"], found["task"], found["episodes"], found["steps"]) == ("otpr", TASK, 5, 15)
    assert (found["successes"], found["terminated"], found["truncated"]) == (3, 3, 2)
    assert found["spec"] == SPEC.to_json()
    assert found["problems"] == []
    rows = np.concatenate([one.observations["state"] for one in EPISODES])
    np.testing.assert_allclose([row["mean"] for row in found["observation"]], rows.mean(axis=0), rtol=1e-5)


def test_command_inspects_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    InspectData(str(written(tmp_path / "e")), json=True).run()
    assert json.loads(capsys.readouterr().out)["format"] == "otpr"


def test_another_run_learns_from_it(tmp_path: Path):
    folder = str(written(tmp_path / "experience"))
    read = read_dataset(folder)
    assert (read.task_id, read.spec) == (TASK, SPEC)
    assert_same(read.episodes, EPISODES)
    sets, task = DataConfig(data=(folder,), only_successes=True).read(None)
    assert task == Setup(TASK)
    assert_same(sets[0], EPISODES[::2])
    with pytest.raises(OtprError, match="task: metaworld/peg-insert-side-v3 against metaworld/box-close"):
        DataConfig(data=(folder,)).read("metaworld/box-close-v3")


def test_conversion_keeps_its_episodes(tmp_path: Path):
    source = open_source(written(tmp_path / "experience"))
    convert(source, tmp_path / "out", rules=Rules())
    read = read_dataset(tmp_path / "out")
    assert (read.task_id, read.spec) == (TASK, SPEC)
    assert_same(read.episodes[1:], EPISODES[1:])


def test_entries_are_chosen_by_name(tmp_path: Path):
    spec = Spec(
        {"arm": Entry((3,)), "camera": Entry((4, 4, 3), "uint8", "image"), "hand": Entry((2,), "float64")},
        (-1.0,),
        (1.0,),
        10.0,
    )
    folder = written(tmp_path / "experience", spec)
    both = open_source(folder)
    assert both.keys == (("arm", 3), ("hand", 2))
    assert both.images == {"camera": spec.observation["camera"]}
    assert both.spec(1) == replace(
        Spec.flat(5, 1, control_rate=10.0), observation={"state": Entry((5,)), **both.images}
    )
    hand = open_source(folder, keys=("hand",))
    expected = episode(3, spec).observations["hand"]
    np.testing.assert_array_equal(list(hand.episodes())[3].observations, expected)
    seen = list(open_source(folder, keys=("camera",)).episodes())[3]
    assert seen.observations.shape == (len(seen.actions) + 1, 0)
    np.testing.assert_array_equal(seen.images["camera"], episode(3, spec).observations["camera"])
    with pytest.raises(OtprError, match="has no observation 'eye'; it has: arm, camera, hand"):
        open_source(folder, keys=("eye",))


def test_damage_names_the_file(tmp_path: Path):
    folder = written(tmp_path / "experience")
    file = folder / "episodes-000002.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for read in (lambda: read_dataset(folder), lambda: inspect(open_source(folder))):
        with pytest.raises(OtprError, match=r"episodes-000002\.safetensors is damaged"):
            read()
