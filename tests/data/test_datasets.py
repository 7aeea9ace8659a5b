from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.meaning import Meaning
from otpr.data.minari_opening import open_minari_file
from otpr.data.recorded import readable
from otpr.errors import OtprError
from otpr.spec import Entry, Spec
from tests.data.fixtures import make_datasets

TASK = "metaworld/peg-insert-side-v3"


def make_episodes(count: int = 3) -> list[Episode]:
    generator = np.random.default_rng(count)
    episodes = []
    for i in range(count):
        steps = 4 + 3 * i
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = 1.0
        episodes.append(
            Episode(
                observations={"state": generator.standard_normal((steps + 1, 3)).astype(np.float32)},
                actions=generator.uniform(-1, 1, (steps, 2)).astype(np.float32),
                rewards=rewards,
                terminated=True,
                truncated=False,
                success=True,
                seed=2**29 + i,
            )
        )
    # one that was not solved, and whose seed is unknown
    episodes[-1] = replace(episodes[-1], terminated=False, truncated=True, success=False, seed=None)
    return episodes


def write(path: Path, episodes: list[Episode] | None = None, **more) -> None:
    arguments = {"task_id": TASK, "expert": "scripted expert", "noise": 0.25, "seed": 4, **more}
    write_dataset(make_episodes() if episodes is None else episodes, path, **arguments)


def assert_same(one: list[Episode], other: list[Episode]) -> None:
    def flat(episode: Episode) -> dict[str, Any]:
        return {**vars(episode), **episode.observations, "observations": sorted(episode.observations)}

    for a, b in zip(one, other, strict=True):
        expected, given = flat(a), flat(b)
        assert {name: type(value) for name, value in given.items()} == {
            name: type(value) for name, value in expected.items()
        }
        for name, value in expected.items():
            np.testing.assert_array_equal(given[name], value, err_msg=name)
            if isinstance(value, np.ndarray):
                assert given[name].dtype == value.dtype


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_round_trip(tmp_path: Path) -> None:
    episodes = make_episodes()
    write(tmp_path / "new" / "demos", episodes)
    demonstrations = read_dataset(tmp_path / "new" / "demos")
    assert_same(episodes, demonstrations.episodes)
    assert demonstrations.task_id == TASK
    expected = {"task_id": TASK, "expert": "scripted expert", "noise": 0.25, "seed": 4, "total_steps": 21}
    assert {key: demonstrations.metadata[key] for key in expected} == expected
    # nothing but the data set is left behind
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["demos"]
    assert sorted(tree(tmp_path / "new")) == ["demos/data/main_data.hdf5", "demos/data/metadata.json"]


def test_spec_survives(tmp_path: Path) -> None:
    spec = Spec({"state": Entry((3,))}, (-0.05, 0.0), (0.05, 2.0), control_rate=12.5)
    write(tmp_path / "demos", spec=replace(spec, history=2, horizon=8, execute=4))
    demonstrations = read_dataset(tmp_path / "demos")
    assert demonstrations.spec == spec  # a data set has the task's part alone
    assert demonstrations.metadata["otpr_data_format"] == 3
    write(tmp_path / "plain")
    assert read_dataset(tmp_path / "plain").spec == Spec.flat(3, 2)


def test_episodes_that_do_not_fit_the_spec_are_not_written(tmp_path: Path) -> None:
    for episodes in (make_episodes(), iter(make_episodes())):
        with pytest.raises(OtprError, match=r"episode 0: observations have shape \(5, 3\), expected .*4\)"):
            write(tmp_path / "demos", episodes, spec=Spec.flat(4, 2))
    assert list(tmp_path.iterdir()) == []


def several_entries() -> list[Episode]:
    """Entries of different lengths and types; their order is not the alphabet's."""
    generator = np.random.default_rng(0)
    return [
        replace(
            episode,
            observations={
                "wrench": generator.standard_normal((len(episode) + 1, 6)),
                "joints": generator.standard_normal((len(episode) + 1, 2)).astype(np.float32),
            },
        )
        for episode in make_episodes()
    ]


