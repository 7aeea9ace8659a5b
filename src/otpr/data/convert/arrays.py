"""Arrays with the steps of all episodes in sequence: plain, D4RL-style (.npz or .hdf5), and OGBench's NPZ.

D4RL (Fu et al., 2020): `observations, actions, rewards, terminals, timeouts`, sometimes `next_observations`,
N rows each; an episode ends where a terminal or a timeout is set. OGBench (Park et al., ICLR 2025):
`observations, actions, terminals` and the simulator's `qpos`; a terminal marks a trajectory's last STATE,
whose action has no successor, and means a truncation.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import zipfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.flags import SUCCESS, agreed, as_flags
from otpr.data.frames import Rows, image_in_file, in_blocks
from otpr.data.meaning import chosen
from otpr.data.reading import check_numbers, check_own, check_size, missing, open_hdf5, reading
from otpr.data.recorded import Recorded, Source, attempt, by_kind, by_step, columns, same_rows
from otpr.data.spool import Spool
from otpr.envs import TaskSpec
from otpr.envs.image_spaces import IMAGE, Image
from otpr.errors import OtprError
from otpr.npz import open_npz

_FLAGS = tuple(f"{group}{name}" for name in SUCCESS for group in ("", "infos/"))
_FIELDS = ("actions", "rewards", "terminals", "timeouts", "next_observations", *_FLAGS)
_OBSERVATIONS, _NEXT = "observations", "next_observations"
# Number of rows read at once in a scan of a whole array.
_ROWS = 16_384


@dataclass(frozen=True)
class _Layout:
    """The layout of a file's arrays.

    Attributes:
        keys: the vectors, in order.
        images: the images by array.
        fields: the other arrays that are read.
        continues: (rows - 1,), whether the next observation of each row equals the following row; None: the
            file has no next observations, or they belong to other arrays.
        ogbench: whether the last row of an episode only has a state.
    """

    keys: tuple[str, ...]
    images: Mapping[str, Image]
    fields: tuple[str, ...]
    continues: NDArray[np.bool_] | None
    ogbench: bool


def open_arrays(
    path: Path, keys: tuple[str, ...] = (), *, ogbench: bool | None = None, task: TaskSpec | None = None
) -> Source:
    """Open a dictionary of arrays in an .npz or an HDF5 file.

    Args:
        path: the file.
        keys: the arrays that make the observation, vectors in this order; none: all images, and the parts of
            the task, where all of them are there, else `observations`.
        ogbench: whether terminals are OGBench's; None: they are where there is `qpos` and neither rewards,
            timeouts nor next observations.
        task: the task that the data are for.

    Raises:
        OtprError: the file has another format; or an array is missing, has another length or is not numeric.
    """
    with _arrays(path) as arrays:
        if ogbench is None:
            ogbench = "qpos" in arrays and not {"rewards", "timeouts", _NEXT} & set(arrays)
        keys, of_images = _chosen(arrays, keys, task)
        for name in (*keys, "actions"):
            if name not in arrays:
                raise missing(str(path), "array", name, arrays)
        fields = [name for name in _FIELDS if name in arrays]
        if _NEXT in fields and (*keys, *of_images) != (_OBSERVATIONS,):
            fields.remove(_NEXT)  # they belong to `observations`, not to the requested keys
        next_images = [_NEXT] if of_images else []
        _check(path, arrays, [*keys, *(name for name in fields if name not in next_images)])
        _check(path, arrays, [*of_images, *(name for name in fields if name in next_images)], images=True)
        images = {
            name: image_in_file(arrays[name].shape[1:], arrays[name].dtype, f"{path}: {name}")
            for name in of_images
        }
        dims = tuple((key, (*arrays[key].shape, 1)[1]) for key in keys)
        ends = _ends(path, arrays)
        rows = len(ends)
        with reading(path):
            continues = _continues(path, arrays) if _NEXT in fields else None
    episodes = _episodes(ends, continues)
    layout = _Layout(keys, images, tuple(fields), continues, ogbench)

    def read(*, images: bool = True) -> Iterator[Recorded | OtprError]:
        spool = Spool() if images else None
        with _arrays(path) as arrays:
            for start, end in episodes:
                with reading(path):  # a damaged archive affects all episodes
                    recorded = attempt(functools.partial(_read, path, arrays, layout, start, end, spool))
                yield recorded

    notes = [f"{rows:,} rows, {len(episodes)} episodes"]
    if not ends[-1]:
        notes.append("the last episode has no end: it counts as cut off")
    complete = ogbench or continues is not None
    return Source(
        format="ogbench" if ogbench else "npz",
        path=path,
        keys=dims,
        read=read,
        images={_entry(name): image.entry for name, image in images.items()},
        last_observation=complete,
        notes=tuple(notes),
        doubts=_doubts(ends, continues),
    )


def _chosen(
    arrays: dict[str, Rows], keys: tuple[str, ...], task: TaskSpec | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the vectors and of the images that are read.

    Without keys, images are arrays of bytes with four axes, and `observations` with more than two. A named
    array counts as images if it has more than two axes.
    """
    lengths = {name: (*array.shape, 1)[1] for name, array in arrays.items() if len(array.shape) in (1, 2)}
    many = [name for name, array in arrays.items() if len(array.shape) > 2]
    if not keys:
        default = [
            name
            for name in many
            if name == _OBSERVATIONS
            or (
                len(arrays[name].shape) == 4
                and arrays[name].dtype == np.uint8
                and not name.startswith("next_")
            )
        ]
        if default and _OBSERVATIONS not in lengths:
            parts = chosen((), task.parts if task else (), lengths, ())
            return tuple(parts), tuple(default)
        return tuple(chosen((), task.parts if task else (), lengths, (_OBSERVATIONS,))), tuple(default)
    return by_kind(keys, many)


