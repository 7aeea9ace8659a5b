"""robomimic's HDF5 files, layout v1 (robomimic 0.1 to 0.5; Mandlekar et al., CoRL 2021).

`data/demo_i/{obs/KEY, next_obs/KEY, actions, rewards, dones}`, the simulator in the JSON of
`data.attrs["env_args"]`, and subsets of the demonstrations by name in `mask/NAME`. Of the keys of `obs`,
`CAMERA_image` holds a camera's upright frames, (steps, height, width, 3).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.convert.robosuite_args import facts, order, read_env_args, version
from otpr.data.evidence import DONES, SHAPED
from otpr.data.flags import as_flags
from otpr.data.frames import image_in_file, stored_frames
from otpr.data.meaning import chosen
from otpr.data.reading import check_size, dataset, missing, open_hdf5, reading, stored, subgroup
from otpr.data.recorded import Recorded, Source, attempt, by_kind, by_step, columns, join, rate, same_rows
from otpr.data.spool import Spool
from otpr.envs import TaskSpec
from otpr.envs.image_spaces import Image
from otpr.envs.robosuite_objects import FORMER, LATER, hand_entries, in_our_order, object_dim
from otpr.errors import OtprError

_TASKS = {
    "Lift": "robosuite/lift",
    "PickPlaceCan": "robosuite/can",
    "NutAssemblySquare": "robosuite/square",
    "TwoArmTransport": "robosuite/transport",
    "ToolHang": "robosuite/tool-hang",
}
# robomimic's low-dimensional observation of these tasks, in its order; the second arm is Transport's.
_FIRST_ARM = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
_SECOND_ARM = ("robot1_eef_pos", "robot1_eef_quat", "robot1_gripper_qpos")
# `type` in env_args of a robosuite environment.
_ROBOSUITE = 1
_FRAMES = "_image"  # at the end of a key, behind the camera's name


@dataclass(frozen=True)
class _Wanted:
    """The parts of each demonstration that are read.

    Attributes:
        keys: the vectors, in order.
        images: the images by key.
        later: the task whose `object` must be reordered, if any.
    """

    keys: tuple[str, ...]
    images: Mapping[str, Image]
    later: str | None


def is_robomimic(file: h5py.File) -> bool:
    """Whether an open HDF5 file is a robomimic file."""
    data = file.get("data")
    return isinstance(data, h5py.Group) and (
        "env_args" in data.attrs or any(str(name).startswith("demo_") for name in data)
    )


def open_robomimic(
    path: Path,
    keys: tuple[str, ...] = (),
    filter_key: str | None = None,
    task: TaskSpec | None = None,
) -> Source:
    """Open a robomimic file.

    Args:
        path: the HDF5 file.
        keys: entries of `obs`, the vectors in the order wanted; none: all images, and the parts of the task,
            where all of them are there, else robomimic's own low-dimensional ones.
        filter_key: the entry of `mask` that names the demonstrations to read; None: all.
        task: the task that the data are for.

    Raises:
        OtprError: the file has another format, or a key is missing.
    """
    with open_hdf5(path) as file, reading(path):
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise OtprError(
                f"{path} is not a robomimic file: it has no group 'data', but {', '.join(file) or 'nothing'}."
            )
        env_args = read_env_args(path, data)
        demos = _demos(path, file, filter_key)
        keys, known, images, first = _keys(path, data, demos, keys, task)
        dims = tuple((key, known[key]) for key in keys)
        said = facts(env_args)
        ours = _TASKS.get(env_args.get("env_name", ""))
        later: str | None = None
        if "object" in keys and ours is not None:
            if task is not None and task.id == ours and known["object"] == dict(task.parts)["object"]:
                found = _order(path, _group(path, data, first), first, ours, env_args, known)
                later = ours.partition("/")[2] if found == LATER else None
                said["object"] = FORMER
            elif (stated := version(env_args)) is not None:
                said["object"] = LATER if stated >= (1, 5) else FORMER
        complete = {"next_obs" in _group(path, data, demo) for demo in demos}

    wanted = _Wanted(keys, images, later)

    def read(*, images: bool = True) -> Iterator[Recorded | OtprError]:
        spool = Spool() if images else None
        with open_hdf5(path) as file:
            for demo in demos:
                yield attempt(functools.partial(_read, path, file, demo, wanted, env_args, spool))

    shown = f"{len(demos)} demonstrations" + (f" of filter key {filter_key!r}" if filter_key else "")
    notes = [f"{shown}, environment {env_args.get('env_name', 'not named')}"]
    if later is not None:
        notes.append(f"object brought from {LATER} into the task's, relative poses computed anew")
    return Source(
        format="robomimic",
        path=path,
        keys=dims,
        read=read,
        images={_camera(key): image.entry for key, image in images.items()},
        task_id=ours,
        facts=said,
        control_rate=rate(env_args.get("env_kwargs", {}).get("control_freq")),
        last_observation=complete.pop() if len(complete) == 1 else None,
        notes=tuple(notes),
    )


def _order(
    path: Path, demo: h5py.Group, name: str, task: str, env_args: dict[str, Any], known: dict[str, int]
) -> str:
    """The order of `object` in a file of the robosuite task, by the poses of its first demonstration."""
    place, task_name = f"{path}: data/{name}", task.partition("/")[2]
    hands = hand_entries(task_name)
    if absent := [entry for entry in hands if entry not in known]:
        if (stated := version(env_args)) is not None and stated < (1, 5):
            return FORMER
        raise OtprError(
            f"{place}: what obs/object is made of cannot be told without {absent[0]}, which the file lacks; "
            "extract the observations again with it, or leave `object` out with --keys."
        )
    objects = _columns(demo, place, "obs/object").astype(np.float64)
    poses = {entry: _columns(demo, place, f"obs/{entry}").astype(np.float64) for entry in hands}
    return order(task_name, env_args, objects, poses, place)


def _demos(path: Path, file: h5py.File, filter_key: str | None) -> list[str]:
    """The demonstrations' names in numerical order: demo_10 comes after demo_2."""
    present = [name for name in map(str, subgroup(file, "data")) if re.fullmatch(r"demo_\d+", name)]
    if not present:
        raise OtprError(
            f"{path}: group 'data' holds no demonstrations (demo_0, demo_1, ...); give a file that does."
        )
    chosen = present
    if filter_key is not None:
        masks = sorted(subgroup(file, "mask").keys()) if "mask" in file else []
        if not masks:
            raise OtprError(f"{path} has no filter keys (group 'mask'); leave out --filter-key.")
        if filter_key not in masks:
            raise missing(str(path), "filter key", filter_key, masks)
        chosen = [
            name.decode() if isinstance(name, bytes) else str(name) for name in _names(file, filter_key)
        ]
        absent = sorted(set(chosen) - set(present))
        if absent:
            raise OtprError(
                f"{path}: mask/{filter_key} names {absent[0]!r}, which is not there; use another one."
            )
        if not chosen:
            raise OtprError(f"{path}: mask/{filter_key} names no demonstrations; use another --filter-key.")
    return sorted(chosen, key=lambda name: int(name.removeprefix("demo_")))


