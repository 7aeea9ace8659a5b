"""What every reader gives: episodes as their file has them, and where in the file they stand."""

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
        images: by entry name, (rows, height, width, channels) uint8, as many rows as `observations` have;
            mapped from a file where they are many. None where they were not asked for.
        looked: the steps that alone have images, as in `Episode`; None: all.
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
    """Starts reading a data set: the episodes in order, or the error that says why one cannot be read."""

    def __call__(self, *, images: bool = True) -> Iterator[Recorded | OtprError]:
        """Read on; without images nothing is unpacked that only they need."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set that can be read, as often as wanted, an episode at a time.

    Attributes:
        format: its format's name, e.g. `"robomimic"`.
        path: what was given: a file, or a folder.
        keys: the parts of the observation's vector in their order, each with its dimension; none where it is
            images alone.
        images: the image entries of its observations.
        read: starts reading.
        task_id: the otpr task that the file names; None where it names none.
        own_spec: what the set was written with, if otpr wrote it; its actions are in [-1, 1] already.
        own_meaning: what it says of its numbers, if otpr wrote it.
        own_view: what its episodes show of their task, as `Setup.view` has it, if otpr wrote it.
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
        entries = {STATE: Entry((self.observation_dim,), dtype)} if self.observation_dim else {}
        return Spec({**entries, **self.images}, *bounds, control_rate=self.control_rate)

    @property
    def meaning(self) -> Meaning:
        """What is known of its numbers beyond their shapes."""
        if self.own_meaning is None:
            return Meaning(parts=self.keys, facts=self.facts, bounds_stated=self.bounds is not None)
        return replace(self.own_meaning, parts=self.keys) if len(self.keys) > 1 else self.own_meaning


def by_kind(keys: Sequence[str], images: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the user asked for, in two: vectors, and images; all images where nothing was asked for.

    Args:
        keys: what was asked for; names that there are not are taken for vectors.
        images: the names of the images that there are.
    """
    known = tuple(images)
    if not keys:
        return (), known
    return tuple(key for key in keys if key not in known), tuple(key for key in keys if key in known)


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


def rate(value: Any) -> float | None:
    """A control rate in Hz as a file has it; None where that is no positive number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if known else None


def columns(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers by step as a matrix, (steps, dim): a vector is one column."""
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
    """The first so many steps of an episode, with the observation after them where it is there."""
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
    """Which rows of two matrices, (rows, dim) each, are the same but for the rounding of float32; (rows,)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = np.asarray(np.isclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True))
    return np.asarray(same.all(axis=1))
