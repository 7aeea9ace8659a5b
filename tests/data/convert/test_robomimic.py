"""Against a file that robomimic wrote, and what robomimic reads from it: fixtures/make_robomimic.py."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.envs import task_spec
from otpr.errors import OtprError
from otpr.spec import Entry

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIFT = FIXTURES / "lift.hdf5"
DEMOS = ["demo_0", "demo_2", "demo_10", "demo_11"]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, np.ndarray]]:
    """What robomimic's reader gives for each demonstration."""
    with np.load(FIXTURES / "lift_expected.npz") as stored:
        arrays = dict(stored)
    names = arrays.pop("demo")
    return {demo: {name: array[names == demo] for name, array in arrays.items()} for demo in DEMOS}


@pytest.fixture
def lift(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copy(LIFT, tmp_path / "lift.hdf5"))


def as_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def in_task_order(observations: np.ndarray) -> np.ndarray:
    """The file is of robosuite 1.5: `gripper_to_cube_pos`, the last of it, is turned round in our task."""
    return observations * np.repeat([1, -1], [16, 3])


def test_every_number_is_what_robomimic_reads(expected) -> None:
    source = open_source(LIFT)
    assert (source.format, source.task_id) == ("robomimic", "robosuite/lift")
    assert source.keys == (
        ("robot0_eef_pos", 3),
        ("robot0_eef_quat", 4),
        ("robot0_gripper_qpos", 2),
        ("object", 10),
    )
    recorded = list(source.episodes())
    assert [episode.place for episode in recorded] == [f"{LIFT}: data/{demo}" for demo in DEMOS]
    for episode, demo in zip(recorded, DEMOS, strict=True):
        read = expected[demo]
        np.testing.assert_array_equal(episode.observations[:-1], in_task_order(read["obs"]))
        np.testing.assert_array_equal(episode.observations[1:], in_task_order(read["next_obs"]))
        np.testing.assert_array_equal(as_float32(episode.actions), as_float32(read["actions"]))
        np.testing.assert_array_equal(episode.rewards, read["rewards"])
        assert episode.continues is not None
        assert episode.continues.all()


def test_converted_episodes_end_where_the_environment_would(tmp_path: Path, expected) -> None:
    tally = convert(open_source(LIFT), tmp_path / "out")
    written = read_dataset(tmp_path / "out")
    assert written.task_id == "robosuite/lift"
    assert written.meaning.parts[-1] == ("object", 10)
    # the file has the control rate, and observations in float64
    task = task_spec("robosuite/lift").spec
    assert written.spec == dataclasses.replace(task, observation={"state": Entry((19,), "float64")})
    assert written.spec.differences(task) == []
    for episode, demo in zip(written.episodes, DEMOS, strict=True):
        read = expected[demo]
        solved = bool(read["rewards"].any())
        assert solved == (demo != "demo_11")
        steps = int(np.argmax(read["rewards"])) + 1 if solved else len(read["rewards"])
        assert (episode.success, episode.terminated, episode.truncated) == (solved, solved, not solved)
        np.testing.assert_array_equal(episode.rewards, [0.0] * (steps - 1) + [float(solved)])
        np.testing.assert_array_equal(episode.actions, as_float32(read["actions"][:steps]))
        np.testing.assert_array_equal(episode.observations["state"][:-1], in_task_order(read["obs"])[:steps])
        np.testing.assert_array_equal(
            episode.observations["state"][-1], in_task_order(read["next_obs"])[steps - 1]
        )
    assert (tally.episodes, tally.successes, tally.cut, tally.last_dropped) == (4, 3, 3, 0)
    assert tally.cut_steps == sum(len(expected[demo]["rewards"]) for demo in DEMOS) - tally.steps == 9
    assert any("9 later steps left out" in line for line in tally.lines())


def test_filter_keys_choose_demonstrations() -> None:
    chosen = {}
    for name in ("train", "valid"):
        chosen[name] = [
            recorded.place.split("/")[-1] for recorded in open_source(LIFT, filter_key=name).episodes()
        ]
    with h5py.File(LIFT) as file:
        assert sorted(chosen["valid"]) == sorted(name.decode() for name in file["mask/valid"][()])
    assert len(chosen["train"]) == 3
    assert sorted(chosen["train"] + chosen["valid"]) == sorted(DEMOS)