def test_several_entries_survive_in_their_own_types(tmp_path: Path) -> None:
    write(tmp_path / "demos", several_entries())
    demonstrations = read_dataset(tmp_path / "demos", keys=("nothing",))  # keys are for sets of others
    assert_same(several_entries(), demonstrations.episodes)
    assert demonstrations.spec.observation == {"joints": Entry((2,)), "wrench": Entry((6,), "float64")}
    for given, expected in zip(
        minari.MinariDataset(tmp_path / "demos" / "data"), several_entries(), strict=True
    ):
        np.testing.assert_equal(given.observations, expected.observations)


def test_one_entry_of_another_name_survives(tmp_path: Path) -> None:
    episodes = [replace(e, observations={"joints": e.observations["state"]}) for e in make_episodes()]
    write(tmp_path / "demos", episodes)
    assert_same(episodes, read_dataset(tmp_path / "demos").episodes)


@pytest.mark.parametrize(
    ("version", "spec", "meaning"),
    [
        (1, Spec.flat(3, 2), Meaning(bounds_stated=False)),
        (2, make_datasets.SPEC, Meaning()),
        (3, make_datasets.SPEC, make_datasets.MEANING),
    ],
    ids=["format 1", "format 2", "format 3"],
)
def test_a_set_that_was_written_long_ago_is_read(version: int, spec: Spec, meaning: Meaning) -> None:
    """As tests/data/fixtures/make_datasets.py says; format 1 has no spec, so the arrays tell it."""
    demonstrations = read_dataset(make_datasets.HERE / f"dataset-{version}")
    assert_same(make_datasets.episodes(), demonstrations.episodes)
    assert demonstrations.spec == spec
    assert demonstrations.meaning == meaning
    assert demonstrations.task_id == "my_robot:make_env"
    assert make_datasets.ABOUT.items() <= demonstrations.metadata.items()


def test_minari_itself_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = make_episodes()
    dataset_id = f"{TASK}-expert-v0"
    write(tmp_path / dataset_id, episodes)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset(dataset_id)
    assert (dataset.total_episodes, dataset.total_steps) == (3, 21)
    assert dataset.id == dataset_id
    assert dataset.spec.dataset_name == "peg-insert-side-v3-expert"
    assert list(minari.list_local_datasets()) == [dataset_id]
    for expected, given in zip(episodes, dataset, strict=True):
        np.testing.assert_array_equal(given.observations, expected.observations["state"])
        np.testing.assert_array_equal(given.actions, expected.actions)
        assert given.terminations.tolist() == [False] * (len(expected) - 1) + [expected.terminated]
        assert given.truncations.tolist() == [False] * (len(expected) - 1) + [expected.truncated]
        assert given.infos["success"].tolist() == [False] * len(expected) + [expected.success]
    assert len(minari.MinariDataset(tmp_path / dataset_id / "data")[1]) == 7
    # and by its id, for us
    assert_same(episodes, read_dataset(dataset_id).episodes)


def test_numbers_survive_bit_by_bit(tmp_path: Path) -> None:
    awkward = np.array([[1e-45, -0.0, 3.4e38], [np.pi, 1 / 3, 1e-38]], np.float32)
    episode = replace(
        make_episodes(2)[0], observations={"state": awkward}, actions=np.ones((1, 2), np.float32)
    )
    episode = replace(episode, rewards=np.array([0.1], np.float32))
    write(tmp_path / "demos", [episode])
    (read,) = read_dataset(tmp_path / "demos").episodes
    assert read.observations["state"].tobytes() == awkward.tobytes()
    assert read.rewards.tobytes() == episode.rewards.tobytes()


def test_more_than_ten_episodes_keep_their_order(tmp_path: Path) -> None:
    episodes = make_episodes(12)
    write(tmp_path / "demos", episodes)
    assert_same(episodes, read_dataset(tmp_path / "demos").episodes)


