"""The common output of all readers: episodes as stored, and their places in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import Bounds
from otpr.data.meaning import Meaning
from otpr.data.reading import check_numbers
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Parts, Spec


@dataclass(frozen=True)
class Recorded:
    """One episode of T steps as stored, with numbers of any real type that are not checked further.

    Attributes:
        place: the file and the place in it, for errors.
        observations: (T+1, observation_dim); T rows if the file lacks the one after the last step.
        actions: (T, action_dim), in any range.
        rewards: (T,); None if the file has none.
        success: (T,) bool, whether the task was solved after each step; None if the file does not state it.
        success_field: the field of the file that `success` was read from.
        terminated: whether it ended in a terminal state; None if the file does not distinguish this from a
            truncation.
        truncated: whether it was truncated; None in the same case.
        seed: the environment's reset seed; None where unknown.
        continues: (T-1,) bool, whether the recorded next observation of each step equals the following row;
            None if the file only records the last.
        after_end: number of steps after the end that are left out because they repeat its flag.
        images: by entry name, (rows, height, width, channels) uint8, with as many rows as `observations`,
            possibly memory-mapped; empty if they were not requested.
        looked: the steps with images, as in `Episode`; None: all.
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
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict[str, NDArray[np.uint8]])
    looked: NDArray[np.int32] | None = None


class Read(Protocol):
    """Starts reading a data set: yields the episodes in order, or the error for an unreadable one."""

    def __call__(self, *, images: bool = True) -> Iterator[Recorded | OtprError]:
        """Start reading. Without images, nothing is unpacked that only images need."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set that can be read repeatedly, one episode at a time.

    Attributes:
        format: its format's name, e.g. `"robomimic"`.
        path: the given file or folder.
        keys: the parts of the observation's vector in order, each with its dimension; empty if there are only
            images.
        images: the image entries of its observations.
        read: starts reading.
        task_id: the otpr task that the file names; None if it names none.
        own_spec: the set's spec, if otpr wrote it; its actions are in [-1, 1] already.
        own_meaning: the meaning of its numbers, if otpr wrote it.
        own_view: the view of its task, from `Setup.view`, if otpr wrote it.
        facts: facts about its numbers; see `otpr.data.meaning.FACTS`.
        bounds: the action bounds stated by the file, one number for each dimension; None if it does not state
            them.
        control_rate: actions per second, in Hz; None if the file does not state it.
        last_observation: whether all episodes have the observation after the last step; None: only some have
            it.
        undecided: the set's own tasks, one line each, if there are several and the user chose none.
        notes: notes for the user on the interpretation of the file.
        doubts: inconsistencies of the whole file, and how they are read.
    """

    format: str
    path: Path
    keys: Parts
    read: Read
    images: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    task_id: str | None = None
    own_spec: Spec | None = None
    own_meaning: Meaning | None = None
    own_view: Mapping[str, Any] | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    bounds: Bounds | None = None
    control_rate: float | None = None
    last_observation: bool | None = True
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether otpr wrote the set, so that it follows otpr's conventions."""
        return self.own_meaning is not None

    def episodes(self) -> Iterator[Recorded]:
        """The episodes in order.

        Raises:
            OtprError: an episode cannot be read.
        """
        return readable(self.read())

    @property
    def observation_dim(self) -> int:
        """The length of the observation's vector, the sum of all parts."""
        return sum(dim for _, dim in self.keys)

    def spec(self, action_dim: int, dtype: str = "float32") -> Spec:
        """The spec of the episodes, given the length of actions and the type of observations.

        For a set that otpr did not write, the observation is one vector, and action bounds that it does not
        state are [-1, 1].

        Raises:
            OtprError: observations or actions have no dimensions, or the stated bounds are not an interval.
        """
        if self.own_spec is not None:
            return self.own_spec
        bounds = self.bounds or ((-1.0,) * action_dim, (1.0,) * action_dim)
        entries = {STATE: Entry((self.observation_dim,), dtype)} if self.observation_dim else {}
        return Spec({**entries, **self.images}, *bounds, control_rate=self.control_rate)

    @property
    def meaning(self) -> Meaning:
        """The known meaning of its numbers beyond their shapes."""
        if self.own_meaning is None:
            return Meaning(parts=self.keys, facts=self.facts, bounds_stated=self.bounds is not None)
        return replace(self.own_meaning, parts=self.keys) if len(self.keys) > 1 else self.own_meaning


def by_kind(keys: Sequence[str], images: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The requested vectors and the requested images; all images if nothing was requested.

    Args:
        keys: the requested names; unknown names count as vectors.
        images: the names of the existing images.
    """
    known = tuple(images)
    if not keys:
        return (), known
    return tuple(key for key in keys if key not in known), tuple(key for key in keys if key in known)


def attempt(read: Callable[[], Recorded]) -> Recorded | OtprError:
    """An episode, or the error for which it cannot be read."""
    try:
        return read()
    except OtprError as error:
        return error


def readable(episodes: Iterable[Recorded | OtprError]) -> Iterator[Recorded]:
    """Yield the episodes; the error of the first unreadable one is raised."""
    for episode in episodes:
        if isinstance(episode, OtprError):
            raise episode
        yield episode


def rate(value: Any) -> float | None:
    """A control rate in Hz from a file's value; None if that is not a positive number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if known else None


def columns(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers by step as a matrix, (steps, dim); a vector becomes one column."""
    check_numbers(values.dtype, where)
    if values.ndim == 1:
        return values[:, None]
    if values.ndim != 2:
        raise OtprError(f"{where}: has shape {values.shape}, expected (steps, dim).")
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
    """The concatenated parts of the observation, (steps, sum of their dimensions)."""
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise OtprError(
            f"{where}: the parts of the observation have unequal lengths: "
            + ", ".join(f"{name} {length}" for name, length in zip(names, lengths, strict=True))
            + "; mend or leave out that episode."
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def check_lengths(recorded: Recorded, last_observation: bool | None) -> None:
    """Check that the lengths of an episode's fields match.

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
    looks = len(recorded.observations) if recorded.looked is None else len(recorded.looked)
    for name, frames in recorded.images.items():
        if len(frames) != looks:
            raise OtprError(
                f"{place}: {name} has {len(frames)} frames, expected {looks}, one an observation; mend or "
                "leave out that episode."
            )
    for name in ("rewards", "success"):
        values = getattr(recorded, name)
        if values is not None and len(values) != steps:
            raise OtprError(
                f"{place}: {name} have length {len(values)}, expected {steps}, as many as actions; "
                "mend or leave out that episode."
            )


def first_steps(recorded: Recorded, steps: int) -> Recorded:
    """The first steps of an episode, with the observation after them if it exists."""
    continues, looked = recorded.continues, recorded.looked
    if looked is not None:
        looked = looked[looked <= steps]
    frames = steps + 1 if looked is None else len(looked)
    return replace(
        recorded,
        observations=recorded.observations[: steps + 1],
        actions=recorded.actions[:steps],
        rewards=None if recorded.rewards is None else recorded.rewards[:steps],
        success=None if recorded.success is None else recorded.success[:steps],
        continues=None if continues is None else continues[: max(steps - 1, 0)],
        images={name: array[:frames] for name, array in recorded.images.items()},
        looked=looked,
    )


def same_rows(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of two matrices, (rows, dim) each, are equal up to rounding of float32: (rows,)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = np.asarray(np.isclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True))
    return np.asarray(same.all(axis=1))
