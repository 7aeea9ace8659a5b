"""LeRobotDataset v3.0 (huggingface/lerobot 0.4): vectors from Parquet, images from videos or Parquet.

`meta/info.json` names the features. The files `data/chunk-000/file-000.parquet` and following hold one row
for each frame and many episodes each; `meta/episodes/` has the episodes' lengths. A frame is an observation
and the action taken there, so that the observation after the last action of an episode is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.convert.lerobot_images import (
    Feature,
    Frames,
    Pictures,
    Videos,
    image_feature,
    kind_of,
    video_columns,
)
from otpr.data.convert.lerobot_tables import MOST_EPISODES, by_episode, numbers_of, parquet, read_episodes
from otpr.data.flags import SUCCESS, agreed, as_flags
from otpr.data.meaning import chosen
from otpr.data.reading import check_readable, check_size, missing, reading, reason
from otpr.data.recorded import Recorded, Source, attempt, by_kind, by_step, columns, rate
from otpr.data.spool import Spool
from otpr.envs import TaskSpec
from otpr.errors import OtprError
from otpr.lerobot_names import STATE_PARTS

_VERSION = "v3.0"
_FLAGS = tuple(f"{group}{name}" for name in SUCCESS for group in ("next.", ""))


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobotDataset."""
    return (path / "meta" / "info.json").is_file()


def open_lerobot(
    path: Path,
    keys: tuple[str, ...] = (),
    task: TaskSpec | None = None,
    task_index: tuple[int, ...] = (),
) -> Source:
    """Open a LeRobotDataset.

    Args:
        path: the folder that holds `meta` and `data`.
        keys: features that make the observation, vectors in this order; none: all images, and the parts of
            the task, where all of them are there, else those of `observation.state` and
            `observation.environment_state` that are.
        task: the task that the data are for.
        task_index: numbers of the set's own tasks to read; empty: all.

    Raises:
        OtprError: it is no such folder or of another version, a feature or a file is missing, or pyarrow or
            PyAV is; it has no episodes of a task that is asked for.
    """
    info = _info(path)
    features: dict[str, dict[str, Any]] = info["features"]
    known = {name: dim for name, feature in features.items() if (dim := _dim(feature)) is not None}
    default = [key for key in STATE_PARTS if key in known]
    pictured = [name for name, feature in features.items() if kind_of(feature)]
    of_vectors, of_images = by_kind(keys, pictured)
    if of_vectors or not keys:
        of_vectors = tuple(chosen(of_vectors, task.parts if task else (), known, default))
    if not of_vectors and not of_images:
        raise OtprError(
            f"{path}: has neither {' nor '.join(STATE_PARTS)}; give --keys, out of: {', '.join(known)}."
        )
    for key in of_vectors:
        if key not in known:
            raise missing(str(path), "feature of vectors or images", key, [*known, *pictured])
    cameras = [image_feature(path, key, features[key]) for key in of_images]
    if len({camera.name for camera in cameras}) < len(cameras):
        raise OtprError(f"{path}: two of {', '.join(of_images)} have one name; choose with --keys.")
    if "action" not in known:
        raise OtprError(
            f"{path}: has no low-dimensional feature 'action'; it has {', '.join(known) or 'none'}."
        )
    fps = rate(info.get("fps"))
    videos = [camera for camera in cameras if camera.video]
    if videos and fps is None:
        raise OtprError(f"{path}: meta/info.json has no fps, and its videos need it; download it again.")
    lengths, said = read_episodes(path, [name for camera in videos for name in video_columns(camera.key)])
    others = ("next.reward", *_FLAGS, *(("timestamp",) if videos else ()))
    names = (*of_vectors, "action", *(name for name in others if known.get(name) == 1))
    dims = {name: known[name] for name in names}
    check_size((max(lengths), sum(dims.values())), np.dtype(float), f"{path}: its longest episode")

    numbers = _task_numbers(path, lengths) if "task_index" in known else [0] * len(lengths)
    words = _task_words(path)
    tasks = _tasks(path, numbers, words, task_index)
    wanted = set(task_index or numbers)
    words = {number: words[number] for number in sorted(wanted) if number in words}

    def frames(camera: Feature) -> Frames:
        if not camera.video or fps is None:
            return Pictures(path, camera, lengths)
        rows = zip(*(said[name] for name in video_columns(camera.key)), strict=True)
        return Videos(path, camera, list(rows), fps)

    for camera in cameras:
        frames(camera).close()  # raises if PyAV is missing

    def read(*, images: bool = True) -> Iterator[Recorded | OtprError]:
        with contextlib.ExitStack() as stack:
            shown = [
                (camera, stack.enter_context(contextlib.closing(frames(camera))))
                for camera in (cameras if images else ())
            ]
            spool = Spool()
            for index, pieces in enumerate(by_episode(path, dims, lengths)):
                if numbers[index] in wanted:
                    place = f"{path}: episode {index}"
                    yield attempt(
                        functools.partial(
                            _recorded, place, pieces, of_vectors, shown, index, fps or 1.0, spool
                        )
                    )

    return Source(
        format="lerobot",
        path=path,
        keys=tuple((key, known[key]) for key in of_vectors),
        read=read,
        images={camera.name: camera.image.entry for camera in cameras},
        control_rate=fps,
        last_observation=False,
        facts=_facts(info, words),
        notes=(
            f"{sum(number in wanted for number in numbers)} of {len(lengths)} episodes, "
            f"robot {info.get('robot_type') or 'not named'}",
            *(f"task {number} of the set: {text}" for number, text in words.items()),
        ),
        undecided=tasks if len(tasks) > 1 and not task_index else (),
    )