def _names(file: h5py.File, filter_key: str) -> NDArray[Any]:
    entry = dataset(file, f"mask/{filter_key}")
    check_size(entry.shape, entry.dtype, f"{file.filename}: {entry.name}")
    return np.atleast_1d(entry[()])


def _keys(
    path: Path, data: h5py.Group, demos: list[str], keys: tuple[str, ...], task: TaskSpec | None
) -> tuple[tuple[str, ...], dict[str, int], dict[str, Image], str]:
    """The vectors to read; dimensions, images and name of the first demonstration that has all of them."""
    refusal: OtprError | None = None
    for demo in demos:
        try:
            known = _low_dimensional(path, _group(path, data, demo))
        except OtprError as error:
            refusal = refusal or error
            continue
        frames = _frames(path, _group(path, data, demo))
        of_vectors, of_images = by_kind(keys, frames)
        default = (*_FIRST_ARM, *(key for key in _SECOND_ARM if key in known), "object")
        if of_images:
            default = tuple(key for key in default if key in known)
        wanted = of_vectors
        if of_vectors or not keys:
            wanted = tuple(chosen(of_vectors, task.parts if task else (), known, default))
        absent = [key for key in wanted if key not in known]
        where = f"{path}: data/{demo}/obs"
        if not absent:
            if len({_camera(key) for key in of_images}) < len(of_images):
                raise OtprError(
                    f"{where}: two of {', '.join(of_images)} are of one camera; choose with --keys."
                )
            images = {
                key: image_in_file(frames[key].shape[1:], frames[key].dtype, f"{where}/{key}")
                for key in of_images
            }
            return wanted, known, images, demo
        names = [*known, *frames]
        refusal = refusal or missing(where, "key", absent[0], names)
    assert refusal is not None  # there are demonstrations
    raise refusal


def _group(path: Path, parent: h5py.Group, name: str) -> h5py.Group:
    group = parent.get(name)
    if not isinstance(group, h5py.Group):
        raise OtprError(
            f"{path}: {parent.name} has no group {name!r}; robomimic's "
            "dataset_states_to_obs.py makes observations where a file has only states."
        )
    return group


def _low_dimensional(path: Path, demo: h5py.Group) -> dict[str, int]:
    """The keys of `obs` that are vectors by step, with their dimensions."""
    obs = _group(path, demo, "obs")
    names = [name for name in map(str, obs) if isinstance(obs.get(name), h5py.Dataset)]
    datasets = {name: dataset(obs, name) for name in names}
    return {name: (*value.shape, 1)[1] for name, value in datasets.items() if value.ndim in (1, 2)}


