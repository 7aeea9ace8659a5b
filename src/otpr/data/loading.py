"""Loading and selection of the episodes that a run learns from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from otpr.data.actions import Bounds
from otpr.data.agreement import Side, agree, assumed, check_names, needless, of_task
from otpr.data.datasets import Demonstrations, read_dataset, setup_of
from otpr.data.episodes import Episode
from otpr.data.mixture import check_weights
from otpr.data.overlap import Sample
from otpr.envs import Setup, task_spec
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
    # names of differences between data and task that do not matter (docs/data-agreement.md)
    accept: tuple[str, ...] = ()
    # do not compare the data with resets and replays of the task, e.g. where it is a real robot
    skip_check: bool = False

    def __post_init__(self):
        """Check the numbers, and that only one way of counting is used."""
        if not self.data:
            raise OtprError("Give at least one data set with --data.")
        check_weights(self.weights, len(self.data))
        check_names(self.accept)
        if self.first is not None and self.best is not None:
            raise OtprError("Give --first or --best, not both.")
        for name in ("first", "best"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise OtprError(f"{name} must be at least 1, given {count}.")

    def read(
        self, task: str | Setup | None, tell: Callable[[str], object] = print
    ) -> tuple[list[list[Episode]], Setup]:
        """The chosen episodes of each data set, and the task.

        Args:
            task: the task's name, viewed as in the data sets, or a setup; None: the task that they name.
            tell: called with a sentence for everything assumed, reordered or accepted.

        Raises:
            OtprError: a set cannot be read or holds fewer episodes than requested; it disagrees with the task
                or with another set (all differences are listed); or no task is named.
        """
        read: list[tuple[Demonstrations, Side]] = []
        told: list[str] = []
        setup = task if isinstance(task, Setup) else None
        for source in self.data:
            setup = setup or setup_of(source, task if isinstance(task, str) else None)
            if setup is None:
                raise OtprError(f"The data set {source} does not name its task. Give it with --task.")
            known = of_task(task_spec(setup))
            demonstrations = read_dataset(source, task=task_spec(setup))
            side = _side(source, demonstrations)
            accept = (*self.accept, *(side.meaning.accepted if side.task == setup.task else ()))
            hint = (
                "Give the data's own task with --task, or bring the data in again with `otpr data convert` "
                "(--keys chooses the observation)."
            )
            lines = [f"{side.name}: {line}" for line in demonstrations.told]
            lines += [*assumed(side, known), *agree(side, known, accept, hint)]
            for other, there in read:
                lines += agree(side, there, (*accept, *other.meaning.accepted))
            told += dict.fromkeys(lines)
            for line in dict.fromkeys(lines):
                tell(line)
            read.append((demonstrations, side))
        for line in needless(self.accept, told):
            tell(line)
        assert setup is not None  # there is at least one data set
        spec = task_spec(setup).spec
        return [
            self.select([_rounded(episode, spec) for episode in found.episodes], source)
            for source, (found, _) in zip(self.data, read, strict=True)
        ], setup

    def check(
        self, sets: Sequence[Sequence[Episode]], setup: Setup, tell: Callable[[str], object] = print
    ) -> None:
        """Compare each set with resets and replays of the task, and report differences; see `overlap`.

        Args:
            sets: the chosen episodes of each data set.
            setup: the task.
            tell: called with a sentence for each difference.
        """
        if self.skip_check:
            return
        for source, episodes in zip(self.data, sets, strict=True):
            sample = Sample()
            for episode in episodes:
                sample.add(episode)
            for line in sample.compared(task_spec(setup)):
                tell(f"warning: {source}: {line}")

    def select(self, episodes: Sequence[Episode], source: str) -> list[Episode]:
        """The selected episodes of a data set, in order; `source` is its name in errors."""
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
        """The data's entry in a run's config.json, so that the run cannot be resumed on other data."""
        chosen = dataclasses.asdict(self)
        del chosen["skip_check"]  # has no effect on results
        if not self.accept:
            del chosen["accept"]  # as in runs of versions without this option
        return {**chosen, "data_sha256": _digest(sets)}


def _side(source: str, demonstrations: Demonstrations) -> Side:
    """The self-description of a data set."""

    def action_range() -> Bounds:
        actions = np.concatenate([episode.actions for episode in demonstrations.episodes])
        return tuple(actions.min(axis=0).tolist()), tuple(actions.max(axis=0).tolist())

    return Side(
        f"the data set {source}",
        demonstrations.spec,
        demonstrations.task_id,
        demonstrations.meaning,
        action_range,
    )


def _rounded(episode: Episode, task: Spec) -> Episode:
    """The episode with observations rounded to the task's types, as a policy for the task sees them."""
    given = {
        name: array.astype(entry.dtype) if array.itemsize > np.dtype(entry.dtype).itemsize else array
        for (name, entry), array in zip(
            task.observation.items(), [episode.observations[name] for name in task.observation], strict=True
        )
    }
    return dataclasses.replace(episode, observations=given)


def _digest(sets: Sequence[Sequence[Episode]]) -> str:
    digest = hashlib.sha256()
    for episodes in sets:
        for episode in episodes:
            observations = [episode.observations[name] for name in sorted(episode.observations)]
            for array in (*observations, episode.actions, episode.rewards):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(bytes([episode.terminated, episode.truncated, episode.success]))
    return digest.hexdigest()
