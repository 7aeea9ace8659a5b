"""Malformed files: each is refused by name, with the place and the mend, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otpr.cli.data import ConvertData
from otpr.cli.main import main
from otpr.data.dataset_writer import write_dataset
from otpr.data.episodes import Episode
from otpr.errors import OtprError
from tiny import files

FIXTURES = Path(__file__).parents[1] / "fixtures"
Spoil = Callable[[Path], Path]
CASES: dict[str, tuple[Spoil, dict[str, Any], str]] = {}


def case(message: str, **options: Any) -> Callable[[Spoil], Spoil]:
    """Register a way to spoil a data set in a folder: it returns what is to be converted."""

    def register(spoil: Spoil) -> Spoil:
        CASES[spoil.__name__] = (spoil, options, message)
        return spoil

    return register


def npz(folder: Path, **changes: Any) -> Path:
    """Two episodes of three steps, with changes; None takes an array out."""
    arrays: dict[str, Any] = {
        "observations": np.ones((6, 2)),
        "actions": np.zeros((6, 1)),
        "rewards": np.array([0, 0, 1, 0, 0, 1]),
        "terminals": np.array([0, 0, 1, 0, 0, 1], bool),
        "timeouts": np.zeros(6, bool),
        **changes,
    }
    np.savez(folder / "set.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder / "set.npz"


def lift(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    path = Path(shutil.copy(FIXTURES / "lift.hdf5", folder / "lift.hdf5"))
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replaced(group: Any, name: str, value: Any) -> None:
    del group[name]
    group[name] = value


def minari_set(folder: Path) -> Path:
    episode = Episode(
        {"state": np.zeros((4, 2), np.float32)},
        np.zeros((3, 1), np.float32),
        np.ones(3, np.float32),
        True,
        False,
        True,
        0,
    )
    write_dataset([episode] * 2, folder / "set", task_id=None, expert="e", noise=0.0, seed=0)
    return folder / "set"


def lerobot(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "lerobot", folder / "set"))


def edit_info(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = lerobot(folder)
    info = json.loads((path / "meta" / "info.json").read_text())
    change(info)
    (path / "meta" / "info.json").write_text(json.dumps(info))
    return path


def edit_parquet(
    folder: Path, change: Callable[[pa.Table], pa.Table], name: str = "file-000.parquet"
) -> Path:
    path = lerobot(folder)
    file = path / "data" / "chunk-000" / name
    pq.write_table(change(pq.read_table(file)), file)
    return path


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


# ---------------------------------------------------------------------------- any file


@case(r"No data set at .*nothing\.hdf5")
def nothing_there(folder: Path) -> Path:
    return folder / "nothing.hdf5"


@case(r"There is no .*nothing\.npz; give the file", format="npz")
def nothing_there_of_that_format(folder: Path) -> Path:
    return folder / "nothing.npz"


@case(r"home is not a Minari data set: it holds no data/metadata\.json")
def folder_of_something_else(folder: Path) -> Path:
    (folder / "home").mkdir()
    return folder / "home"


@case(r"home is a folder; the format robomimic is a file", format="robomimic")
def folder_instead_of_a_file(folder: Path) -> Path:
    return folder_of_something_else(folder)


@case(r"set\.npz is a file; a LeRobotDataset is a folder", format="lerobot")
def file_instead_of_a_folder(folder: Path) -> Path:
    return npz(folder)


@case(r"set\.npz is a file, not a Minari data set", format="minari")
def file_instead_of_a_minari_folder(folder: Path) -> Path:
    return npz(folder)


@case(r"notes\.hdf5 is neither an HDF5 nor an NPZ file, whatever its name")
def text_called_hdf5(folder: Path) -> Path:
    (folder / "notes.hdf5").write_text("demonstrations will follow")
    return folder / "notes.hdf5"


@case(r"notes\.hdf5 is not an HDF5 file, whatever its name", format="robomimic")
def text_taken_for_robomimic(folder: Path) -> Path:
    return text_called_hdf5(folder)


@case(r"empty\.hdf5 is neither an HDF5 nor an NPZ file")
def empty_file(folder: Path) -> Path:
    (folder / "empty.hdf5").touch()
    return folder / "empty.hdf5"


@case(r"set\.npz: only robomimic's files have filter keys.*leave out --filter-key", filter_key="train")
def filter_key_of_another_format(folder: Path) -> Path:
    return npz(folder)


@case(r"Unknown task 'metaworld/reach'\. Did you mean 'metaworld/reach-v3'", task="metaworld/reach")
def misspelt_task(folder: Path) -> Path:
    return npz(folder)


@case(
    r"the task metaworld/reach-v3 do not fit together \(in this order\):"
    r"\s+observation 'state': vector \(2,\) float64 against vector \(39,\) float32"
    r"\s+action dimensions: 1 against 4\s+Choose the parts of the observation with --keys",
    task="metaworld/reach-v3",
)
def task_of_other_dimensions(folder: Path) -> Path:
    return npz(folder)


@case(
    r"action-bounds: \[-1, 2\] against \[-1, 1\]",
    task="metaworld/reach-v3",
    action_high=(2.0,),
)
def task_of_other_action_bounds(folder: Path) -> Path:
    return npz(folder, observations=np.ones((6, 39)), actions=np.zeros((6, 4)))


# ---------------------------------------------------------------------------- arrays in a row


@case(r"set\.npz: has no array 'actions'; it has: observations")
def no_actions(folder: Path) -> Path:
    return npz(folder, actions=None)


@case(r"set\.npz: has no array 'state'; it has: actions", keys=("state",))
def unknown_array(folder: Path) -> Path:
    return npz(folder)


@case(r"set\.npz: has neither terminals nor timeouts.*add `timeouts`")
def no_ends(folder: Path) -> Path:
    return npz(folder, terminals=None, timeouts=None)


@case(r"set\.npz: observations: holds Python objects \(a pickle\), expected real numbers")
def pickled_objects(folder: Path) -> Path:
    return npz(folder, observations=np.array([{"x": 1}] * 6, object))


@case(r"set\.npz: actions: holds dtype <U4, expected real numbers")
def text_for_actions(folder: Path) -> Path:
    return npz(folder, actions=np.array([["left"]] * 6))


@case(r"set\.npz: observations: holds dtype complex128")
def complex_numbers(folder: Path) -> Path:
    return npz(folder, observations=np.ones((6, 2), complex))


@case(r"set\.npz: rewards: has 5 rows, actions have 6")
def unequal_lengths(folder: Path) -> Path:
    return npz(folder, rewards=np.zeros(5))


@case(r"set\.npz: rows 0 to 2: every frame of image is black")
def black_pictures(folder: Path) -> Path:
    return npz(folder, observations=np.zeros((6, 8, 8, 3), np.uint8))


@case(r"set\.npz: rows 3 to 5: observations hold NaN or infinity, first at step 1; mend")
def nan_observation(folder: Path) -> Path:
    observations = np.ones((6, 2))
    observations[4, 1] = np.nan
    return npz(folder, observations=observations)


@case(r"set\.npz: rows 0 to 2: rewards hold NaN or infinity, first at step 1")
def infinite_reward(folder: Path) -> Path:
    return npz(folder, rewards=np.array([0, np.inf, 0, 0, 0, 0]))


@case(r"set\.npz: rows 3 to 5: observations hold numbers beyond 3\.4e38, first at step 0")
def number_too_large_for_float32(folder: Path) -> Path:
    observations = np.ones((6, 2))
    observations[3, 1] = 1e300
    return npz(folder, observations=observations)


@case(r"set\.npz: rows 3 to 5: actions hold NaN or infinity, first at step 0")
def nan_action(folder: Path) -> Path:
    return npz(folder, actions=np.array([[0], [0], [0], [np.nan], [0], [0]]))


@case(r"set\.npz: rows 3 to 5: actions hold NaN or infinity, first at step 1")
def infinite_action(folder: Path) -> Path:
    return npz(folder, actions=np.array([[0], [0], [0], [0], [-np.inf], [0]]))


@case(
    r"rows 0 to 2: actions leave \[-1, 1\], first at step 1 with 2\. "
    r"In the whole set they run over \[-3, 2\](?s:.*)"
    r"--action-low(?s:.*)--clip-actions(?s:.*)absolute poses"
)
def actions_outside(folder: Path) -> Path:
    return npz(folder, actions=np.array([[0], [2], [0], [0], [-3], [0]]))


@case(
    r"actions leave \[-2, 2\], first at step \d with 2\.5\. "
    r"In the whole set they run over \[0, 2\.5\] \[-1, 0\]",
    action_low=(-2.0,),
    action_high=(2.0, 2.0),
)
def actions_outside_the_range_given(folder: Path) -> Path:
    return npz(folder, actions=np.array([[0, 0], [2.5, -1], [0, 0], [0, 0], [1, 0], [0, 0]]))


@case(r"set\.npz: actions are empty")
def no_rows(folder: Path) -> Path:
    nothing = {name: np.zeros(0) for name in ("rewards", "terminals", "timeouts")}
    return npz(folder, observations=np.zeros((0, 2)), actions=np.zeros((0, 1)), **nothing)


@case(r"set\.npz: holds no episodes of two observations or more")
def episodes_of_one_row(folder: Path) -> Path:
    return npz(folder, terminals=np.ones(6, bool))


@case(r"set\.npz: terminals hold values other than 0 and 1, the first of them 2 in row 2; mend")
def ends_that_are_no_flags(folder: Path) -> Path:
    return npz(folder, terminals=np.arange(6))


@case(r"set\.npz: rows 0 to 2: success unknown.*--assume-success")
def success_unknown(folder: Path) -> Path:
    return npz(folder, rewards=None, terminals=None, timeouts=np.array([0, 0, 1, 0, 0, 1]))


@case(r"set\.npz is neither an HDF5 nor an NPZ file.*Is it whole\?")
def cut_npz(folder: Path) -> Path:
    os.truncate(npz(folder), 700)
    return folder / "set.npz"


@case(r"set\.npz: truncated or corrupt \(BadZipFile: Bad CRC-32")
def flipped_bits(folder: Path) -> Path:
    path = npz(folder, observations=np.full((6, 2), 0.123))
    data = path.read_bytes()
    path.write_bytes(data.replace(np.float64(0.123).tobytes(), np.float64(0.124).tobytes(), 1))
    return path


@case(r"set\.npz: observations\.npy: is stored column by column; write it with numpy\.ascontiguousarray")
def columns_first(folder: Path) -> Path:
    return npz(folder, observations=np.asfortranarray(np.ones((6, 2))))


@case(r"set\.npz: has no array 'observations'; it has: nothing")
def no_arrays(folder: Path) -> Path:
    np.savez(folder / "set.npz")
    return folder / "set.npz"


# ---------------------------------------------------------------------------- robomimic


@case(r"lift\.hdf5: truncated or corrupt")
def cut_hdf5(folder: Path) -> Path:
    path = lift(folder, lambda file: None)
    os.truncate(path, path.stat().st_size // 2)
    return path


@case(r"lift\.hdf5: has no filter key 'traning'; it has: train, valid", filter_key="traning")
def unknown_filter_key(folder: Path) -> Path:
    return lift(folder, lambda file: None)


@case(r"lift\.hdf5 has no filter keys \(group 'mask'\); leave out --filter-key", filter_key="train")
def no_filter_keys(folder: Path) -> Path:
    return lift(folder, lambda file: file.pop("mask"))


@case(r"lift\.hdf5: mask/train names 'demo_99', which is not there", filter_key="train")
def filter_key_of_a_missing_demonstration(folder: Path) -> Path:
    return lift(folder, lambda file: replaced(file["mask"], "train", np.array([b"demo_0", b"demo_99"])))


@case(r"lift\.hdf5: mask/none names no demonstrations", filter_key="none")
def empty_filter_key(folder: Path) -> Path:
    return lift(folder, lambda file: file["mask"].create_dataset("none", data=np.array([], "S6")))


@case(r"lift\.hdf5: group 'data' holds no demonstrations")
def no_demonstrations(folder: Path) -> Path:
    return lift(folder, lambda file: [file["data"].pop(name) for name in list(file["data"])])


@case(r"lift\.hdf5: attribute env_args of 'data' is not JSON")
def env_args_that_are_no_json(folder: Path) -> Path:
    return lift(folder, lambda file: file["data"].attrs.update(env_args="{Lift"))


@case(r"lift\.hdf5: /data/demo_0 has no group 'obs'; robomimic's dataset_states_to_obs\.py makes")
def only_states(folder: Path) -> Path:
    return lift(folder, lambda file: file["data/demo_0"].pop("obs"))


@case(r"lift\.hdf5: data/demo_0/obs/object is missing; .* --skip-bad leaves out such episodes")
def missing_key(folder: Path) -> Path:
    return lift(folder, lambda file: file["data/demo_0/obs"].pop("object"))


@case(r"lift\.hdf5: data/demo_2/obs/object is missing")
def key_missing_in_one_demonstration(folder: Path) -> Path:
    return lift(folder, lambda file: file["data/demo_2/obs"].pop("object"))


@case(r"lift\.hdf5: data/demo_10/actions is missing")
def demonstration_without_actions(folder: Path) -> Path:
    return lift(folder, lambda file: file["data/demo_10"].pop("actions"))


@case(r"data/demo_2: the parts of the observation have unequal lengths: .*object 5; mend")
def parts_of_unequal_lengths(folder: Path) -> Path:
    return lift(folder, lambda file: replaced(file["data/demo_2/obs"], "object", np.zeros((5, 10))))


@case(r"data/demo_2: rewards have length 3, expected 28")
def too_few_rewards(folder: Path) -> Path:
    return lift(folder, lambda file: replaced(file["data/demo_2"], "rewards", np.zeros(3)))


@case(r"data/demo_2: observations have length 29, expected 21 for 20 actions")
def too_few_actions(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        replaced(file["data/demo_2"], "actions", np.zeros((20, 7)))

    return lift(folder, change)


@case(r"data/demo_2: has \(observation, action\) dimensions \(18, 7\), most episodes \(19, 7\)")
def demonstration_of_other_dimensions(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        for field in ("obs", "next_obs"):
            group = file["data/demo_2"][field]
            replaced(group, "object", group["object"][:, :9])

    return lift(folder, change)


# ---------------------------------------------------------------------------- LeRobot


@case(r"info\.json: codebase_version is 'v2\.1', expected 'v3\.0'.*convert_dataset_v21_to_v30")
def older_version(folder: Path) -> Path:
    return edit_info(folder, lambda info: info.update(codebase_version="v2.1"))


@case(r"info\.json: not readable as LeRobot's metadata \(KeyError: 'features'\)")
def no_features(folder: Path) -> Path:
    return edit_info(folder, lambda info: info.pop("features"))


@case(r"set: has no low-dimensional feature 'action'; it has")
def no_action_feature(folder: Path) -> Path:
    return edit_info(folder, lambda info: info["features"].pop("action"))


@case(r"set: has neither observation\.state nor observation\.environment_state; give --keys, out of: ")
def no_state_feature(folder: Path) -> Path:
    def change(info: dict[str, Any]) -> None:
        for name in ("observation.state", "observation.environment_state"):
            info["features"].pop(name)

    return edit_info(folder, change)


@case(r"file-000\.parquet: truncated or corrupt")
def cut_parquet(folder: Path) -> Path:
    path = lerobot(folder)
    file = path / "data" / "chunk-000" / "file-000.parquet"
    os.truncate(file, file.stat().st_size // 2)
    return path


@case(r"set: the data end in episode 4 of 5; download it again")
def missing_data_file(folder: Path) -> Path:
    path = lerobot(folder)
    (path / "data" / "chunk-000" / "file-002.parquet").unlink()
    return path


@case(r"set: holds no meta/episodes/chunk-\*/file-\*\.parquet")
def no_episode_table(folder: Path) -> Path:
    path = lerobot(folder)
    shutil.rmtree(path / "meta" / "episodes")
    return path


@case(r"file-000\.parquet: has no column 'next\.reward' of meta/info\.json")
def missing_column(folder: Path) -> Path:
    return edit_parquet(folder, lambda table: table.drop_columns(["next.reward"]))


@case(r"file-002\.parquet: has frames of episode 4 where those of episode 3 belong")
def missing_frames(folder: Path) -> Path:
    return edit_parquet(folder, lambda table: table.slice(1), "file-001.parquet")


@case(r"set: episode 0: action: has vectors of different lengths")
def ragged_vectors(folder: Path) -> Path:
    def change(table: pa.Table) -> pa.Table:
        return with_column(table, "action", [[0.0]] + [[0.0, 0.0]] * (len(table) - 1))

    return edit_parquet(folder, change)


@case(r"set: episode 0: next\.reward: has frames without a value")
def missing_value(folder: Path) -> Path:
    return edit_parquet(
        folder, lambda table: with_column(table, "next.reward", [None] + [0.0] * (len(table) - 1))
    )


@case(r"set: episode 0: action: holds .*, expected real numbers")
def words_for_actions(folder: Path) -> Path:
    return edit_parquet(folder, lambda table: with_column(table, "action", [["go", "stop"]] * len(table)))


# ---------------------------------------------------------------------------- Minari


@case(r"main_data\.hdf5: truncated or corrupt")
def cut_minari(folder: Path) -> Path:
    path = minari_set(folder)
    os.truncate(path / "data" / "main_data.hdf5", 3000)
    return path


@case(r"metadata\.json: not readable as a Minari data set")
def broken_metadata(folder: Path) -> Path:
    path = minari_set(folder)
    (path / "data" / "metadata.json").write_text("{")
    return path


@case(r"set/data: is stored as 'arrow'; only Minari's 'hdf5' is read")
def other_storage(folder: Path) -> Path:
    path = minari_set(folder)
    file = path / "data" / "metadata.json"
    file.write_text(file.read_text().replace('"hdf5"', '"arrow"'))
    return path


@case(r"set/data: observations are one vector without parts; leave out --keys", keys=("observation",))
def keys_of_a_plain_vector(folder: Path) -> Path:
    return minari_set(folder)


@case(r"main_data\.hdf5: episode 1: observations have length 3, expected 4")
def one_observation_too_few(folder: Path) -> Path:
    path = minari_set(folder)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        replaced(file["episode_1"], "observations", np.zeros((3, 2)))
    return path


@case(r"holds no episodes")
def no_episodes(folder: Path) -> Path:
    path = minari_set(folder)
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "total_episodes": 0}))
    return path


# ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_place_and_nothing_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "none"))
    spoil, options, message = CASES[name]
    source = spoil(tmp_path)
    before = files(tmp_path)
    out = tmp_path / "new" / "folder" / "out"
    with pytest.raises(OtprError) as refused:
        ConvertData(str(source), out=out, **options).run()
    assert re.search(message, str(refused.value)), refused.value
    assert files(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_there_are_many() -> None:
    assert len(CASES) >= 25


def test_command_line_says_it_in_one_line_and_keeps_the_old_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = minari_set(tmp_path)
    before = files(tmp_path / "set")
    source = nan_observation(tmp_path)
    assert main(["data", "convert", str(source), "--out", str(old), "--overwrite"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"otpr: {source}: rows 3 to 5: observations hold NaN")
    assert said.err.count("\n") == 1
    assert files(tmp_path / "set") == before
