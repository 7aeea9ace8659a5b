"""Steps of all episodes in a row: plain and D4RL-style dictionaries (.npz or .hdf5), and OGBench's NPZ.

D4RL (Fu et al., 2020): `observations, actions, rewards, terminals, timeouts`, sometimes `next_observations`,
N rows each; an episode ends where a terminal or a time-out is set. OGBench (Park et al., ICLR 2025):
`observations, actions, terminals` and the simulator's `qpos`; a terminal marks a trajectory's last STATE,
whose action leads nowhere, and is a time-out.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.meaning import chosen
from otpr.data.recorded import (
    Recorded,
    Source,
    by_step,
    check_numbers,
    check_own,
    check_size,
    columns,
    missing,
    open_hdf5,
    reading,
)
from otpr.envs import TaskSpec
from otpr.errors import OtprError
from otpr.npz import open_npz

_FIELDS = ("actions", "rewards", "terminals", "timeouts", "next_observations", "success")


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
        last, ended = _ends(path, arrays)
        rows = arrays["actions"].shape[0]

    def episodes() -> Iterator[Recorded]:
        with _arrays(path) as arrays:
            start = 0
            for end in last:
                with reading(path):
                    recorded = _read(path, arrays, wanted, keys, start, end, ogbench)
                yield recorded
                start = end + 1

    notes = [f"{rows:,} rows, {len(last)} episodes"]
    if not ended:
        notes.append("the last episode has no end: it counts as cut off")
    complete = ogbench or "next_observations" in wanted
    return Source(
        format="ogbench" if ogbench else "npz",
        path=path,
        keys=dims,
        episodes=episodes,
        last_observation=complete,
        notes=tuple(notes),
    )


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
                arrays = {}

                def visit(name: str, entry: object) -> None:
                    if isinstance(entry, h5py.Dataset):
                        check_own(entry)
                        arrays[name] = entry

                file.visititems(visit)
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


def _ends(path: Path, arrays: dict[str, Rows]) -> tuple[list[int], bool]:
    """The last row of each episode, and whether the last episode of all says that it ended."""
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
            flags = by_step(np.asarray(arrays[name][:]), f"{path}: {name}")
        if not np.isin(flags, (0, 1)).all():
            raise OtprError(f"{path}: {name} hold values other than 0 and 1; mend the file.")
        ends |= flags != 0
    last = np.flatnonzero(ends).tolist()
    ended = bool(ends[-1])
    return (last if ended else [*last, len(ends) - 1]), ended


def _read(
    path: Path,
    arrays: dict[str, Rows],
    wanted: list[str],
    keys: tuple[str, ...],
    start: int,
    end: int,
    ogbench: bool,
) -> Recorded:
    place = f"{path}: rows {start} to {end}"

    def rows(name: str, first: int = start) -> NDArray[Any]:
        array = arrays[name]
        check_size((end + 1 - first, *array.shape[1:]), array.dtype, f"{place}: {name}")
        return np.asarray(array[first : end + 1])

    def flag(name: str) -> bool:
        return bool(rows(name, end).any()) if name in wanted else False

    parts = [columns(rows(key), f"{place}: {key}") for key in keys]
    actions = columns(rows("actions"), f"{place}: actions")
    if "next_observations" in wanted:
        parts = [
            np.concatenate([*parts, columns(rows("next_observations", end), f"{place}: next_observations")])
        ]
    observations = np.concatenate(parts, axis=1)
    if ogbench:  # the row of the last state holds an action that leads nowhere
        return Recorded(place, observations, actions[:-1], terminated=False, truncated=True)
    terminated = flag("terminals")
    return Recorded(
        place=place,
        observations=observations,
        actions=actions,
        rewards=by_step(rows("rewards"), f"{place}: rewards") if "rewards" in wanted else None,
        success=by_step(rows("success"), f"{place}: success") != 0 if "success" in wanted else None,
        terminated=terminated,
        truncated=not terminated,
    )