def test_existing_data_set_is_an_error_and_stays(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    before = tree(tmp_path)
    with pytest.raises(OtprError, match=r"demos already holds a data set.*--overwrite"):
        write(tmp_path / "demos", make_episodes(1))
    assert tree(tmp_path) == before


def test_overwrite_replaces_all_of_it(tmp_path: Path) -> None:
    write(tmp_path / "demos", make_episodes(5))
    (tmp_path / "demos" / "leftover.txt").write_text("old")
    episodes = make_episodes(2)
    write(tmp_path / "demos", episodes, overwrite=True)
    assert_same(episodes, read_dataset(tmp_path / "demos").episodes)
    assert sorted(tree(tmp_path)) == ["demos/data/main_data.hdf5", "demos/data/metadata.json"]


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "demos").mkdir()
    write(tmp_path / "demos")
    assert len(read_dataset(tmp_path / "demos").episodes) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_data_set_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious too")
    before = tree(tmp_path)
    with pytest.raises(OtprError, match="home exists and is not a data set"):
        write(tmp_path / "home", overwrite=overwrite)
    with pytest.raises(OtprError, match="file is a file"):
        write(tmp_path / "file", overwrite=overwrite)
    assert tree(tmp_path) == before


def test_bad_episodes_change_nothing_on_disk(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    before = tree(tmp_path)
    bad = make_episodes()
    bad[1].actions[0, 0] = np.nan
    for path in (tmp_path / "demos", tmp_path / "elsewhere" / "demos"):
        with pytest.raises(OtprError, match="episode 1: actions hold NaN"):
            write(path, bad, overwrite=True)
    with pytest.raises(OtprError, match="holds no episodes"):
        write(tmp_path / "none", [])
    assert tree(tmp_path) == before
    assert not (tmp_path / "elsewhere").exists()


def test_failure_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "demos")
    before = tree(tmp_path)

    def disk_full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", disk_full)
    with pytest.raises(OtprError, match=r"demos cannot be written \(No space left"):
        write(tmp_path / "demos", make_episodes(1), overwrite=True)
    assert tree(tmp_path) == before


def test_nothing_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    with pytest.raises(
        OtprError, match=r"No data set at demos/none, nor one of that id in .*root.*otpr collect"
    ):
        read_dataset("demos/none")
    assert not (tmp_path / "root").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OtprError, match=r"folder is not a Minari data set: .*data/metadata\.json"):
        read_dataset(tmp_path / "folder")


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.7, 0.99])
def test_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    write(tmp_path / "demos")
    file = tmp_path / "demos" / "data" / "main_data.hdf5"
    os.truncate(file, int(kept * file.stat().st_size))
    with pytest.raises(OtprError, match=r"demos/data/main_data\.hdf5: truncated or corrupt"):
        read_dataset(tmp_path / "demos")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    (tmp_path / "demos" / "data" / "main_data.hdf5").unlink()
    with pytest.raises(OtprError, match=r"demos/data/metadata\.json: not readable.*No data found"):
        read_dataset(tmp_path / "demos")


@pytest.mark.parametrize("content", ['{"total_episodes": 3, "tot', "[]", "{}", '{"total_episodes": "many"}'])
def test_corrupt_metadata_is_named(tmp_path: Path, content: str) -> None:
    write(tmp_path / "demos")
    (tmp_path / "demos" / "data" / "metadata.json").write_text(content)
    with pytest.raises(OtprError, match=r"demos/data/metadata\.json: not readable as a Minari data set"):
        read_dataset(tmp_path / "demos")


def test_missing_episode_and_missing_field(tmp_path: Path) -> None:
    for name, removed in (("one", "episode_1"), ("two", "episode_1/rewards")):
        write(tmp_path / name)
        with h5py.File(tmp_path / name / "data" / "main_data.hdf5", "a") as file:
            del file[removed]
        with pytest.raises(OtprError, match=rf"{name}/data/main_data\.hdf5: truncated or corrupt"):
            read_dataset(tmp_path / name)


def test_bad_numbers_in_a_file_are_refused_by_file_episode_and_field(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    with h5py.File(tmp_path / "demos" / "data" / "main_data.hdf5", "a") as file:
        file["episode_2/observations"][5, 1] = np.nan
    with pytest.raises(
        OtprError,
        match=r"demos/data/main_data\.hdf5: episode 2: observations hold NaN or infinity, first at step 5",
    ):
        read_dataset(tmp_path / "demos")


def foreign_dataset(
    path: Path, observation_space: gymnasium.Space, observations, rewards: list[float], infos: dict | None
) -> None:
    """As another project would have written it: float64, no task, its own infos."""
    path.mkdir()
    storage = MinariStorage.new(
        path / "data",
        observation_space=observation_space,
        action_space=gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64),
    )
    storage.update_metadata({"dataset_id": "D4RL/some/human-v2", "minari_version": "0.4.3"})
    steps = len(rewards)
    buffer = EpisodeBuffer(
        observations=observations,
        actions=np.full((steps, 2), 0.5),
        rewards=rewards,
        terminations=[False] * (steps - 1) + [True],
        truncations=[False] * steps,
        infos=infos,
    )
    storage.update_episodes([buffer])


