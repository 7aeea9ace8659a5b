"""Images in robomimic's files, arrays, Minari's sets and runs' experience."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import minari
import numpy as np
import PIL.Image
import pytest
from gymnasium.spaces import Box, Dict
from minari.data_collector import EpisodeBuffer

from otpr.cli.main import main
from otpr.data import frames, spool
from otpr.data.collect import collect
from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset, setup_of
from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter
from otpr.data.loading import DataConfig
from otpr.data.overlap import Sample
from otpr.envs import Setup, task_spec
from otpr.envs.cameras import Camera
from otpr.errors import OtprError

LENGTHS = (4, 7, 3)
VECTORS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 14}
PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
CAMERAS = {"agentview": (24, 32, 3), "robot0_eye_in_hand": (20, 20, 3)}


def pictures(steps: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, steps]).integers(0, 256, (steps, *shape)).astype(np.uint8)


def robomimic(
    path: Path, next_obs: bool = True, cameras: dict = CAMERAS, **options
) -> list[dict[str, np.ndarray]]:
    """As robomimic's `dataset_states_to_obs` lays it out; gives the frames, those after the last step too."""
    options = options or {"compression": "gzip"}
    generator = np.random.default_rng(0)
    made = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_version": "1.4.1"})
        for number, steps in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{number}")
            whole = {f"{name}_image": pictures(steps + 1, shape, number) for name, shape in cameras.items()}
            made.append({name.removesuffix("_image"): array for name, array in whole.items()})
            for key, dim in VECTORS.items():
                whole[key] = generator.uniform(-1, 1, (steps + 1, dim))
            # the object is where it is seen from the hand, in robosuite 1.4's order
            whole["robot0_eef_quat"] = np.tile([0.0, 0, 0, 1], (steps + 1, 1))
            place = generator.uniform(-1, 1, (steps + 1, 3))
            whole["object"] = np.hstack(
                [
                    place,
                    whole["robot0_eef_quat"],
                    place - whole["robot0_eef_pos"],
                    whole["robot0_eef_quat"],
                ]
            )
            for key, values in whole.items():
                kept = options if values.dtype == np.uint8 else {}
                demo.create_dataset(f"obs/{key}", data=values[:-1], **kept)
                if next_obs:
                    demo.create_dataset(f"next_obs/{key}", data=values[1:], **kept)
            demo["actions"] = generator.uniform(-1, 1, (steps, 7))
            demo["rewards"] = np.eye(1, steps, steps - 1)[0]
    return made


@pytest.mark.parametrize("chunks", [None, (2, 5, 7, 3), (100, 24, 32, 1)])
def test_robomimic_frames_are_those_stored_and_the_one_after_the_last(tmp_path: Path, chunks) -> None:
    options = {"compression": "gzip", **({"chunks": chunks, "maxshape": (None,) * 4} if chunks else {})}
    made = robomimic(tmp_path / "can.hdf5", cameras={"agentview": (24, 32, 3)}, **options)
    for recorded, one in zip(open_source(tmp_path / "can.hdf5").episodes(), made, strict=True):
        np.testing.assert_array_equal(recorded.images["agentview"], one["agentview"])


@pytest.mark.parametrize("at_once", [1, 4000, 2**24])
def test_without_next_observations_frames_end_with_the_steps(
    tmp_path: Path, at_once: int, monkeypatch
) -> None:
    monkeypatch.setattr(frames, "_AT_ONCE", at_once)
    for name, options in {"gzip": {}, "plain": {"track_times": False}}.items():
        made = robomimic(tmp_path / name, next_obs=False, **options)
        tally = convert(open_source(tmp_path / name), tmp_path / f"{name}-out", check=False)
        assert (tally.episodes, tally.last_dropped) == (3, 3)
        read = read_dataset(tmp_path / f"{name}-out").episodes
        for episode, one in zip(read, made, strict=True):
            for camera in CAMERAS:
                np.testing.assert_array_equal(episode.observations[camera], one[camera][:-1])


