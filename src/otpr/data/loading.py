"""From the names of data sets to the episodes that a run learns from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.mixture import check_weights
from otpr.envs import task_spec
from otpr.errors import OtprError
from otpr.spec import Spec


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data sets a run learns from, and which of their episodes."""

    # folders or Minari ids of the demonstrations
    data: tuple[str, ...] = ("runs/demonstrations",)
    # how often each data set is drawn, a number for each; left out, every step is as frequent as any other
    weights: tuple[float, ...] = ()
    # use only episodes that succeeded
    only_successes: bool = False
    # use only the first so many episodes of each data set
    first: int | None = None
    # use only the so many episodes of highest return of each data set, of equal ones the shorter
    best: int | None = None

    def __post_init__(self):
        """Refuse numbers that select nothing, and two ways to count at once."""
        if not self.data:
            raise OtprError("Give at least one data set with --data.")
        check_weights(self.weights, len(self.data))
        if self.first is not None and self.best is not None:
            raise OtprError("Give --first or --best, not both.")
        for name in ("first", "best"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise OtprError(f"{name} must be at least 1, given {count}.")

    def read(self, task: str | None) -> tuple[list[list[Episode]], str]:
        """The chosen episodes of each data set, and the task.

        Args:
            task: its name; None: the one that the data sets name.

        Raises:
            OtprError: a set cannot be read, names another task, does not fit the task's spec (every entry
                that differs is listed), or holds fewer episodes than asked for; or nothing names the task.
        """
        sets: list[list[Episode]] = []
        for source in self.data:
            # where observations are dictionaries the task says which of their entries are used
            keys = task_spec(task).observation_keys if task else None
            demonstrations = read_dataset(source, keys, task=task)
            own = demonstrations.task_id
            if task is not None and own is not None and task != own:
                raise OtprError(f"The demonstrations in {source} are of the task {own!r}, not of {task!r}.")
            task = task or own
            if task is None:
                raise OtprError(f"The data set {source} does not name its task. Give it with --task.")
            spec = task_spec(task).spec
            comparable(demonstrations.spec, spec).check(
                spec,
                f"The data set {source}",
                f"the task {task}",
                "Give the data's own task with --task, or bring the data in again with `otpr data convert` "
                "(--keys chooses the observation, --action-low and --action-high give the action bounds).",
            )
            sets.append(self.select(demonstrations.episodes, source))
        assert task is not None  # there is at least one set
        return sets, task

    def select(self, episodes: Sequence[Episode], source: str) -> list[Episode]:
        """The chosen ones of a data set's episodes, in their order; `source` names it in errors."""
        kept = [episode for episode in episodes if episode.success or not self.only_successes]
        wanted = self.first or self.best or 1
        if len(kept) < wanted:
            kind = "successful episodes" if self.only_successes else "episodes"
            raise OtprError(f"{source}: at least {wanted} {kind} asked for, and it holds {len(kept)}.")
        if self.first is not None:
            return kept[: self.first]
        if self.best is not None:
            order = sorted(range(len(kept)), key=lambda i: (-float(kept[i].rewards.sum()), len(kept[i]), i))
            return [kept[i] for i in sorted(order[: self.best])]
        return kept

    def record(self, sets: Sequence[Sequence[Episode]]) -> dict[str, Any]:
        """What a run's config.json says of its data, so that it is not resumed on other data."""
        return {**dataclasses.asdict(self), "data_sha256": _digest(sets)}


def comparable(seen: Spec, task: Spec) -> Spec:
    """The spec of a data set as it is to be compared with a task's.

    Bounds of [-1, 1] are those of every set that does not say what its actions stand for in the environment's
    own units: they count as the task's.
    """
    if seen.action_dim != task.action_dim or {*seen.action_low, *seen.action_high} != {-1.0, 1.0}:
        return seen
    return dataclasses.replace(seen, action_low=task.action_low, action_high=task.action_high)


def _digest(sets: Sequence[Sequence[Episode]]) -> str:
    digest = hashlib.sha256()
    for episodes in sets:
        for episode in episodes:
            observations = [episode.observations[name] for name in sorted(episode.observations)]
            for array in (*observations, episode.actions, episode.rewards):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(bytes([episode.terminated, episode.truncated, episode.success]))
    return digest.hexdigest()
