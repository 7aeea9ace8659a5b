"""Statistics of a data set, read one episode at a time, including sets that cannot be trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.evidence import Evidence, survey
from otpr.data.looks import Look
from otpr.data.recorded import Recorded, Source, check_lengths
from otpr.errors import OtprError
from otpr.spec import Spec

BINS = np.linspace(-1, 1, 42)
"""Edges of the action histograms; the middle bin is centred at 0."""
SATURATED = 0.99
"""An action beyond this counts as saturated."""
SAMPLE = 4000
"""Number of observations that are kept for the picture."""
# Number of problems that are listed; the others are only counted.
_TOLD = 10


class Moments:
    """Range, mean and deviation of each dimension, of the finite numbers seen so far (Chan et al., 1979)."""

    def __init__(self, dim: int):
        self.n = np.zeros(dim, np.int64)
        self.mean = np.zeros(dim)
        self._squares = np.zeros(dim)
        self.low = np.full(dim, np.inf)
        self.high = np.full(dim, -np.inf)
        self.nan = np.zeros(dim, np.int64)
        self.infinite = np.zeros(dim, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Add rows, (n, dim)."""
        values = values.astype(np.float64)
        finite = np.isfinite(values)
        self.nan += np.isnan(values).sum(axis=0)
        self.infinite += np.isinf(values).sum(axis=0)
        n = finite.sum(axis=0)
        known = np.where(finite, values, 0.0)
        mean = known.sum(axis=0) / np.maximum(n, 1)
        squares = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
        total = np.maximum(self.n + n, 1)
        difference = mean - self.mean
        self._squares += squares + difference**2 * self.n * n / total
        self.mean += difference * n / total
        self.n += n
        self.low = np.minimum(self.low, np.where(finite, values, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf))

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of each dimension."""
        return np.sqrt(self._squares / np.maximum(self.n, 1))


@dataclass
class Inspection:
    """The result of an inspection. Arrays have one entry for each episode or for each dimension.

    Attributes:
        source: the data set.
        spec: the episodes' spec, as far as the set states it.
        observations, actions: their moments.
        histograms: (action_dim, bins) counts over `BINS`; values outside are in the outermost bins.
        lengths: (episodes,) steps.
        returns: (episodes,) undiscounted; NaN where an episode has no rewards.
        success: (episodes,) True, False, or None where the set does not say.
        told_by: the sources of success, or reasons why there is none; several if episodes differ.
        terminated, truncated: number of episodes; None if the file does not state it.
        duplicates: pairs of episodes with the same vectors and actions, the earlier first.
        saturated: (action_dim,) share of the actions beyond 0.99.
        outside: number of action values outside [-1, 1].
        problems: reasons for which otpr would refuse episodes, with their places; at most ten.
        problem_count: number of such problems.
        sample: (rows, observation_dim), random finite observations.
        progress: (rows,), the position of each in its episode, in [0, 1].
        looks: statistics of the images by entry name.
    """

    source: Source
    spec: Spec
    observations: Moments
    actions: Moments
    histograms: NDArray[np.int64]
    lengths: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    success: list[bool | None] = field(default_factory=list)
    told_by: list[str] = field(default_factory=list[str])
    terminated: int | None = 0
    truncated: int | None = 0
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    saturated: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    outside: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    sample: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    progress: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    looks: dict[str, Look] = field(default_factory=dict[str, Look])

    def as_dict(self) -> dict[str, Any]:
        """The numbers as a JSON document, without the data for the picture."""
        known = [success for success in self.success if success is not None]
        parts = [f"{key}[{i}]" for key, dim in self.source.keys for i in range(dim)]
        return {
            "path": str(self.source.path),
            "format": self.source.format,
            "task": self.source.task_id,
            "episodes": len(self.lengths),
            "steps": sum(self.lengths),
            "length": _three(self.lengths),
            "successes": sum(known),
            "success_unknown": len(self.success) - len(known),
            "success_told_by": self.told_by,
            "return": _three([value for value in self.returns if np.isfinite(value)]),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "spec": self.spec.to_json(),
            "meaning": self.source.meaning.to_json(),
            "observation": _dimensions(self.observations, parts),
            "images": [look.as_dict(name) for name, look in self.looks.items()],
            "action": [
                {**row, "saturated": float(share)}
                for row, share in zip(
                    _dimensions(self.actions, [f"action[{i}]" for i in range(len(self.actions.n))]),
                    self.saturated,
                    strict=True,
                )
            ],
            "actions_outside": self.outside,
            "nan": int(self.observations.nan.sum() + self.actions.nan.sum()),
            "infinite": int(self.observations.infinite.sum() + self.actions.infinite.sum()),
            "duplicates": [list(pair) for pair in self.duplicates],
            "problems": self.problems,
            "problem_count": self.problem_count,
        }


def inspect(source: Source) -> Inspection:
    """Scan a data set, then read and describe it.

    Args:
        source: an open data set.

    Raises:
        OtprError: the set has no episodes, or the file is incomplete.
    """
    evidence = survey(source)
    observation_dim, action_dim = evidence.dims
    if not action_dim:
        raise next(
            (episode for episode in source.read() if isinstance(episode, OtprError)),
            OtprError(f"{source.path}: holds no episodes; at least one is needed."),
        )
    found = Inspection(
        source,
        source.spec(action_dim, evidence.dtype),
        observations=Moments(observation_dim),
        actions=Moments(action_dim),
        histograms=np.zeros((action_dim, len(BINS) - 1), np.int64),
        looks={name: Look(entry.shape) for name, entry in source.images.items()},
    )
    for doubt in (*source.doubts, *evidence.doubts()):
        _problem(found, f"{source.path}: {doubt}")
    reservoir = _Reservoir()
    seen: dict[bytes, int] = {}
    saturated = np.zeros(action_dim)
    for index, recorded in enumerate(source.read()):
        if isinstance(recorded, OtprError):
            _problem(found, str(recorded))
            continue
        _account(found, recorded, evidence)
        dims = (recorded.observations.shape[1], recorded.actions.shape[1])
        if dims != evidence.dims:
            _problem(
                found,
                f"{recorded.place}: has (observation, action) dimensions {dims}, most {evidence.dims}",
            )
            continue
        digest = _digest(recorded)
        if digest in seen:
            found.duplicates.append((seen[digest], index))
        seen.setdefault(digest, index)
        found.observations.add(recorded.observations)
        found.actions.add(recorded.actions)
        actions = np.nan_to_num(recorded.actions.astype(np.float64), nan=0.0)
        saturated += (np.abs(actions) > SATURATED).sum(axis=0)
        found.outside += int((np.abs(actions) > 1).sum())
        for dim, column in enumerate(np.clip(actions, -1, 1).T):
            found.histograms[dim] += np.histogram(column, BINS)[0]
        reservoir.add(recorded.observations)
        for name, frames in recorded.images.items():
            if found.looks[name].add(frames):
                _problem(found, f"{recorded.place}: every frame of {name} is black")
    found.saturated = saturated / np.maximum(found.actions.n, 1)
    found.sample, found.progress = reservoir.rows()
    return found


def _account(found: Inspection, recorded: Recorded, evidence: Evidence) -> None:
    """Record length, return, success, end and problems of one episode."""
    rewards = recorded.rewards
    found.lengths.append(len(recorded.actions))
    found.returns.append(np.nan if rewards is None else float(rewards.sum(dtype=np.float64)))
    if recorded.terminated is None:
        found.terminated = found.truncated = None
    elif found.terminated is not None and found.truncated is not None:
        found.terminated += recorded.terminated
        found.truncated += bool(recorded.truncated)
    try:
        check_lengths(recorded, found.source.last_observation)
    except OtprError as error:
        _problem(found, str(error))
        found.success.append(None)
    else:
        solved, told_by = evidence.success(recorded)
        found.success.append(None if solved is None else bool(solved.any()))
        told_by = told_by if solved is not None else f"nothing: {told_by}"
        if told_by not in found.told_by:
            found.told_by.append(told_by)
        _check_structure(found, recorded, evidence)
    for name in ("observations", "actions", "rewards"):
        values = getattr(recorded, name)
        if values is None or values.dtype.kind != "f":
            continue
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            step = f"first at step {bad[0, 0]}" + (f", dimension {bad[0, 1]}" if values.ndim == 2 else "")
            _problem(found, f"{recorded.place}: {name} hold {len(bad)} NaN or infinity, {step}")


def _check_structure(found: Inspection, recorded: Recorded, evidence: Evidence) -> None:
    """Record inconsistencies of an episode whose single numbers are valid."""
    if len(recorded.actions) == 1 and found.success[-1] and not evidence.ours:
        _problem(
            found,
            f"{recorded.place}: succeeds in a single step; are flags of success or of the end repeated?",
        )
    if recorded.after_end:
        _problem(
            found, f"{recorded.place}: {recorded.after_end} steps after its end repeat the flag of the end"
        )
    if recorded.continues is None or not evidence.next_rows_fit:
        return
    broken = np.flatnonzero(~recorded.continues)
    if len(broken):
        _problem(
            found,
            f"{recorded.place}: the next observation of {len(broken)} of {len(recorded.actions)} steps is "
            f"not the following row, first that of step {broken[0]}",
        )


def _problem(found: Inspection, text: str) -> None:
    found.problem_count += 1
    if len(found.problems) < _TOLD:
        found.problems.append(text)


def _digest(recorded: Recorded) -> bytes:
    """A digest that equal episodes share, regardless of the types of their numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (recorded.observations, recorded.actions):
        with np.errstate(over="ignore"):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
    if not recorded.observations.shape[1]:
        for name, frames in recorded.images.items():
            digest.update(name.encode() + frames[:1].tobytes())
    return digest.digest()


