"""What every reader gives: episodes as their file has them, and where in the file they stand."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]: compiled, and there
from numpy.typing import NDArray

from otpr.data.actions import Bounds
from otpr.data.meaning import Meaning
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Parts, Spec

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
    MemoryError,  # what it claims to hold is more than there is room for
)

READ_LIMIT = 256 * 2**20
"""Bytes of the largest array that is read at once: a million steps of 64 numbers. A file of a few bytes can
claim, or be unpacked to, any size; whoever reads it all must not run out of memory."""
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
        success_field: the field of the file that `success` was read from.
        terminated: it ended in a terminal state; None where the file does not tell this from a time limit.
        truncated: it was cut off; None likewise.
        seed: the environment's reset seed; None where unknown.
        continues: (T-1,) bool, whether the observation recorded as the one after each step is the following
            row; None where the file records none but the last.
        after_end: steps that the file has after the end and that are left out, since they repeat its flag.
    """

    place: str
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any] | None = None
    success: NDArray[np.bool_] | None = None
    success_field: str = "success"
    terminated: bool | None = None
    truncated: bool | None = None
    seed: int | None = None
    continues: NDArray[np.bool_] | None = None
    after_end: int = 0


@dataclass(frozen=True)
class Source:
    """A data set that can be read, as often as wanted, an episode at a time.

    Attributes:
        format: its format's name, e.g. `"robomimic"`.
        path: what was given: a file, or a folder.
        keys: the observation's parts in their order, each with its dimension.
        read: starts reading: the episodes in order; one that cannot be read comes as the error that says why.
        task_id: the otpr task that the file names; None where it names none.
        own_spec: what the set was written with, if otpr wrote it; its actions are in [-1, 1] already.
        own_meaning: what it says of its numbers, if otpr wrote it.
        facts: what the file says of its numbers; see `otpr.data.meaning.FACTS`.
        bounds: the bounds of the actions as the file states them, one number a dimension; None where it does
            not.
        control_rate: actions in a second, in Hz; None where the file does not say.
        last_observation: whether each episode has the observation after its last step; None: some have.
        undecided: the set's own tasks, a line each, where there are several and the user chose none.
        notes: what the user should know of how the file was understood.
        doubts: what cannot be as it stands in the file as a whole, and how it is read.
    """

    format: str
    path: Path
    keys: Parts
    read: Callable[[], Iterator[Recorded | OtprError]]
    task_id: str | None = None
    own_spec: Spec | None = None
    own_meaning: Meaning | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    bounds: Bounds | None = None
    control_rate: float | None = None
    last_observation: bool | None = True
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether otpr wrote it: it is as otpr's environments record."""
        return self.own_meaning is not None

    def episodes(self) -> Iterator[Recorded]:
        """The episodes in order.

        Raises:
            OtprError: one cannot be read.
        """
        return readable(self.read())

    @property
    def observation_dim(self) -> int:
        """The length of the observation, all parts together."""
        return sum(dim for _, dim in self.keys)

    def spec(self, action_dim: int, dtype: str = "float32") -> Spec:
        """What its episodes exchange, which have actions of that length and observations of that type.

        Of a set that otpr did not write the observation is one vector; where it does not state the bounds of
        its actions, these are [-1, 1].

        Raises:
            OtprError: observations or actions have no dimensions, or the bounds stated are no interval.
        """
        if self.own_spec is not None:
            return self.own_spec
        bounds = self.bounds or ((-1.0,) * action_dim, (1.0,) * action_dim)
        entries = {STATE: Entry((self.observation_dim,), dtype)}
        return Spec(entries, *bounds, control_rate=self.control_rate)

    @property
    def meaning(self) -> Meaning:
        """What is known of its numbers beyond their shapes."""
        if self.own_meaning is None:
            return Meaning(parts=self.keys, facts=self.facts, bounds_stated=self.bounds is not None)
        return replace(self.own_meaning, parts=self.keys) if len(self.keys) > 1 else self.own_meaning


def attempt(read: Callable[[], Recorded]) -> Recorded | OtprError:
    """An episode, or the error that says why it cannot be read."""
    try:
        return read()
    except OtprError as error:
        return error


def readable(episodes: Iterable[Recorded | OtprError]) -> Iterator[Recorded]:
    """The episodes; the error of the first one that cannot be read is raised."""
    for episode in episodes:
        if isinstance(episode, OtprError):
            raise episode
        yield episode


@contextlib.contextmanager
def reading(path: Path, mend: str = "copy or download it again") -> Generator[None]:
    """Turn what the libraries raise on a file into an error that names the file and the mend.

    Raises:
        OtprError: this user may not read the file, another process has it open for writing, it was not closed
            by the program that wrote it, or it is not whole.
    """
    try:
        yield
    except CORRUPT as error:
        if isinstance(error, PermissionError):
            raise OtprError(
                f"{path} may not be read by this user ({reason(error)}). Ask its owner for the right to read "
                "it and to enter the folders above it, or for a copy."
            ) from error
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            raise OtprError(
                f"{path} is locked: another process is writing it ({reason(error)}). Wait until that has "
                "closed it, then start again. Where no process has it open, its file system has no locks: "
                "set HDF5_USE_FILE_LOCKING=FALSE."
            ) from error
        if "already open for write" in str(error):
            raise OtprError(
                f"{path} was not closed by the program that wrote it, and its end may be missing "
                f"({reason(error)}). If no process writes it, `h5clear --status` of HDF5's tools opens it."
            ) from error
        raise OtprError(f"{path}: truncated or corrupt ({reason(error)}); {mend}.") from error