@pytest.mark.parametrize(
    ("rewards", "infos", "success"),
    [
        ([-1.0, 5.0], {"success": np.array([False, True])}, True),
        ([-1.0, 5.0], {"success": np.array([False, False, False])}, False),
        ([0.0, 1.0], {"qpos": np.zeros((3, 4))}, True),
    ],
)
def test_reads_what_others_wrote(tmp_path: Path, rewards: list[float], infos: dict, success: bool) -> None:
    observations = np.arange(9.0).reshape(3, 3)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    foreign_dataset(tmp_path / "set", space, observations, rewards, infos)
    demonstrations = read_dataset(tmp_path / "set")
    (episode,) = demonstrations.episodes
    assert demonstrations.task_id is None
    assert demonstrations.metadata["dataset_id"] == "D4RL/some/human-v2"
    assert episode.observations["state"].dtype == np.float64
    assert episode.actions.dtype == episode.rewards.dtype == np.float32
    np.testing.assert_array_equal(episode.observations["state"], observations)
    assert episode.rewards.tolist() == rewards
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, success)
    assert episode.seed is None


@pytest.mark.parametrize(
    ("recorded", "by_step"),
    [
        ([False, True], [False, True]),
        ([False, False, True], [False, True]),
        ([True, False, False], [True, False]),
    ],
)
def test_success_by_step_with_or_without_an_entry_for_the_reset(
    tmp_path: Path, recorded: list[bool], by_step: list[bool]
) -> None:
    space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    foreign_dataset(tmp_path / "set", space, np.zeros((3, 3)), [0.0, 0.0], {"success": np.array(recorded)})
    (episode,) = readable(open_minari_file(tmp_path / "set").read())
    assert episode.success is not None
    assert episode.success.tolist() == by_step


def test_observations_that_are_not_flat_are_refused(tmp_path: Path) -> None:
    place = gymnasium.spaces.Box(0, 1, (2,), np.float64)
    space = gymnasium.spaces.Dict({"pixels": gymnasium.spaces.Box(0, 1, (4, 3), np.float64), "place": place})
    seen = {"pixels": np.zeros((3, 4, 3)), "place": np.zeros((3, 2))}
    foreign_dataset(tmp_path / "set", space, seen, [0.0, 1.0], {})
    with pytest.raises(OtprError, match=r"observations pixels must be flat vectors.*--keys place; "):
        read_dataset(tmp_path / "set")


@pytest.mark.parametrize(
    ("space", "observations"),
    [
        (gymnasium.spaces.Discrete(4), np.zeros(3, np.int64)),
        (gymnasium.spaces.MultiDiscrete([2, 3]), np.zeros((3, 2), np.int64)),
        (gymnasium.spaces.MultiBinary(3), np.zeros((3, 3), np.int8)),
    ],
)
def test_choices_are_refused_with_the_wrapper_that_makes_vectors_of_them(
    tmp_path: Path, space: gymnasium.Space, observations: np.ndarray
) -> None:
    foreign_dataset(tmp_path / "set", space, observations, [0.0, 1.0], {})
    with pytest.raises(OtprError) as caught:
        read_dataset(tmp_path / "set")
    assert str(caught.value).endswith(
        f"observations must be flat vectors, and are {space}. Collect the set again, the environment wrapped "
        "with gymnasium.wrappers.FlattenObservation(env)."
    )


def test_tuples_of_vectors_are_read_side_by_side(tmp_path: Path) -> None:
    parts = tuple(np.arange(3.0 * n).reshape(3, n) for n in (2, 1))
    space = gymnasium.spaces.Tuple(gymnasium.spaces.Box(-9, 9, part.shape[1:], np.float64) for part in parts)
    foreign_dataset(tmp_path / "set", space, parts, [0.0, 1.0], {})
    (episode,) = read_dataset(tmp_path / "set").episodes
    np.testing.assert_array_equal(episode.observations["state"], np.concatenate(parts, axis=1))
    (second,) = read_dataset(tmp_path / "set", keys=("_index_1",)).episodes
    np.testing.assert_array_equal(second.observations["state"], parts[1])


