"""LeRobotDataset v3.0 (huggingface/lerobot 0.4): low-dimensional features out of parquet, videos left alone.

`meta/info.json` names the features; `data/chunk-000/file-000.parquet` and following hold a row a frame, many
episodes a file; `meta/episodes/` has their lengths. A frame is an observation and the action taken there: the
observation after the last action of an episode is nowhere.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.flags import SUCCESS, agreed, as_flags
from otpr.data.meaning import chosen
from otpr.data.reading import check_numbers, check_readable, check_size, missing, reading, reason
from otpr.data.recorded import Recorded, Source, attempt, by_step, columns, rate
from otpr.envs import TaskSpec
from otpr.errors import OtprError

_VERSION = "v3.0"
_OBSERVATIONS = ("observation.state", "observation.environment_state")
_MOST_EPISODES = 1_000_000
_FLAGS = tuple(f"{group}{name}" for name in SUCCESS for group in ("next.", ""))
# Rows read at once: memory stays small whatever the size of a file.
_ROWS = 16_384


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobotDataset."""
    return (path / "meta" / "info.json").is_file()


def open_lerobot(
    path: Path,
    keys: tuple[str, ...] = (),
    task: TaskSpec | None = None,
    task_index: tuple[int, ...] = (),
) -> Source:
    """A LeRobotDataset in a folder.

    Args:
        path: the folder that holds `meta` and `data`.
        keys: features that make the observation, in this order; none: the parts of the task, where all of
            them are there, else those of `observation.state` and `observation.environment_state` that are.
        task: the task that the data are for.
        task_index: which of the set's own tasks are read, by their numbers; none: all.

    Raises:
        OtprError: it is no such folder or of another version, a feature or a file is missing, or pyarrow is;
            it has no episodes of a task that is asked for.
    """
    info = _info(path)
    features: dict[str, dict[str, Any]] = info["features"]
    known = {name: dim for name, feature in features.items() if (dim := _dim(feature)) is not None}
    default = [key for key in _OBSERVATIONS if key in known]
    keys = tuple(chosen(keys, task.parts if task else (), known, default))
    if not keys:
        raise OtprError(
            f"{path}: has neither {' nor '.join(_OBSERVATIONS)}; give --keys, out of: {', '.join(known)}."
        )
    for key in keys:
        if key not in known:
            raise missing(str(path), "low-dimensional feature", key, known)
    if "action" not in known:
        raise OtprError(
            f"{path}: has no low-dimensional feature 'action'; it has {', '.join(known) or 'none'}."
        )
    lengths = _lengths(path)
    names = (*keys, "action", *(name for name in ("next.reward", *_FLAGS) if known.get(name) == 1))
    dims = {name: known[name] for name in names}
    check_size((max(lengths), sum(dims.values())), np.dtype(float), f"{path}: its longest episode")

    numbers = _task_numbers(path, lengths) if "task_index" in known else [0] * len(lengths)
    words = _task_words(path)
    tasks = _tasks(path, numbers, words, task_index)
    wanted = set(task_index or numbers)
    words = {number: words[number] for number in sorted(wanted) if number in words}

    def read() -> Iterator[Recorded | OtprError]:
        for index, pieces in enumerate(_by_episode(path, dims, lengths)):
            if numbers[index] in wanted:
                yield attempt(functools.partial(_recorded, f"{path}: episode {index}", pieces, keys))

    return Source(
        format="lerobot",
        path=path,
        keys=tuple((key, known[key]) for key in keys),
        read=read,
        control_rate=rate(info.get("fps")),
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
    """The robot, where the set names it; what it was told to do, where it is one thing."""
    robot = str(info.get("robot_type") or "unknown")
    named = {} if robot.lower() == "unknown" else {"robot": robot}
    return {**named, "instruction": next(iter(words.values()))} if len(words) == 1 else named


def _task_numbers(path: Path, lengths: list[int]) -> list[int]:
    """The `task_index` of each episode."""
    numbers: list[int] = []
    for index, pieces in enumerate(_by_episode(path, {"task_index": 1}, lengths)):
        place = f"{path}: episode {index}: task_index"
        given = np.concatenate([_array(piece, place) for piece in pieces["task_index"]])
        found = sorted(set(by_step(given, place).tolist()))
        if len(found) > 1:
            raise OtprError(
                f"{path}: episode {index} has several tasks ({', '.join(map(str, found))} by task_index), "
                "and an episode of otpr has one; cut it into episodes of one task each."
            )
        numbers.append(int(found[0]))
    return numbers


def _tasks(path: Path, numbers: list[int], words: dict[int, str], wanted: tuple[int, ...]) -> tuple[str, ...]:
    """The set's tasks, a line each.

    Raises:
        OtprError: one that is wanted is not there.
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
    """What each task is called, by its number; a table of one column of numbers and one of words."""
    file = path / "meta" / "tasks.parquet"
    if not file.is_file():
        return {}
    parquet = _parquet()
    with reading(file):
        opened = parquet.ParquetFile(file)
        if opened.metadata.num_rows > _MOST_EPISODES:
            raise ValueError(f"it claims {opened.metadata.num_rows:,} tasks")
        columns_of = opened.read().to_pydict()
        opened.close()
    others = [name for name in columns_of if name != "task_index"]
    if "task_index" not in columns_of or not others:
        return {}
    return {
        int(n): str(text) for n, text in zip(columns_of["task_index"], columns_of[others[0]], strict=True)
    }


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OtprError("LeRobot data need pyarrow. Install it with: pip install 'otpr[lerobot]'") from error
    return pyarrow.parquet


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
    """The length of a feature that is a vector or a number; None for pictures, videos, texts and matrices."""
    shape = feature.get("shape") or [1]
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        return None
    kind = str(feature.get("dtype"))
    if len(shape) != 1 or not kind.startswith(("float", "int", "uint", "bool")):
        return None
    return shape[0]


def _files(path: Path, folder: str) -> list[Path]:
    files = sorted((path / folder).glob("chunk-*/file-*.parquet"))
    if not files:
        raise OtprError(f"{path}: holds no {folder}/chunk-*/file-*.parquet; download it again.")
    return files


def _lengths(path: Path) -> list[int]:
    """The length of each episode, in the order of their index."""
    parquet = _parquet()
    lengths: dict[int, int] = {}
    for file in _files(path, "meta/episodes"):
        with reading(file):
            opened = parquet.ParquetFile(file)
            if opened.metadata.num_rows > _MOST_EPISODES:
                raise ValueError(f"it claims {opened.metadata.num_rows:,} episodes")
            _check_counts(opened, {"episode_index": 1, "length": 1})
            table = opened.read(columns=["episode_index", "length"])
            opened.close()
            indices, steps = (table.column(name).to_pylist() for name in ("episode_index", "length"))
            if not all(type(n) is int and n > 0 for n in steps):
                raise ValueError("episodes have lengths that are no positive numbers")
        lengths |= dict(zip(indices, steps, strict=True))
    if not lengths:
        raise OtprError(f"{path}: meta/episodes names no episodes; at least one is needed.")
    if sorted(lengths) != list(range(len(lengths))):
        raise OtprError(f"{path}: meta/episodes does not number its episodes from 0 on; download it again.")
    return [lengths[index] for index in range(len(lengths))]


def _by_episode(path: Path, dims: dict[str, int], lengths: list[int]) -> Iterator[dict[str, list[Any]]]:
    """The pieces of each column of an episode, in the order of the episodes' index, one episode at a time."""
    index, have = 0, 0
    pieces: list[dict[str, Any]] = []
    for file, batch in _batches(path, dims):
        owner = _array(batch.column("episode_index"), f"{file}: episode_index")
        start = 0
        while start < len(owner):
            if index == len(lengths) or owner[start] != index:
                raise OtprError(
                    f"{file}: has frames of episode {owner[start]} where those of episode {index} belong, "
                    "by meta/episodes; download it again."
                )
            stop = min(len(owner), start + lengths[index] - have)
            if (owner[start:stop] != index).any():
                raise OtprError(
                    f"{file}: episode {index} has fewer frames than the {lengths[index]} of meta/episodes; "
                    "download it again."
                )
            pieces.append({name: batch.column(name).slice(start, stop - start) for name in dims})
            have += stop - start
            start = stop
            if have == lengths[index]:
                yield {name: [piece[name] for piece in pieces] for name in dims}
                index, pieces, have = index + 1, [], 0
    if index < len(lengths):
        raise OtprError(f"{path}: the data end in episode {index} of {len(lengths)}; download it again.")


def _batches(path: Path, dims: dict[str, int]) -> Iterator[tuple[Path, Any]]:
    """The rows in batches, as pyarrow has them, each with its file."""
    parquet = _parquet()
    for file in _files(path, "data"):
        with reading(file):
            opened = parquet.ParquetFile(file)
            absent = set(dims) - set(opened.schema_arrow.names)
            if absent:
                raise OtprError(
                    f"{file}: has no column {sorted(absent)[0]!r} of meta/info.json; download it again."
                )
            _check_counts(opened, {**dims, "episode_index": 1})
            check_size((min(_ROWS, opened.metadata.num_rows), max(dims.values())), np.dtype(float), str(file))
            batches = opened.iter_batches(_ROWS, columns=[*dims, "episode_index"])
        while True:
            with reading(file):
                batch = next(batches, None)
                if batch is None:
                    break
            yield file, batch
        opened.close()


def _check_counts(opened: Any, dims: dict[str, int]) -> None:
    """Refuse columns with more numbers than their dimensions allow: runs of one number take no room."""
    for index in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(index)
        for column in map(group.column, range(group.num_columns)):
            # a list's path goes on below the name of its column
            name = next((name for name in dims if f"{column.path_in_schema}.".startswith(f"{name}.")), None)
            if name is not None and column.num_values > group.num_rows * dims[name]:
                raise ValueError(f"{name} has {column.num_values:,} numbers in {group.num_rows:,} rows")


def _array(column: Any, where: str) -> NDArray[Any]:
    """A column of numbers or of lists of numbers, all of one length, as (rows,) or (rows, dim)."""
    import pyarrow as pa

    if column.null_count:
        raise OtprError(f"{where}: has frames without a value; mend or leave out that episode.")
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        values = column.to_numpy(zero_copy_only=False)
        check_numbers(values.dtype, where)
        return values
    values = column.flatten()
    if values.null_count:
        raise OtprError(f"{where}: has frames with a missing number; mend or leave out that episode.")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != lengths[0]).any():
        raise OtprError(f"{where}: has vectors of different lengths; mend or leave out that episode.")
    numbers = values.to_numpy(zero_copy_only=False)
    check_numbers(numbers.dtype, where)
    return numbers.reshape(len(column), -1)


def _recorded(place: str, pieces: dict[str, list[Any]], keys: tuple[str, ...]) -> Recorded:
    def array(name: str) -> NDArray[Any]:
        arrays = [_array(piece, f"{place}: {name}") for piece in pieces[name]]
        if len({part.shape[1:] for part in arrays}) > 1:
            raise OtprError(
                f"{place}: {name}: has vectors of different lengths; mend or leave out that episode."
            )
        return np.concatenate(arrays)

    told = {name: as_flags(array(name), f"{place}: {name}") for name in _FLAGS if name in pieces}
    success, field = agreed(told, place)
    return Recorded(
        place=place,
        observations=np.concatenate([columns(array(key), f"{place}: {key}") for key in keys], axis=1),
        actions=columns(array("action"), f"{place}: action"),
        rewards=by_step(array("next.reward"), f"{place}: next.reward") if "next.reward" in pieces else None,
        success=success,
        success_field=field,
    )
