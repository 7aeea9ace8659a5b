"""What every reader gives: episodes as their file has them, and where in the file they stand."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError

# What h5py, zipfile and NumPy raise on a file that is not whole.
CORRUPT = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AssertionError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
# Names shown where one is missing: a file may hold thousands.
_SHOWN = 30


@dataclass(frozen=True)
class Recorded:
    """One episode of T steps, as recorded: numbers of any real type, not checked further.

    Attributes:
        place: the file and the place in it, as errors name it.
        observations: (T+1, observation_dim); T rows where the file lacks the one after the last step.
        actions: (T, action_dim), in whatever range.
        rewards: (T,); None where the file has none.
        success: (T,) bool, whether the task was solved after each step; None where the file does not say.
        terminated: it ended in a terminal state; None where the file does not tell this from a time limit.
        truncated: it was cut off; None likewise.
        seed: the environment's reset seed; None where unknown.
    """

    place: str
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any] | None = None
    success: NDArray[np.bool_] | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Source:
    """A data set that can be read, as often as wanted, an episode at a time.

    Attributes:
        format: its format's name, e.g. `"robomimic"`.
        path: what was given: a file, or a folder.
        keys: the observation's parts in their order, each with its dimension.
        episodes: starts reading: the episodes in order.
        task_id: the otpr task that the file names; None where it names none.
        last_observation: whether each episode has the observation after its last step; None: some have.
        notes: what the user should know of how the file was understood.
    """

    format: str
    path: Path
    keys: tuple[tuple[str, int], ...]
    episodes: Callable[[], Iterator[Recorded]]
    task_id: str | None = None
    last_observation: bool | None = True
    notes: tuple[str, ...] = ()

    @property
    def observation_dim(self) -> int:
        """The length of the observation, all parts together."""
        return sum(dim for _, dim in self.keys)


@contextlib.contextmanager
def reading(path: Path, mend: str = "copy or download it again") -> Iterator[None]:
    """Turn what the libraries raise on a broken file into an error that names the file and the mend."""
    try:
        yield
    except CORRUPT as error:
        raise OtprError(f"{path}: truncated or corrupt ({reason(error)}); {mend}.") from error


def reason(error: BaseException) -> str:
    """The error's kind and words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; whoever calls closes it.

    Raises:
        OtprError: it is no HDF5 file, or not whole.
    """
    with reading(path):
        if path.stat().st_size == 0:
            raise OtprError(f"{path} is empty; copy or download it again.")
        if not h5py.is_hdf5(path):
            raise OtprError(f"{path} is not an HDF5 file, whatever its name; give the data file itself.")
        return h5py.File(path, "r")


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """A group inside a group; KeyError where there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Group):
        raise KeyError(f"no group {name!r}")
    return entry


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set inside a group; KeyError where there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Dataset):
        raise KeyError(f"no data set {name!r}")
    return entry


def stored(group: h5py.Group, name: str) -> NDArray[Any]:
    """All the numbers of a data set inside a group; KeyError where there is none of that name."""
    return np.asarray(dataset(group, name)[()])


def check_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot become float32."""
    if dtype.kind not in "fiub":
        kind = "Python objects (a pickle)" if dtype.hasobject else f"dtype {dtype}"
        raise OtprError(f"{where}: holds {kind}, expected real numbers; write it as float32.")


def missing(where: str, kind: str, name: str, known: Iterable[str]) -> OtprError:
    """An error for a field that is not in a file: it says what is."""
    names = sorted(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return OtprError(
        f"{where}: has no {kind} {name!r}; it has: {', '.join(names[:_SHOWN]) or 'nothing'}{more}."
    )


def columns(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers by step as a matrix, (steps, dim): a vector is one column."""
    check_numbers(values.dtype, where)
    if values.ndim == 1:
        return values[:, None]
    if values.ndim != 2:
        raise OtprError(f"{where}: has shape {values.shape}, expected (steps, dim); images are not read.")
    return values


def by_step(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers by step as a vector, (steps,)."""
    check_numbers(values.dtype, where)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise OtprError(f"{where}: has shape {values.shape}, expected (steps,).")
    return values


def join(parts: list[NDArray[Any]], names: list[str], where: str) -> NDArray[Any]:
    """The observation's parts side by side, (steps, sum of their dimensions)."""
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise OtprError(
            f"{where}: the parts of the observation have unequal lengths: "
            + ", ".join(f"{name} {length}" for name, length in zip(names, lengths, strict=True))
            + "; mend or leave out that episode."
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def check_lengths(recorded: Recorded, last_observation: bool | None) -> None:
    """Refuse fields whose lengths do not fit together.

    Args:
        recorded: the episode.
        last_observation: see `Source`.
    """
    place, steps = recorded.place, len(recorded.actions)
    if steps == 0:
        raise OtprError(f"{place}: actions are empty; an episode has at least one step: leave it out.")
    allowed = {True: (steps + 1,), False: (steps,), None: (steps, steps + 1)}[last_observation]
    if len(recorded.observations) not in allowed:
        expected = " or ".join(str(length) for length in allowed)
        raise OtprError(
            f"{place}: observations have length {len(recorded.observations)}, expected {expected} for "
            f"{steps} actions; mend or leave out that episode."
        )
    for name in ("rewards", "success"):
        values = getattr(recorded, name)
        if values is not None and len(values) != steps:
            raise OtprError(
                f"{place}: {name} have length {len(values)}, expected {steps}, as many as actions; "
                "mend or leave out that episode."
            )