def kitchen_like() -> tuple[gymnasium.spaces.Dict, dict]:
    """A Dict within a Dict, as Franka Kitchen's. Minari stores its entries by the alphabet."""

    def box(dim: int) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-np.inf, np.inf, (dim,), np.float64)

    goals = gymnasium.spaces.Dict([("microwave", box(1)), ("kettle", box(2))])
    space = gymnasium.spaces.Dict([("observation", box(3)), ("achieved_goal", goals)])
    steps = np.arange(3.0)[:, None]
    goal = {"microwave": 100 + steps, "kettle": 200 + np.hstack([steps, steps + 10])}
    return space, {"observation": np.hstack([steps, steps + 10, steps + 20]), "achieved_goal": goal}


@pytest.mark.parametrize(
    ("keys", "first_row"),
    [
        (("observation",), [0, 10, 20]),
        (("achieved_goal/kettle", "observation"), [200, 210, 0, 10, 20]),
        (("achieved_goal",), [200, 210, 100]),
        (None, [200, 210, 100, 0, 10, 20]),
    ],
)
def test_dict_observations_are_flattened_in_the_order_given(
    tmp_path: Path, keys: tuple[str, ...] | None, first_row: list[float]
) -> None:
    foreign_dataset(tmp_path / "set", *kitchen_like(), [0.0, 1.0], {})
    (episode,) = read_dataset(tmp_path / "set", keys).episodes
    expected = np.array(first_row, np.float32)
    np.testing.assert_array_equal(episode.observations["state"], expected + np.arange(3)[:, None])


def test_unknown_key_is_told_with_those_there_are(tmp_path: Path) -> None:
    foreign_dataset(tmp_path / "set", *kitchen_like(), [0.0, 1.0], {})
    with pytest.raises(OtprError, match=r"has no observation key 'goal'; it has: achieved_goal/kettle, "):
        read_dataset(tmp_path / "set", ("goal",))
    write(tmp_path / "flat")  # one vector has no parts to be chosen from
    assert len(read_dataset(tmp_path / "flat", ("observation",)).episodes) == len(make_episodes())


def test_iterator_is_written_as_it_comes(tmp_path: Path) -> None:
    episodes = make_episodes(4)
    write(tmp_path / "demos", iter(episodes))
    assert_same(episodes, read_dataset(tmp_path / "demos").episodes)


def test_bad_episode_late_in_an_iterator_leaves_nothing_new(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    before = tree(tmp_path)
    bad = make_episodes(4)
    bad[3].rewards[1] = np.inf
    narrow = [*make_episodes(2), replace(make_episodes()[0], actions=np.zeros((4, 1), np.float32))]
    for path in (tmp_path / "demos", tmp_path / "one" / "two" / "demos"):
        with pytest.raises(OtprError, match="episode 3: rewards hold NaN or infinity, first at step 1; mend"):
            write(path, iter(bad), overwrite=True)
        with pytest.raises(OtprError, match=r"episode 2: actions have shape \(4, 1\), expected \(steps, 2\)"):
            write(path, iter(narrow), overwrite=True)
    with pytest.raises(OtprError, match="holds no episodes"):
        write(tmp_path / "one" / "two", iter([]))
    assert tree(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["demos"]


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "demos")
    stored = json.loads((tmp_path / "demos" / "data" / "metadata.json").read_text())
    assert stored["algorithm_name"] == "scripted expert"
    assert stored["data_format"] == "hdf5"


@pytest.mark.parametrize("task", ["my_robot:make_env", "gym/MyLift-v0", None])
def test_any_task_makes_an_id_that_minari_takes(tmp_path: Path, task: str | None) -> None:
    write(tmp_path / "my demos", task_id=task, noise=None, seed=None)
    dataset = minari.MinariDataset(tmp_path / "my demos" / "data")
    assert dataset.spec.dataset_id == dataset.id
    assert ":" not in dataset.id
    demonstrations = read_dataset(tmp_path / "my demos")
    assert demonstrations.task_id == task
    assert demonstrations.metadata["noise"] is None
