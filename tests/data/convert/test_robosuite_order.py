"""Files as robosuite 1.5 writes them, of every robomimic task: what is read is what our task observes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.envs import list_tasks, make_env, task_spec
from otpr.errors import OtprError

TASKS = [task.id for task in list_tasks() if task.id.startswith("robosuite/")]
FAST = ("robosuite/lift", "robosuite/can")
ARGS = {"type": 1, "env_version": "1.5.2"}


def record(task_id: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, str]:
    """Twelve random steps: robosuite's own observations by key, our task's, the actions, the environment."""
    env = make_env(task_id)
    raw = env.simulator.env

    def own() -> dict[str, np.ndarray]:
        del raw._update_observables  # our simulator stops robosuite's observables
        seen = raw._get_observations(force_update=True)  # as robomimic extracts them
        raw._update_observables = lambda force=False: None
        return seen

    ours = [env.reset(seed=3)[0]]
    raw._obs_cache = {}
    theirs, generator = [own()], np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (12, *env.action_space.shape)).astype(np.float32)
    for action in actions:
        ours.append(env.step(action)[0])
        theirs.append(own())
    keys = [key for key in task_spec(task_id).observation_keys if key != "object"]
    arrays = {key: np.stack([seen[key] for seen in theirs]) for key in keys}
    arrays["object"] = np.stack([seen["object-state"] for seen in theirs])
    env.close()
    return arrays, np.array(ours), actions, type(raw).__name__


def write(path: Path, arrays: dict[str, np.ndarray], actions: np.ndarray, args: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(args)
        demo = data.create_group("demo_0")
        demo["actions"], demo["rewards"] = actions, np.eye(len(actions))[-1]
        for key, array in arrays.items():
            demo[f"obs/{key}"], demo[f"next_obs/{key}"] = array[:-1], array[1:]
    return path


def converted(path: Path, **options: Any) -> np.ndarray:
    convert(open_source(path, **options), path.with_suffix(""))
    return read_dataset(path.with_suffix("")).episodes[0].observations["state"]


def check(task_id: str, folder: Path) -> None:
    arrays, ours, actions, name = record(task_id)
    path = write(folder / "later.hdf5", arrays, actions, {**ARGS, "env_name": name})
    side_by_side = np.hstack(list(arrays.values()))
    assert np.abs(side_by_side - ours).max() > 0.3  # as they are stored they are something else
    np.testing.assert_allclose(converted(path), ours, atol=1e-6)
    # the numbers tell it, too, where no version does
    path = write(folder / "silent.hdf5", arrays, actions, {"type": 1, "env_name": name})
    np.testing.assert_allclose(converted(path), ours, atol=1e-6)
    # what is in our order already stays
    parts = np.split(ours, np.cumsum([length for _, length in task_spec(task_id).parts])[:-1], axis=1)
    former = dict(zip(task_spec(task_id).observation_keys, parts, strict=True))
    path = write(folder / "former.hdf5", former, actions, {**ARGS, "env_version": "1.4.1", "env_name": name})
    np.testing.assert_array_equal(converted(path), ours)
    # a version that the numbers contradict is not believed
    path = write(folder / "wrong.hdf5", former, actions, {**ARGS, "env_name": name})
    with pytest.raises(OtprError, match=r"made of cannot be told\. The file states robosuite 1\.5\.2"):
        open_source(path)


@pytest.mark.long
@pytest.mark.parametrize("task_id", FAST)
def test_object_is_what_the_task_observes(task_id: str, tmp_path: Path) -> None:
    check(task_id, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", [task_id for task_id in TASKS if task_id not in FAST])
def test_object_is_what_the_other_tasks_observe(task_id: str, tmp_path: Path) -> None:
    check(task_id, tmp_path)


def test_without_the_hand_the_order_is_not_guessed(tmp_path: Path) -> None:
    arrays, _, actions, name = record("robosuite/lift")
    del arrays["robot0_eef_pos"]
    path = write(tmp_path / "set.hdf5", arrays, actions, {**ARGS, "env_name": name})
    with pytest.raises(OtprError, match=r"cannot be told without robot0_eef_pos, which the file lacks"):
        open_source(path, keys=("object",))


def test_for_another_task_the_file_is_taken_as_it_is(tmp_path: Path) -> None:
    arrays, _, actions, name = record("robosuite/lift")
    path = write(tmp_path / "set.hdf5", arrays, actions, {**ARGS, "env_name": name})
    source = open_source(path, keys=("object",), task="gym/MyLift-v0")
    np.testing.assert_array_equal(next(source.episodes()).observations, arrays["object"])
    assert source.facts["object"] == "robosuite 1.5's order"
    # and is refused for ours later on, by what it says of itself
    convert(source, tmp_path / "out", task="gym/MyLift-v0")
    with pytest.raises(OtprError, match=r"object: robosuite 1\.5's order against robosuite 1\.4's order"):
        convert(
            open_source(tmp_path / "out", task="robosuite/lift"), tmp_path / "again", task="robosuite/lift"
        )
