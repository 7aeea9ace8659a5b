"""Steps of all episodes in a row: plain and D4RL-style dictionaries (.npz or .hdf5), and OGBench's NPZ.

D4RL (Fu et al., 2020): `observations, actions, rewards, terminals, timeouts`, sometimes `next_observations`,
N rows each; an episode ends where a terminal or a time-out is set. OGBench (Park et al., ICLR 2025):
`observations, actions, terminals` and the simulator's `qpos`; a terminal marks a trajectory's last STATE,
whose action leads nowhere, and is a time-out.
"""

from __future__ import annotations

import contextlib
import functools
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.flags import SUCCESS, agreed, as_flags
from otpr.data.meaning import chosen
from otpr.data.reading import check_numbers, check_own, check_size, missing, open_hdf5, reading
from otpr.data.recorded import Recorded, Source, attempt, by_step, columns, same_rows
from otpr.envs import TaskSpec
from otpr.errors import OtprError
from otpr.npz import open_npz

_FLAGS = tuple(f"{group}{name}" for name in SUCCESS for group in ("", "infos/"))
_FIELDS = ("actions", "rewards", "terminals", "timeouts", "next_observations", *_FLAGS)
# Rows read at once where a whole array is looked through.
_ROWS = 16_384


class Rows(Protocol):
    """An array on disk, of which rows are read in order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy's."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Those rows."""
        ...


def open_arrays(
    path: Path, keys: tuple[str, ...] = (), *, ogbench: bool | None = None, task: TaskSpec | None = None
) -> Source:
    """A dictionary of arrays in an .npz or an HDF5 file.

    Args:
        path: the file.
        keys: the arrays that make the observation, in this order; none: the parts of the task, where all of
            them are there, else `observations`.
        ogbench: whether terminals are OGBench's; None: they are where there is `qpos` and neither rewards,
            timeouts nor next observations.
        task: the task that the data are for.

    Raises:
        OtprError: it is no such file; an array is missing, of another length or no numbers.
    """
    with _arrays(path) as arrays:
        lengths = {name: (*array.shape, 1)[1] for name, array in arrays.items() if len(array.shape) in (1, 2)}
        keys = tuple(chosen(keys, task.parts if task else (), lengths, ("observations",)))
        if ogbench is None:
            ogbench = "qpos" in arrays and not {"rewards", "timeouts", "next_observations"} & set(arrays)
        for name in (*keys, "actions"):
            if name not in arrays:
                raise missing(str(path), "array", name, arrays)
        wanted = [*keys, *(name for name in _FIELDS if name in arrays)]
        if "next_observations" in wanted and keys != ("observations",):
            wanted.remove("next_observations")  # they are of `observations`, not of what was asked for
        _check(path, arrays, wanted)
        dims = tuple((key, (*arrays[key].shape, 1)[1]) for key in keys)
        ends = _ends(path, arrays)
        rows = len(ends)
        with reading(path):
            continues = _continues(path, arrays) if "next_observations" in wanted else None
    episodes = _episodes(ends, continues)

    def read() -> Iterator[Recorded | OtprError]:
        with _arrays(path) as arrays:
            for start, end in episodes:
                with reading(path):  # a damaged archive is no matter of one episode
                    recorded = attempt(
                        functools.partial(_read, path, arrays, wanted, keys, start, end, continues, ogbench)
                    )
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
        last_observation=complete,
        notes=tuple(notes),
        doubts=_doubts(ends, continues),
    )


def _continues(path: Path, arrays: dict[str, Rows]) -> NDArray[np.bool_]:
    """Whether the next observation of each row but the last is the observation of the row after it."""
    observations, after = arrays["observations"], arrays["next_observations"]
    for name in ("observations", "next_observations"):
        shape, dtype = arrays[name].shape, arrays[name].dtype
        check_size((min(_ROWS, shape[0]), *shape[1:]), dtype, f"{path}: {name}")
    if observations.shape[1:] != after.shape[1:]:
        raise ValueError(f"observations have shape {observations.shape}, next_observations {after.shape}")
    last = observations.shape[0] - 1
    same = np.zeros(last, bool)
    for start in range(0, last, _ROWS):
        stop = min(start + _ROWS, last)
        one = np.asarray(after[start:stop]).reshape(stop - start, -1)
        same[start:stop] = same_rows(one, np.asarray(observations[start + 1 : stop + 1]).reshape(one.shape))
    return same


def _episodes(ends: NDArray[np.bool_], continues: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """The first and the last row of each episode.

    A row that ends an episode by itself, and that the row before it continues into, repeats the flag of the
    end before it: it belongs to no episode.
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
    """Ends on consecutive rows, and what was made of them."""
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
    """The arrays of the file by name, open as long as the block lasts; nested names are joined by `/`."""
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


def _check(path: Path, arrays: dict[str, Rows], wanted: list[str]) -> None:
    """Refuse what is no numbers by row, before any of it is read."""
    if not arrays["actions"].shape:
        raise OtprError(f"{path}: actions: have no shape, expected (steps, dim); mend the file.")
    for name in wanted:
        where, array = f"{path}: {name}", arrays[name]
        check_numbers(array.dtype, where)
        if len(array.shape) not in (1, 2):
            raise OtprError(f"{where}: has shape {array.shape}, expected (steps, dim); images are not read.")
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
    """Success after each action, of flags of the states; a solved start counts with the first action."""
    return np.append(states[0] | states[1:2], states[2:])


def _read(
    path: Path,
    arrays: dict[str, Rows],
    wanted: list[str],
    keys: tuple[str, ...],
    start: int,
    end: int,
    continues: NDArray[np.bool_] | None,
    ogbench: bool,
) -> Recorded:
    place = f"{path}: rows {start} to {end}"

    def rows(name: str, first: int = start) -> NDArray[Any]:
        array = arrays[name]
        check_size((end + 1 - first, *array.shape[1:]), array.dtype, f"{place}: {name}")
        return np.asarray(array[first : end + 1])

    parts = [columns(rows(key), f"{place}: {key}") for key in keys]
    actions = columns(rows("actions"), f"{place}: actions")
    if continues is not None:
        after = columns(rows("next_observations", end), f"{place}: next_observations")
        parts = [np.concatenate([*parts, after])]
    observations = np.concatenate(parts, axis=1)
    told = {name: as_flags(rows(name), f"{place}: {name}") for name in _FLAGS if name in wanted}
    success, field = agreed(told, place)
    if ogbench:  # the row of the last state holds an action that leads nowhere
        return Recorded(
            place,
            observations,
            actions[:-1],
            success=None if success is None else _after(success),
            success_field=field,
            terminated=False,
            truncated=True,
        )
    terminated = "terminals" in wanted and bool(rows("terminals", end).any())
    return Recorded(
        place=place,
        observations=observations,
        actions=actions,
        rewards=by_step(rows("rewards"), f"{place}: rewards") if "rewards" in wanted else None,
        success=success,
        success_field=field,
        terminated=terminated,
        truncated=not terminated,
        continues=None if continues is None else continues[start:end],
    )