def test_frames_in_one_piece_are_mapped_and_not_copied(tmp_path: Path, monkeypatch) -> None:
    robomimic(tmp_path / "can.hdf5", next_obs=False, track_times=False)
    monkeypatch.setattr(spool.Spool, "keep", None)
    recorded = list(open_source(tmp_path / "can.hdf5").episodes())
    assert [len(one.images["agentview"]) for one in recorded] == list(LENGTHS)
    assert not recorded[0].images["agentview"].flags.writeable


@pytest.mark.parametrize(
    ("keys", "observe"),
    [
        ((), "state"),
        ((*PROPRIOCEPTION, "agentview_image", "robot0_eye_in_hand_image"), "proprioception"),
        (("robot0_eye_in_hand_image", "agentview_image"), "images"),
    ],
)
def test_the_task_is_seen_as_the_file_shows_it(tmp_path: Path, keys, observe) -> None:
    made = robomimic(tmp_path / "can.hdf5")
    convert(open_source(tmp_path / "can.hdf5", keys=keys), tmp_path / "out", check=False)
    setup = setup_of(tmp_path / "out")
    assert setup is not None
    assert (setup.task, setup.observe) == ("robosuite/can", observe)
    assert {camera.name: (camera.height, camera.width, 3) for camera in setup.cameras} == CAMERAS
    sets, found = DataConfig((str(tmp_path / "out"),)).read(None)
    assert found == setup
    vectors = {"state": {"state": (23,)}, "proprioception": {"state": (9,)}, "images": {}}[observe]
    for episode, one in zip(sets[0], made, strict=True):
        assert {name: array.shape[1:] for name, array in episode.observations.items()} == {
            **CAMERAS,
            **vectors,
        }
        np.testing.assert_array_equal(episode.observations["agentview"], one["agentview"])


def test_a_run_may_see_less_than_the_set_shows(tmp_path: Path) -> None:
    made = robomimic(tmp_path / "can.hdf5")
    convert(open_source(tmp_path / "can.hdf5"), tmp_path / "out", check=False)
    less = Setup("robosuite/can", observe="proprioception", cameras=(Camera("robot0_eye_in_hand", 20, 20),))
    told: list[str] = []
    sets, _ = DataConfig((str(tmp_path / "out"),)).read(less, told.append)
    assert any("images that the task does not show are left out: agentview" in line for line in told)
    for episode, one in zip(sets[0], made, strict=True):
        assert {name: array.shape[1:] for name, array in episode.observations.items()} == {
            "robot0_eye_in_hand": (20, 20, 3),
            "state": (9,),
        }
        np.testing.assert_array_equal(episode.observations["robot0_eye_in_hand"], one["robot0_eye_in_hand"])
    other = Setup("robosuite/can", cameras=(Camera("agentview", 24, 24),))
    with pytest.raises(
        OtprError, match=r"'agentview': image \(24, 32, 3\) uint8 against image \(24, 24, 3\)"
    ):
        DataConfig((str(tmp_path / "out"),)).read(other)


