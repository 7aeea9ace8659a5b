"""The tables of a LeRobotDataset v3.0: rows of Parquet files in order, one episode at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.reading import check_numbers, check_size, reading
from otpr.errors import OtprError

MOST_EPISODES = 1_000_000
# Number of rows read at once, which bounds memory for files of any size.
_ROWS = 16_384


def parquet() -> Any:
    """Import pyarrow's Parquet module on demand."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OtprError("LeRobot data need pyarrow. Install it with: pip install 'otpr[lerobot]'") from error
    return pyarrow.parquet


def files_of(path: Path, folder: str) -> list[Path]:
    """The Parquet files of a folder in order; raises an error if there are none."""
    files = sorted((path / folder).glob("chunk-*/file-*.parquet"))
    if not files:
        raise OtprError(f"{path}: holds no {folder}/chunk-*/file-*.parquet; download it again.")
    return files


def read_episodes(path: Path, numbers: Sequence[str] = ()) -> tuple[list[int], dict[str, list[Any]]]:
    """The content of `meta/episodes` for each episode, ordered by index.

    Args:
        path: the set's folder.
        numbers: numeric columns to read in addition to the length.

    Returns:
        The lengths, and the other columns by name.
    """
    rows: dict[Any, tuple[Any, ...]] = {}
    for file in files_of(path, "meta/episodes"):
        with reading(file):
            opened = parquet().ParquetFile(file)
            if opened.metadata.num_rows > MOST_EPISODES:
                raise ValueError(f"it claims {opened.metadata.num_rows:,} episodes")
            wanted = ["episode_index", "length", *numbers]
            if absent := set(wanted) - set(opened.schema_arrow.names):
                raise ValueError(f"it has no column {sorted(absent)[0]!r}")
            check_counts(opened, dict.fromkeys(wanted, 1))
            table = opened.read(columns=wanted)
            opened.close()
            index, steps, *more = (table.column(name).to_pylist() for name in wanted)
            if not all(type(n) is int and n > 0 for n in steps):
                raise ValueError("episodes have lengths that are no positive numbers")
            rows |= dict(zip(index, zip(steps, *more, strict=True), strict=True))
    if not rows:
        raise OtprError(f"{path}: meta/episodes names no episodes; at least one is needed.")
    if sorted(rows) != list(range(len(rows))):
        raise OtprError(f"{path}: meta/episodes does not number its episodes from 0 on; download it again.")
    lengths, *others = zip(*(rows[index] for index in range(len(rows))), strict=True)
    return list(lengths), {name: list(column) for name, column in zip(numbers, others, strict=True)}


def by_episode(path: Path, dims: Mapping[str, int], lengths: list[int]) -> Iterator[dict[str, list[Any]]]:
    """The pieces of each column, one episode at a time, ordered by the episodes' index."""
    index, have = 0, 0
    pieces: list[dict[str, Any]] = []
    for file, batch in _batches(path, dims):
        owner = numbers_of(batch.column("episode_index"), f"{file}: episode_index")
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


def _batches(path: Path, dims: Mapping[str, int]) -> Iterator[tuple[Path, Any]]:
    """The rows in batches of pyarrow, each with its file."""
    for file in files_of(path, "data"):
        with reading(file):
            opened = parquet().ParquetFile(file)
            absent = set(dims) - set(opened.schema_arrow.names)
            if absent:
                raise OtprError(
                    f"{file}: has no column {sorted(absent)[0]!r} of meta/info.json; download it again."
                )
            check_counts(opened, {**dims, "episode_index": 1})
            check_size((min(_ROWS, opened.metadata.num_rows), max(dims.values())), np.dtype(float), str(file))
            batches = opened.iter_batches(_ROWS, columns=[*dims, "episode_index"])
        while True:
            with reading(file):
                batch = next(batches, None)
                if batch is None:
                    break
            yield file, batch
        opened.close()


def check_counts(opened: Any, dims: Mapping[str, int]) -> None:
    """Refuse columns with more numbers than their dimensions allow; run-length encoding can hide them."""
    for index in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(index)
        for column in map(group.column, range(group.num_columns)):
            # a list's path continues below its column's name
            name = next((name for name in dims if f"{column.path_in_schema}.".startswith(f"{name}.")), None)
            if name is not None and column.num_values > group.num_rows * dims[name]:
                raise ValueError(f"{name} has {column.num_values:,} numbers in {group.num_rows:,} rows")


def numbers_of(column: Any, where: str) -> NDArray[Any]:
    """A column of numbers, or of lists of numbers of equal length, as (rows,) or (rows, dim)."""
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