def test_keys_in_the_order_given() -> None:
    source = open_source(LIFT, keys=("object", "robot0_joint_pos"))
    assert source.keys == (("object", 10), ("robot0_joint_pos", 7))
    with h5py.File(LIFT) as file:
        obs = file["data/demo_0/obs"]
        cube, gap = np.split(obs["object"][()], [7], axis=1)
        both = np.hstack([cube, -gap, obs["robot0_joint_pos"][()]])
    np.testing.assert_array_equal(next(source.episodes()).observations[:-1], both)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("PickPlaceCan", "robosuite/can"),
        ("NutAssemblySquare", "robosuite/square"),
        ("TwoArmTransport", "robosuite/transport"),
        ("ToolHang", "robosuite/tool-hang"),
        ("Stack", None),
    ],
)
def test_task_by_the_environment_named(lift: Path, name: str, task: str | None) -> None:
    with h5py.File(lift, "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_name": name, "type": 1, "env_kwargs": {}})
    assert open_source(lift).task_id == task


def test_environment_named_in_bytes(lift: Path) -> None:
    """As writers other than h5py leave it."""
    with h5py.File(lift, "a") as file:
        file["data"].attrs["env_args"] = np.bytes_(b'{"env_name": "ToolHang"}')
    assert open_source(lift).task_id == "robosuite/tool-hang"


def test_second_arm_comes_before_the_objects(lift: Path) -> None:
    with h5py.File(lift, "a") as file:
        for demo in file["data"].values():
            for group in (demo["obs"], demo["next_obs"]):
                for key in ("eef_pos", "eef_quat", "gripper_qpos"):
                    group[f"robot1_{key}"] = group[f"robot0_{key}"][()] + 1
        del file["data"].attrs["env_args"]  # Lift has one arm
    names = [key for key, _ in open_source(lift).keys]
    assert [name.split("_")[0] for name in names] == ["robot0"] * 3 + ["robot1"] * 3 + ["object"]


def test_without_next_obs_the_last_transition_goes_and_its_success_stays(lift: Path, tmp_path: Path) -> None:
    with h5py.File(lift, "a") as file:
        for name, demo in file["data"].items():
            del demo["next_obs"]
            if name == "demo_0":  # its success comes with the last step alone
                demo["rewards"][:-1] = 0
    tally = convert(open_source(lift), tmp_path / "out")
    assert tally.last_dropped == 2  # of the one above and of the failure; the others end earlier
    episodes = read_dataset(tmp_path / "out").episodes
    with h5py.File(lift) as file:
        steps = len(file["data/demo_0/actions"])
        np.testing.assert_array_equal(
            episodes[0].observations["state"][:, -10:-3], file["data/demo_0/obs/object"][:, :7]
        )
        assert len(episodes[3]) == len(file["data/demo_11/actions"]) - 1
    assert len(episodes[0]) == steps - 1
    assert (episodes[0].rewards[-1], episodes[0].success, episodes[0].terminated) == (1.0, True, True)
    assert [episode.success for episode in episodes] == [True, True, True, False]


def test_shaped_rewards_of_robosuite_succeed_at_one(lift: Path) -> None:
    with h5py.File(lift, "a") as file:
        args = json.loads(file["data"].attrs["env_args"])
        args["env_kwargs"]["reward_shaping"] = True
        file["data"].attrs["env_args"] = json.dumps(args)
        for demo in file["data"].values():
            demo["rewards"][:] = np.maximum(demo["rewards"][()], 0.3)
    episodes = list(open_source(lift).episodes())
    assert [bool(episode.success.any()) for episode in episodes] == [True, True, True, False]


def test_without_rewards_dones_tell(lift: Path, tmp_path: Path) -> None:
    with h5py.File(lift, "a") as file:
        for name, demo in file["data"].items():
            del demo["rewards"]
            demo["dones"][:] = 0
            demo["dones"][-1] = name != "demo_2"
    tally = convert(open_source(lift), tmp_path / "out", rules=Rules())
    assert (tally.successes, tally.rewards_made) == (3, 4)
    for episode in read_dataset(tmp_path / "out").episodes:
        np.testing.assert_array_equal(episode.rewards[:-1], 0)
        assert episode.rewards[-1] == episode.success == episode.terminated


def test_other_rewards_do_not_tell_success(lift: Path, tmp_path: Path) -> None:
    with h5py.File(lift, "a") as file:
        file["data/demo_2/rewards"][:] = 0.5
    with pytest.raises(
        OtprError, match=r"lift\.hdf5: data/demo_0: success unknown: the rewards take many.*--assume-succ"
    ):
        convert(open_source(lift), tmp_path / "out")
    tally = convert(open_source(lift), tmp_path / "out", rules=Rules(assume_success=True))
    # one episode of other rewards, and 0 and 1 mean in no episode what they seem to
    assert (tally.assumed, tally.successes, tally.dense) == (4, 4, 1)