def test_a_run_may_see_of_an_undivided_vector_what_the_robot_knows(tmp_path: Path) -> None:
    whole = Setup("metaworld/reach-v3", cameras=(Camera("corner2", 16, 16),))
    vector = np.random.default_rng(0).normal(size=(4, 39)).astype(np.float32)
    episode = Episode(
        {"corner2": pictures(4, (16, 16, 3)), "state": vector},
        np.zeros((3, 4), np.float32),
        np.ones(3, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=None,
    )
    write_dataset(
        [episode],
        tmp_path / "set",
        spec=task_spec(whole).spec,
        task_id=whole.task,
        view=whole.view(),
        expert="e",
        noise=0.0,
        seed=0,
    )
    told: list[str] = []
    own = replace(whole, observe="proprioception")
    (read,), setup = DataConfig((str(tmp_path / "set"),)).read(own, told.append)
    assert setup == own
    np.testing.assert_array_equal(read[0].observations["state"], vector[:, [0, 1, 2, 3, 18, 19, 20, 21]])
    assert any("8 numbers are read: what the robot knows of itself" in line for line in told)
    (read,), _ = DataConfig((str(tmp_path / "set"),)).read(whole)
    np.testing.assert_array_equal(read[0].observations["state"], vector)


def test_a_camera_that_the_task_lacks_is_a_difference_that_lists_them(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5", cameras={"agentview": (24, 32, 3), "top": (24, 32, 3)})
    with pytest.raises(
        OtprError, match=r"(?s)observation 'top': image \(24, 32, 3\) uint8 against nothing"
    ) as error:
        convert(open_source(tmp_path / "can.hdf5"), tmp_path / "out")
    assert "The task robosuite/can shows frontview, birdview, agentview, " in str(error.value)
    assert "'agentview': image" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((8, 8, 3), "frames of its cameras are 16 to 1024 pixels"),
        ((24, 32, 1), r"'agentview': image \(24, 32, 1\) uint8 against image \(24, 32, 3\) uint8"),
    ],
)
def test_frames_that_no_camera_makes_are_a_difference(tmp_path: Path, shape, text) -> None:
    robomimic(tmp_path / "can.hdf5", cameras={"agentview": shape})
    with pytest.raises(OtprError, match=text):
        convert(open_source(tmp_path / "can.hdf5"), tmp_path / "out")