def check_readable(path: Path) -> None:
    """Refuse a file or folder that is there and that this user may not open; libraries take it for another.

    Raises:
        OtprError: it may not be read.
    """
    with reading(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            os.listdir(path)
            os.stat(f"{path}/.")  # which needs the right to enter it
        else:
            open(path, "rb").close()


def reason(error: BaseException) -> str:
    """The error's kind and words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; whoever calls closes it.

    Raises:
        OtprError: it is no HDF5 file, not whole, or has links to other files.
    """
    check_readable(path)
    with reading(path):
        if path.stat().st_size == 0:
            raise OtprError(f"{path} is empty; copy or download it again.")
        if not h5py.is_hdf5(path):
            raise OtprError(f"{path} is not an HDF5 file, whatever its name; give the data file itself.")
        file = h5py.File(path, "r")
        try:
            check_links(path, file)
        except BaseException:
            file.close()
            raise
        return file


def check_links(path: Path, file: h5py.File) -> None:
    """Refuse a file with links out of it, before one is followed: HDF5 opens whatever file they name."""

    def visit(name: bytes, info: Any) -> bytes | None:
        return None if info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT) else name

    # anything but None ends the visit; an error may not pass through HDF5
    if (name := file.id.links.visit(visit, info=True)) is not None:
        raise OtprError(
            f"{path}: {name.decode(errors='replace')} is a link out of the file, and is not followed; "
            "copy the data into the file."
        )


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
    check_own(entry)
    return entry


def stored(group: h5py.Group, name: str) -> NDArray[Any]:
    """All the numbers of a data set inside a group; KeyError where there is none of that name."""
    entry = dataset(group, name)
    where = f"{group.file.filename}: {entry.name}"
    check_numbers(entry.dtype, where)
    check_size(entry.shape, entry.dtype, where)
    return np.asarray(entry[()])


def check_own(entry: h5py.Dataset) -> None:
    """Refuse a data set whose numbers lie in other files, or in pieces too large to unpack.

    To be called before anything else is asked of it: HDF5 may open the other files to tell the shape.
    """
    where = f"{entry.file.filename}: {entry.name}"
    layout = entry.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise OtprError(
            f"{where}: its numbers lie in other files, which are not read; copy them into the file."
        )
    if layout.get_layout() == h5py.h5d.CHUNKED and entry.ndim <= 2:  # pictures are not read
        check_size(layout.get_chunk(), entry.dtype, f"{where} (a chunk)")
    _check_filters(layout, where)


def _check_filters(layout: Any, where: str) -> None:
    """Refuse numbers that were compressed in a way that HDF5 knows by no plugin here."""
    for index in range(layout.get_nfilters()):
        number, _, _, name = layout.get_filter(index)
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # which registers the filters it brings
        if not h5py.h5z.filter_avail(number):
            called = name.decode(errors="replace") or "without a name"
            raise OtprError(
                f"{where}: is compressed with HDF5's filter {number} ({called}), which is not installed. "
                "`pip install hdf5plugin` brings the usual ones, and otpr finds it; or write "
                "the file again with compression='gzip'."
            )


def check_size(shape: tuple[int, ...] | None, dtype: np.dtype[Any], where: str) -> None:
    """Refuse an array of more than `READ_LIMIT` bytes, before memory is taken for it."""
    size = math.prod(shape or ()) * dtype.itemsize
    if size > READ_LIMIT:
        raise OtprError(
            f"{where}: claims shape {shape} of {dtype}, {size:,} bytes, where at most {READ_LIMIT:,} are "
            "read at once; cut it into shorter episodes or files."
        )


def check_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot become float32."""
    if dtype.kind not in "fiub":
        kind = "Python objects (a pickle)" if dtype.hasobject else f"dtype {dtype}"
        raise OtprError(f"{where}: holds {kind}, expected real numbers; write it as float32.")


def rate(value: Any) -> float | None:
    """A control rate in Hz as a file has it; None where that is no positive number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if known else None


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


def first_steps(recorded: Recorded, steps: int) -> Recorded:
    """The first so many steps of an episode, with the observation after them where it is there."""
    continues = recorded.continues
    return replace(
        recorded,
        observations=recorded.observations[: steps + 1],
        actions=recorded.actions[:steps],
        rewards=None if recorded.rewards is None else recorded.rewards[:steps],
        success=None if recorded.success is None else recorded.success[:steps],
        continues=None if continues is None else continues[: max(steps - 1, 0)],
    )


def same_rows(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of two matrices, (rows, dim) each, are the same but for the rounding of float32; (rows,)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = np.asarray(np.isclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True))
    return np.asarray(same.all(axis=1))