class _Reservoir:
    """A uniform sample of rows of a stream: those with the smallest random numbers."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)  # a fixed seed gives the same picture each time
        self._kept: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
        self._size = 0

    def add(self, observations: NDArray[Any]) -> None:
        rows = observations.astype(np.float64)
        progress = np.linspace(0, 1, len(rows))
        draws = self._generator.random(len(rows))
        fine = np.isfinite(rows).all(axis=1)
        self._kept.append((rows[fine], progress[fine], draws[fine]))
        self._size += int(fine.sum())
        if self._size > 8 * SAMPLE:
            self._thin()

    def _thin(self) -> None:
        rows, progress, draws = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        smallest = np.argsort(draws, kind="stable")[:SAMPLE]
        self._kept = [(rows[smallest], progress[smallest], draws[smallest])]
        self._size = len(smallest)

    def rows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The rows and their progress."""
        self._thin()
        return self._kept[0][0], self._kept[0][1]


def _three(values: list[int] | list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}


def _dimensions(moments: Moments, names: list[str]) -> list[dict[str, Any]]:
    """One row for each dimension; null if none of its numbers is finite."""
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        known = bool(moments.n[i])
        rows.append(
            {
                "name": name,
                "min": float(moments.low[i]) if known else None,
                "max": float(moments.high[i]) if known else None,
                "mean": float(moments.mean[i]) if known else None,
                "std": float(moments.std[i]) if known else None,
                "constant": bool(known and moments.low[i] == moments.high[i]),
                "nan": int(moments.nan[i]),
                "infinite": int(moments.infinite[i]),
            }
        )
    return rows