def test_other_parts_are_a_difference_that_says_which_there_are(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5")
    source = open_source(tmp_path / "can.hdf5", keys=("robot0_eef_pos", "agentview_image"))
    with pytest.raises(OtprError, match="robot0_gripper_qpos: what the robot knows of itself"):
        convert(source, tmp_path / "out")


def test_another_order_of_what_the_robot_knows_can_be_accepted(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5")
    source = open_source(tmp_path / "can.hdf5", keys=(*PROPRIOCEPTION[::-1], "agentview_image"))
    with pytest.raises(OtprError, match="--accept observation-order"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", accept=("observation-order",), check=False)
    setup = setup_of(tmp_path / "out")
    assert setup is not None and setup.observe == "proprioception"


# ----------------------------------------------------------------------------------------------- bad frames


def spoil(path: Path, change: Callable[[h5py.Group], None]) -> None:
    with h5py.File(path, "a") as file:
        change(file["data/demo_1"])


def put(group: h5py.Group, name: str, values: np.ndarray) -> None:
    del group[name]
    group[name] = values


BAD = {
    "another size": (
        lambda demo: put(demo, "obs/agentview_image", pictures(7, (24, 33, 3))),
        r"data/demo_1/obs/agentview_image: is uint8 of shape \(7, 24, 33, 3\), expected uint8 of ",
    ),
    "floats": (
        lambda demo: put(demo, "obs/agentview_image", np.ones((7, 24, 32, 3), np.float32)),
        "is float32 of shape",
    ),
    "fewer frames": (
        lambda demo: put(demo, "obs/agentview_image", pictures(6, (24, 32, 3))),
        "agentview has 7 frames, expected 8, one an observation",
    ),
    "none after the last": (
        lambda demo: demo.pop("next_obs/agentview_image"),
        "next_obs/agentview_image is missing",
    ),
    "black": (
        lambda demo: [
            put(demo, f"{f}/agentview_image", np.zeros((7, 24, 32, 3), np.uint8)) for f in ("obs", "next_obs")
        ],
        "every frame of agentview is black",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_cost_their_episode(tmp_path: Path, name: str) -> None:
    made = robomimic(tmp_path / "can.hdf5")
    change, text = BAD[name]
    spoil(tmp_path / "can.hdf5", change)
    with pytest.raises(OtprError, match=f"{text}.*--skip-bad"):
        convert(open_source(tmp_path / "can.hdf5"), tmp_path / "out", check=False)
    tally = convert(
        open_source(tmp_path / "can.hdf5"), tmp_path / "out", rules=Rules(skip_bad=True), check=False
    )
    assert (tally.episodes, tally.bad) == (2, 1)
    read = read_dataset(tmp_path / "out").episodes
    for episode, one in zip(read, (made[0], made[2]), strict=True):
        np.testing.assert_array_equal(episode.observations["agentview"], one["agentview"])


def test_floats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5", cameras={})
    with h5py.File(tmp_path / "can.hdf5", "a") as file:
        for steps, demo in zip(LENGTHS, file["data"].values(), strict=True):
            demo["obs/agentview_image"] = np.ones((steps, 24, 32, 3), np.float32)
    with pytest.raises(
        OtprError, match=r"obs/agentview_image: holds images of float32, expected uint8.*255 \* image"
    ):
        open_source(tmp_path / "can.hdf5")


def test_frames_that_are_claimed_and_never_written_take_no_memory_or_disk(tmp_path: Path) -> None:
    """Without contents HDF5 takes no room for chunks."""
    robomimic(tmp_path / "can.hdf5", cameras={})
    with h5py.File(tmp_path / "can.hdf5", "a") as file:
        for demo in file["data"].values():
            demo.create_dataset("obs/agentview_image", (10**12, 24, 32, 3), np.uint8, chunks=(1, 24, 32, 3))
            demo["next_obs/agentview_image"] = pictures(3, (24, 32, 3))
    first = next(open_source(tmp_path / "can.hdf5").read())
    assert isinstance(first, OtprError)
    assert "no room to unpack its frames" in str(first) and "TMPDIR" in str(first)
    with h5py.File(tmp_path / "can.hdf5", "a") as file:
        for demo in file["data"].values():
            del demo["obs/agentview_image"]
            demo.create_dataset("obs/agentview_image", (5, 10**5, 10**5, 3), np.uint8, chunks=(1, 99, 99, 3))
    with pytest.raises(OtprError, match="a frame"):
        open_source(tmp_path / "can.hdf5")


# --------------------------------------------------------------------------------------------------- arrays


def arrays(**more: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    base = {
        "actions": generator.uniform(-1, 1, (9, 2)),
        "rewards": np.eye(1, 9, 3)[0],
        "timeouts": np.zeros(9),
    }
    base["timeouts"][[3, 8]] = 1
    return {**base, **more}


def save(path: Path, **values: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **values)
    else:
        with h5py.File(path, "w") as file:
            for name, array in values.items():
                file.create_dataset(name, data=array, compression="gzip")
    return path


@pytest.mark.parametrize("name", ["set.npz", "set.hdf5"])
def test_arrays_of_bytes_are_images_by_their_names(tmp_path: Path, name: str) -> None:
    vector, front, side = np.ones((9, 3)), pictures(9, (6, 7, 3)), pictures(9, (3, 5, 8))
    path = save(
        tmp_path / name, **arrays(observations=vector, front=front, side=side, depth=np.ones((9, 6, 7, 1)))
    )
    source = open_source(path)
    assert source.keys == (("observations", 3),)
    assert {key: entry.shape for key, entry in source.images.items()} == {
        "front": (6, 7, 3),
        "side": (5, 8, 3),
    }
    first, second = source.episodes()
    np.testing.assert_array_equal(np.concatenate([first.images["front"], second.images["front"]]), front)
    channels_last = np.moveaxis(side, 1, -1)
    np.testing.assert_array_equal(
        np.concatenate([first.images["side"], second.images["side"]]), channels_last
    )
    assert [*open_source(path, keys=("front",)).images] == ["front"]
    with pytest.raises(OtprError, match="depth: holds images of float64"):
        open_source(path, keys=("depth",))


@pytest.mark.parametrize("block", [2**24, 100])
def test_observations_that_are_images_have_the_frame_after_the_last_step(
    tmp_path: Path, block, monkeypatch
) -> None:
    monkeypatch.setattr(frames, "_AT_ONCE", block)
    states = [pictures(5, (6, 7, 3), 1), pictures(6, (6, 7, 3), 2)]
    before, after = (np.concatenate([one[part] for one in states]) for part in (slice(-1), slice(1, None)))
    path = save(tmp_path / "set.npz", **arrays(observations=before, next_observations=after))
    source = open_source(path)
    assert (source.keys, list(source.images), source.last_observation) == ((), ["image"], True)
    for recorded, one in zip(source.episodes(), states, strict=True):
        np.testing.assert_array_equal(recorded.images["image"], one)
        assert recorded.continues is not None and recorded.continues.all()
    after[1, 0, 0, 0] ^= 1
    save(path, **arrays(observations=before, next_observations=after))
    with pytest.raises(
        OtprError, match="next observation of 1 of 4 steps is not the following row, first that of step 1"
    ):
        convert(open_source(path), tmp_path / "out")


def test_ogbench_of_images(tmp_path: Path) -> None:
    front = pictures(9, (6, 7, 3))
    path = save(
        tmp_path / "visual.npz",
        observations=front,
        actions=np.zeros((9, 2)),
        terminals=np.eye(9)[[3, 8]].sum(axis=0),
        qpos=np.zeros((9, 4)),
    )
    source = open_source(path)
    assert source.format == "ogbench"
    first, second = source.episodes()
    assert (len(first.actions), len(second.actions)) == (3, 4)
    np.testing.assert_array_equal(first.images["image"], front[:4])
    np.testing.assert_array_equal(second.images["image"], front[4:])


def test_an_array_of_images_with_other_rows_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", **arrays(observations=np.ones((9, 3)), front=pictures(8, (6, 7, 3))))
    with pytest.raises(OtprError, match="front: has 8 rows, actions have 9"):
        open_source(path)


@pytest.mark.parametrize("name", ["front", "side"])
def test_an_environment_of_the_users_shows_the_images_of_its_space(tmp_path: Path, name: str) -> None:
    task = "tests.data.agreement_envs:seen"
    pair = {"pos": np.ones((9, 2)), "goal": np.zeros((9, 2))}
    path = save(tmp_path / "set.npz", **arrays(**pair, **{name: pictures(9, (8, 9, 3))}))
    source = open_source(path, keys=("pos", "goal", name), task=task)
    rules = Rules(assume_success=True, action_low=(-0.05,), action_high=(0.05,), clip_actions=True)
    if name == "side":
        with pytest.raises(OtprError, match=f"The task {task} shows front: choose the images with --keys"):
            convert(source, tmp_path / "out", task=task, rules=rules, accept=("observation-order",))
        return
    accept = ("observation-order",)
    convert(source, tmp_path / "out", task=task, rules=rules, accept=accept, check=False)
    sets, setup = DataConfig((str(tmp_path / "out"),)).read(None)
    assert setup == Setup(task)
    assert {entry: array.shape[1:] for entry, array in sets[0][0].observations.items()} == {
        "front": (8, 9, 3),
        "state": (4,),
    }


# --------------------------------------------------------------------------------------------------- Minari


def test_minari_reads_the_frames_of_our_sets(tmp_path: Path) -> None:
    made = robomimic(tmp_path / "can.hdf5")
    for number, keys in enumerate([(), ("agentview_image",)]):
        out = tmp_path / f"out{number}"
        convert(open_source(tmp_path / "can.hdf5", keys=keys), out, check=False)
        read = minari.MinariDataset(out / "data").iterate_episodes()
        for episode, one in zip(read, made, strict=True):
            np.testing.assert_array_equal(episode.observations["agentview"], one["agentview"])


@pytest.mark.filterwarnings("ignore:.*is (set to )?None")
@pytest.mark.parametrize(("jpeg", "faster"), [(False, 5), (True, 5), (True, 0)])
def test_minaris_frames_are_those_that_minari_reads(tmp_path: Path, jpeg, faster: int, monkeypatch) -> None:
    # JPEGs of one length are stored in another way
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = Dict({"front": Box(0, 255, (32, 40, 3), np.uint8), "pose": Box(-9, 9, (2,), np.float32)})
    smooth = np.linspace(0, 200, 32 * 40 * 3).reshape(32, 40, 3)
    buffers = [
        EpisodeBuffer(
            observations={
                "front": [(smooth + faster * step).astype(np.uint8) for step in range(steps + 1)],
                "pose": [np.full(2, step, np.float32) for step in range(steps + 1)],
            },
            actions=[np.zeros(2, np.float32)] * steps,
            rewards=[0.0] * (steps - 1) + [1.0],
            terminations=[False] * (steps - 1) + [True],
            truncations=[False] * steps,
            infos={},
        )
        for steps in (3, 5)
    ]
    written = minari.create_dataset_from_buffers(
        "odd/front-v0",
        buffers,
        observation_space=space,
        action_space=Box(-1, 1, (2,), np.float32),
        jpeg_encoding=jpeg,
        code_permalink="none",
        author="none",
    )
    episodes = read_dataset("odd/front-v0").episodes
    for ours, theirs in zip(episodes, written.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(ours.observations["front"], theirs.observations["front"])
        np.testing.assert_array_equal(ours.observations["state"], theirs.observations["pose"])
    with h5py.File(tmp_path / "odd" / "front-v0" / "data" / "main_data.hdf5") as file:
        assert (file["episode_0/observations/front"].ndim == 4) != jpeg
    assert [*open_source("odd/front-v0", keys=("front",)).images] == ["front"]
    assert open_source("odd/front-v0", keys=("pose",)).images == {}


def test_a_set_of_ours_keeps_its_frames_and_its_view(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5")
    convert(open_source(tmp_path / "can.hdf5"), tmp_path / "one", check=False)
    convert(open_source(tmp_path / "one"), tmp_path / "two", check=False)
    assert setup_of(tmp_path / "two") == setup_of(tmp_path / "one")
    for mine, other in zip(
        read_dataset(tmp_path / "one").episodes, read_dataset(tmp_path / "two").episodes, strict=True
    ):
        for name, array in mine.observations.items():
            np.testing.assert_array_equal(array, other.observations[name])
    keys = (*PROPRIOCEPTION, "agentview")
    convert(open_source(tmp_path / "one", keys=keys), tmp_path / "three", check=False)
    assert setup_of(tmp_path / "three") == Setup(
        "robosuite/can", observe="proprioception", cameras=(Camera("agentview", 24, 32),)
    )
    convert(open_source(tmp_path / "one", keys=("agentview",)), tmp_path / "four", check=False)
    assert setup_of(tmp_path / "four") == Setup(
        "robosuite/can", observe="images", cameras=(Camera("agentview", 24, 32),)
    )


def test_a_set_without_a_task_is_seen_as_its_images_tell(tmp_path: Path) -> None:
    robomimic(tmp_path / "can.hdf5")
    with h5py.File(tmp_path / "can.hdf5", "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Mine"})
    convert(open_source(tmp_path / "can.hdf5"), tmp_path / "out")
    assert setup_of(tmp_path / "out") is None
    setup = setup_of(tmp_path / "out", "robosuite/can")
    assert setup is not None and {camera.name for camera in setup.cameras} == set(CAMERAS)


# ------------------------------------------------------------------------------------------------ experience


def test_experience_that_was_looked_at_now_and_then_is_shown_and_not_converted(
    tmp_path: Path, capsys
) -> None:
    setup = Setup("metaworld/reach-v3", cameras=(Camera("corner2", 16, 16),))
    spec = task_spec(setup).spec
    looked = np.array([0, 4, 8], np.int32)
    episode = Episode(
        {"corner2": pictures(3, (16, 16, 3)), "state": np.zeros((9, 39), np.float32)},
        np.zeros((8, 4), np.float32),
        np.zeros(8, np.float32),
        terminated=False,
        truncated=True,
        success=False,
        seed=3,
        looked=looked,
    )
    ExperienceWriter(tmp_path / "experience", setup, spec).add([episode])
    source = open_source(tmp_path / "experience")
    (recorded,) = source.episodes()
    np.testing.assert_array_equal(recorded.images["corner2"], episode.observations["corner2"])
    np.testing.assert_array_equal(recorded.looked, looked)
    main(["data", "inspect", str(tmp_path / "experience"), "--json"])
    assert json.loads(capsys.readouterr().out)["images"][0]["frames"] == 3
    with pytest.raises(OtprError, match="`experience` of a run can be given as --data as it is"):
        convert(source, tmp_path / "out", rules=Rules(skip_bad=True), check=False)


# ----------------------------------------------------------------------------------------------------- spool


def test_many_episodes_share_few_files(tmp_path: Path) -> None:
    room = spool.Spool()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    kept = [room.keep([pictures(2, (4, 4, 3), seed)], (2, 4, 4, 3), "x") for seed in range(3000)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    for seed, array in enumerate(kept):
        np.testing.assert_array_equal(array, pictures(2, (4, 4, 3), seed))


def test_episodes_of_one_file_share_one_map(tmp_path: Path) -> None:
    episode = Episode(
        {"front": pictures(3, (4, 4, 3))},
        np.zeros((2, 1), np.float32),
        np.ones(2, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=None,
    )
    write_dataset(
        [replace(episode, seed=i) for i in range(300)],
        tmp_path / "set",
        task_id=None,
        expert="",
        noise=0,
        seed=0,
    )
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    episodes = read_dataset(tmp_path / "set").episodes
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    np.testing.assert_array_equal(episodes[299].observations["front"], pictures(3, (4, 4, 3)))


def test_what_comes_before_the_file_is_passed_over(tmp_path: Path) -> None:
    frames_in = pictures(5, (6, 7, 3))
    with h5py.File(tmp_path / "file.hdf5", "w", userblock_size=1024) as file:
        file["front"], file["late"] = frames_in, np.zeros((0, 6, 7, 3), np.uint8)
        file.create_dataset("unwritten", (2, 6, 7, 3), np.uint8, fillvalue=7)
    image = frames.image_in_file((6, 7, 3), np.dtype(np.uint8), "x")
    with h5py.File(tmp_path / "file.hdf5") as file:
        read = {name: frames.stored_frames(file, name, image, name, spool.Spool()) for name in file}
    np.testing.assert_array_equal(read["front"], frames_in)
    assert read["late"].shape == (0, 6, 7, 3)
    np.testing.assert_array_equal(read["unwritten"], np.full((2, 6, 7, 3), 7))


def test_files_of_a_spool_go_with_their_arrays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(spool, "SEGMENT", 200)
    room = spool.Spool()
    kept = [room.keep([pictures(2, (4, 4, 3), seed)], (2, 4, 4, 3), "x") for seed in range(9)]
    assert list(tmp_path.iterdir()) == []  # they have no names
    for seed, array in enumerate(kept):
        np.testing.assert_array_equal(array, pictures(2, (4, 4, 3), seed))
    large = room.keep([pictures(2, (9, 9, 3))], (2, 9, 9, 3), "x")  # more than a file usually holds
    np.testing.assert_array_equal(large, pictures(2, (9, 9, 3)))


def test_frames_that_end_early_are_fewer_and_more_are_refused() -> None:
    room = spool.Spool()
    assert len(room.keep([pictures(2, (4, 4, 3))], (5, 4, 4, 3), "x")) == 2
    with pytest.raises(OtprError, match="x: has more frames than the 1 that it claims"):
        room.keep([pictures(2, (4, 4, 3))], (1, 4, 4, 3), "x")


def test_a_picture_that_unpacks_to_much_is_refused_before(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (9000, 9000)).save(tmp_path / "big.png")
    image = frames.image_in_file((8, 8, 3), np.dtype(np.uint8), "x")
    with pytest.raises(OtprError, match=r"9000 x 9000 pixels \(height x width\), expected 8 x 8"):
        frames.decoded((tmp_path / "big.png").read_bytes(), image, "x")


# ----------------------------------------------------------------------------------------- resets and replays


def test_episodes_of_images_alone_are_replayed_blind() -> None:
    setup = Setup("metaworld/reach-v3", observe="images", cameras=(Camera("corner2", 16, 16),))
    (episode,) = collect(setup, episodes=1, noise=0.0, seed=0)
    for given, told in (
        (episode, []),
        (
            replace(episode, success=False),
            ["replay of episode 0 from its seed ends with success, the stored"],
        ),
    ):
        sample = Sample()
        sample.add(given)
        lines = sample.compared(task_spec(setup))
        assert len(lines) == len(told)
        assert all(line.startswith(text) for line, text in zip(lines, told, strict=True))