def _frames(path: Path, demo: h5py.Group) -> dict[str, h5py.Dataset]:
    """The keys of `obs` that may be camera frames, by their names or because they hold bytes."""
    obs = _group(path, demo, "obs")
    found = {name: entry for name in map(str, obs) if isinstance(entry := obs.get(name), h5py.Dataset)}
    frames = {
        name: dataset(obs, name)
        for name, entry in found.items()
        if entry.ndim == 4 and (name.endswith(_FRAMES) or entry.dtype == np.uint8)
    }
    return frames


def _camera(key: str) -> str:
    """The camera whose frames a key has."""
    return key.removesuffix(_FRAMES)


def _read(
    path: Path, file: h5py.File, demo: str, wanted: _Wanted, env_args: dict[str, Any], spool: Spool | None
) -> Recorded:
    place = f"{path}: data/{demo}"
    with reading(path):
        group = _group(path, subgroup(file, "data"), demo)
        _group(path, group, "obs")
        observations = _observations(group, place, wanted, "obs")
        continues = None
        if "next_obs" in group:
            after = _observations(group, place, wanted, "next_obs")
            if after.shape != observations.shape:
                raise OtprError(
                    f"{place}: obs have shape {observations.shape} and next_obs {after.shape}; "
                    "mend or leave out that episode."
                )
            continues = same_rows(after[:-1], observations[1:])
            observations = np.concatenate([observations, after[-1:]])
        rewards = by_step(stored(group, "rewards"), f"{place}/rewards") if "rewards" in group else None
        success, field = _success(group, place, rewards, env_args)
        return Recorded(
            place=place,
            observations=observations,
            actions=_columns(group, place, "actions"),
            rewards=rewards,
            success=success,
            success_field=field,
            continues=continues,
            images={} if spool is None else _images(group, place, wanted.images, spool),
        )


def _images(
    group: h5py.Group, place: str, images: Mapping[str, Image], spool: Spool
) -> dict[str, NDArray[np.uint8]]:
    """The frames by camera, including the one after the last step if it exists."""
    frames: dict[str, NDArray[np.uint8]] = {}
    for key, image in images.items():
        fields = ("obs", "next_obs") if "next_obs" in group else ("obs",)
        for field in fields:
            if not isinstance(group.get(f"{field}/{key}"), h5py.Dataset):
                raise _absent(place, f"{field}/{key}")
        last = f"next_obs/{key}" if "next_obs" in group else None
        frames[_camera(key)] = stored_frames(group, f"obs/{key}", image, f"{place}/obs/{key}", spool, last)
    return frames


def _observations(group: h5py.Group, place: str, wanted: _Wanted, field: str) -> NDArray[Any]:
    """All vectors of `obs` or of `next_obs`, with `object` reordered for the task `later`."""
    keys, later = wanted.keys, wanted.later
    if not keys:
        return np.zeros((len(_columns(group, place, "actions")), 0), np.float32)
    parts = [_columns(group, place, f"{field}/{key}") for key in keys]
    whole = join(parts, list(keys), place)
    if later is None:
        return whole
    index = keys.index("object")
    if parts[index].shape[1] != object_dim(later):
        return whole  # the caller refuses it
    poses = {
        entry: _columns(group, place, f"{field}/{entry}").astype(np.float64) for entry in hand_entries(later)
    }
    join([parts[0], *poses.values()], [keys[0], *poses], place)
    parts[index] = in_our_order(later, parts[index].astype(np.float64), poses)
    return join(parts, list(keys), place)


def _success(
    group: h5py.Group, place: str, rewards: NDArray[Any] | None, env_args: dict[str, Any]
) -> tuple[NDArray[np.bool_] | None, str]:
    """After which steps the task was solved, and the field that says so; None if no field does.

    `dones` are only used if there are no rewards, because robomimic can also set them at the end of every
    demonstration, as in its published files.
    """
    if rewards is None:
        return (as_flags(stored(group, DONES), f"{place}/{DONES}"), DONES) if DONES in group else (None, "")
    shaped = env_args.get("type") == _ROBOSUITE and env_args.get("env_kwargs", {}).get("reward_shaping")
    # robosuite scales its shaped rewards so that success pays 1 and everything else less
    return (rewards >= 1, SHAPED) if shaped else (None, "")


def _columns(group: h5py.Group, place: str, name: str) -> NDArray[Any]:
    if not isinstance(group.get(name), h5py.Dataset):
        raise _absent(place, name)
    return columns(stored(group, name), f"{place}/{name}")


def _absent(place: str, name: str) -> OtprError:
    return OtprError(
        f"{place}/{name} is missing; leave out that demonstration or choose others by --filter-key."
    )