def _facts(info: dict[str, Any], words: dict[int, str]) -> dict[str, str]:
    """The robot, if the set names it, and the instruction, if there is only one."""
    robot = str(info.get("robot_type") or "unknown")
    named = {} if robot.lower() == "unknown" else {"robot": robot}
    return {**named, "instruction": next(iter(words.values()))} if len(words) == 1 else named


def _task_numbers(path: Path, lengths: list[int]) -> list[int]:
    """The `task_index` of each episode."""
    numbers: list[int] = []
    for index, pieces in enumerate(by_episode(path, {"task_index": 1}, lengths)):
        place = f"{path}: episode {index}: task_index"
        given = np.concatenate([numbers_of(piece, place) for piece in pieces["task_index"]])
        found = sorted(set(by_step(given, place).tolist()))
        if len(found) > 1:
            raise OtprError(
                f"{path}: episode {index} has several tasks ({', '.join(map(str, found))} by task_index), "
                "and an episode of otpr has one; cut it into episodes of one task each."
            )
        numbers.append(int(found[0]))
    return numbers


def _tasks(path: Path, numbers: list[int], words: dict[int, str], wanted: tuple[int, ...]) -> tuple[str, ...]:
    """The set's tasks, one line each.

    Raises:
        OtprError: a requested task is missing.
    """
    counts = Counter(numbers)
    lines = tuple(
        f"{number}: {words.get(number, 'without words')} ({count} episodes)"
        for number, count in sorted(counts.items())
    )
    if absent := sorted({*wanted} - {*counts}):
        listed = "".join(f"\n  {line}" for line in lines)
        raise OtprError(f"{path}: has no episodes of task {absent[0]}; it has:{listed}")
    return lines


def _task_words(path: Path) -> dict[int, str]:
    """The name of each task by its number, from a table with a column of numbers and one of strings."""
    file = path / "meta" / "tasks.parquet"
    if not file.is_file():
        return {}
    with reading(file):
        opened = parquet().ParquetFile(file)
        if opened.metadata.num_rows > MOST_EPISODES:
            raise ValueError(f"it claims {opened.metadata.num_rows:,} tasks")
        columns_of = opened.read().to_pydict()
        opened.close()
    others = [name for name in columns_of if name != "task_index"]
    if "task_index" not in columns_of or not others:
        return {}
    return {
        int(n): str(text) for n, text in zip(columns_of["task_index"], columns_of[others[0]], strict=True)
    }


def _info(path: Path) -> dict[str, Any]:
    file = path / "meta" / "info.json"
    if not file.is_file():
        raise OtprError(
            f"{path} is not a LeRobotDataset: it holds no meta/info.json; give the folder that does."
        )
    check_readable(file)
    try:
        info = json.loads(file.read_text())
        version = info["codebase_version"]
        features = info["features"]
        if not all(isinstance(feature, dict) for feature in features.values()):
            raise TypeError("features are no objects")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OtprError(
            f"{file}: not readable as LeRobot's metadata ({reason(error)}); download it again."
        ) from error
    if version != _VERSION:
        raise OtprError(
            f"{file}: codebase_version is {version!r}, expected {_VERSION!r}; LeRobot's own "
            "convert_dataset_v21_to_v30.py brings version v2.1 to it."
        )
    return info


def _dim(feature: dict[str, Any]) -> int | None:
    """The length of a feature that is a vector or a number; None for images, videos, strings and matrices."""
    shape = feature.get("shape") or [1]
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        return None
    kind = str(feature.get("dtype"))
    if len(shape) != 1 or not kind.startswith(("float", "int", "uint", "bool")):
        return None
    return shape[0]


def _recorded(
    place: str,
    pieces: dict[str, list[Any]],
    keys: tuple[str, ...],
    shown: Sequence[tuple[Feature, Frames]],
    index: int,
    fps: float,
    spool: Spool,
) -> Recorded:
    array = functools.partial(_column, pieces, place=place)
    actions = columns(array("action"), f"{place}: action")
    vectors = [columns(array(key), f"{place}: {key}") for key in keys]
    steps = len(actions)
    times = np.arange(steps) / fps
    if "timestamp" in pieces:
        times = by_step(array("timestamp"), f"{place}: timestamp").astype(np.float64)
    images: dict[str, NDArray[np.uint8]] = {}
    for camera, frames in shown:
        where = f"{place}: {camera.key}"
        blocks = frames.of(index, times.tolist(), where)
        images[camera.name] = spool.keep(blocks, (steps, *camera.image.shape), where)
    told = {name: as_flags(array(name), f"{place}: {name}") for name in _FLAGS if name in pieces}
    success, field = agreed(told, place)
    return Recorded(
        place=place,
        observations=np.concatenate(vectors or [np.zeros((steps, 0), np.float32)], axis=1),
        actions=actions,
        rewards=by_step(array("next.reward"), f"{place}: next.reward") if "next.reward" in pieces else None,
        success=success,
        success_field=field,
        images=images,
    )


def _column(pieces: dict[str, list[Any]], name: str, place: str) -> NDArray[Any]:
    """A column of an episode, (rows,) or (rows, dim)."""
    arrays = [numbers_of(piece, f"{place}: {name}") for piece in pieces[name]]
    if len({part.shape[1:] for part in arrays}) > 1:
        raise OtprError(f"{place}: {name}: has vectors of different lengths; mend or leave out that episode.")
    return np.concatenate(arrays)