def _entry(name: str) -> str:
    """The name of an image's observation entry."""
    return IMAGE if name == _OBSERVATIONS else name


def _continues(path: Path, arrays: dict[str, Rows]) -> NDArray[np.bool_]:
    """Whether the next observation of each row but the last is the observation of the row after it."""
    observations, after = arrays[_OBSERVATIONS], arrays[_NEXT]
    count = max(1, min(_ROWS, 2**25 // max(1, math.prod(observations.shape[1:]))))
    for name in (_OBSERVATIONS, _NEXT):
        shape, dtype = arrays[name].shape, arrays[name].dtype
        check_size((min(count, shape[0]), *shape[1:]), dtype, f"{path}: {name}")
    if observations.shape[1:] != after.shape[1:]:
        raise ValueError(f"observations have shape {observations.shape}, next_observations {after.shape}")
    last = observations.shape[0] - 1
    same = np.zeros(last, bool)
    for start in range(0, last, count):
        stop = min(start + count, last)
        one = np.asarray(after[start:stop]).reshape(stop - start, -1)
        other = np.asarray(observations[start + 1 : stop + 1]).reshape(one.shape)
        same[start:stop] = (one == other).all(axis=1) if one.dtype == np.uint8 else same_rows(one, other)
    return same


def _episodes(ends: NDArray[np.bool_], continues: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """The first and the last row of each episode.

    An episode of a single row that continues the previous row only repeats the previous end flag and is
    dropped.
    """
    last = np.flatnonzero(ends).tolist()
    if not ends[-1]:
        last.append(len(ends) - 1)
    starts = [0, *(end + 1 for end in last[:-1])]
    return [
        (start, end)
        for start, end in zip(starts, last, strict=True)
        if continues is None or start == 0 or start < end or not (ends[end] and continues[start - 1])
    ]


def _doubts(ends: NDArray[np.bool_], continues: NDArray[np.bool_] | None) -> tuple[str, ...]:
    """A note on ends in consecutive rows and how they are read."""
    again = ends[1:] & ends[:-1]
    if continues is not None:
        again &= continues
    if not again.any():
        return ()
    count, first = int(again.sum()), int(np.argmax(again)) + 1
    reading_of_them = (
        "the observations go on there, so these rows repeat the flag after the end, and are left out"
        if continues is not None
        else "either they repeat the flag after the end, or they are episodes of one step without the "
        "observation after it; they are left out in both cases"
    )
    rows = f"{count:,} row{'s' if count > 1 else ''}"
    return (f"an end is marked on {rows} right after an end, first in row {first}: {reading_of_them}",)


@contextlib.contextmanager
def _arrays(path: Path) -> Generator[dict[str, Rows]]:
    """The arrays of the file by name, open during the context; nested names are joined by `/`."""
    with contextlib.ExitStack() as stack:
        with reading(path):
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                arrays: dict[str, Rows] = {**open_npz(archive, path, stack)}
            else:
                file = stack.enter_context(open_hdf5(path))
                arrays, names = {}, list[str]()

                def visit(name: str, link: object) -> None:  # an error may not pass through HDF5
                    names.append(name)

                file.visititems_links(visit)  # soft links among them
                for name in names:
                    entry = file.get(name)
                    if isinstance(entry, h5py.Dataset):
                        check_own(entry)
                        arrays[name] = entry
        yield arrays


def _check(path: Path, arrays: dict[str, Rows], wanted: list[str], *, images: bool = False) -> None:
    """Check that arrays hold numbers or images by row, before any of them is read."""
    if not arrays["actions"].shape:
        raise OtprError(f"{path}: actions: have no shape, expected (steps, dim); mend the file.")
    for name in wanted:
        where, array = f"{path}: {name}", arrays[name]
        check_numbers(array.dtype, where)
        if len(array.shape) not in (1, 2) and not images:
            raise OtprError(f"{where}: has shape {array.shape}, expected (steps, dim).")
        if array.shape[0] != arrays["actions"].shape[0]:
            raise OtprError(
                f"{where}: has {array.shape[0]} rows, actions have {arrays['actions'].shape[0]}; "
                "all arrays need a row a step: mend the file."
            )
    if arrays["actions"].shape[0] == 0:
        raise OtprError(f"{path}: actions are empty; give a file with at least one episode.")


def _ends(path: Path, arrays: dict[str, Rows]) -> NDArray[np.bool_]:
    """Whether an episode ends in each row."""
    names = [name for name in ("terminals", "timeouts") if name in arrays]
    if not names:
        raise OtprError(
            f"{path}: has neither terminals nor timeouts, and cannot be cut into episodes; "
            "add `timeouts`, 1 on the last row of each episode."
        )
    ends = np.zeros(arrays["actions"].shape[0], bool)
    for name in names:
        check_size(arrays[name].shape, arrays[name].dtype, f"{path}: {name}")
        with reading(path):
            ends |= as_flags(np.asarray(arrays[name][:]), f"{path}: {name}")
    return ends


def _after(states: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Success after each action from flags of the states; a solved start counts for the first action."""
    return np.append(states[0] | states[1:2], states[2:])


def _read(
    path: Path,
    arrays: dict[str, Rows],
    layout: _Layout,
    start: int,
    end: int,
    spool: Spool | None,
) -> Recorded:
    place = f"{path}: rows {start} to {end}"
    continues = layout.continues

    def rows(name: str, first: int = start) -> NDArray[Any]:
        array = arrays[name]
        check_size((end + 1 - first, *array.shape[1:]), array.dtype, f"{place}: {name}")
        return np.asarray(array[first : end + 1])

    def frames(name: str, image: Image, spool: Spool) -> NDArray[np.uint8]:
        blocks = in_blocks(arrays[name], start, end + 1)
        count = end + 1 - start
        if continues is not None:
            blocks, count = itertools.chain(blocks, in_blocks(arrays[_NEXT], end, end + 1)), count + 1
        return image.upright(spool.keep(blocks, (count, *image.shape), f"{place}: {name}"))

    images = {
        _entry(name): frames(name, image, spool) for name, image in layout.images.items() if spool is not None
    }
    parts = [columns(rows(key), f"{place}: {key}") for key in layout.keys]
    parts = parts or [np.zeros((end + 1 - start, 0), np.float32)]
    actions = columns(rows("actions"), f"{place}: actions")
    if continues is not None:
        after = columns(rows(_NEXT, end), f"{place}: {_NEXT}") if layout.keys else parts[0][:1]
        parts = [np.concatenate([*parts, after])]
    observations = np.concatenate(parts, axis=1)
    told = {name: as_flags(rows(name), f"{place}: {name}") for name in _FLAGS if name in layout.fields}
    success, field = agreed(told, place)
    if layout.ogbench:  # the row of the last state has an action without successor
        return Recorded(
            place,
            observations,
            actions[:-1],
            success=None if success is None else _after(success),
            success_field=field,
            terminated=False,
            truncated=True,
            images=images,
        )
    terminated = "terminals" in layout.fields and bool(rows("terminals", end).any())
    return Recorded(
        place=place,
        observations=observations,
        actions=actions,
        rewards=by_step(rows("rewards"), f"{place}: rewards") if "rewards" in layout.fields else None,
        success=success,
        success_field=field,
        terminated=terminated,
        truncated=not terminated,
        continues=None if continues is None else continues[start:end],
        images=images,
    )
