"""What is done, what is left, and how long it will take, told before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal

from rich.table import Table

from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.results import Row, RunKey

START_SECONDS = 20.0
"""What a run takes beside its own clock: to import, to load, to make environments and to compile."""

State = Literal["done", "failed", "started", "to do"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """The completed runs on this machine: by algorithm and task the seconds and environment steps of each."""

    runs: Mapping[tuple[str, str], Sequence[tuple[float, int]]]

    @classmethod
    def of(cls, rows: Iterable[Row], machine: str) -> Timing:
        """From the rows of completed runs on `machine`, of any result version."""
        last: dict[RunKey, Row] = {}
        for row in rows:
            if row.status == "done" and row.machine == machine:
                last[row.run] = max(last.get(row.run, row), row, key=lambda row: row.eval_at)
        runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
        for row in last.values():
            runs.setdefault((row.algorithm, row.task), []).append((row.wall_seconds, row.env_steps))
        return cls(runs)

    def seconds(self, job: Job, steps_done: int = 0) -> float | None:
        """How long a run will take that has come to `steps_done` environment steps; None if unknown."""
        runs = self.runs.get((job.variant.algorithm, job.task.id))
        left = max(job.task.budget.env_steps - steps_done, 0)
        # a run without environment steps takes as long whatever the budget
        return START_SECONDS + fmean(s * left / steps if steps else s for s, steps in runs) if runs else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The state of the runs of a benchmark.

    Attributes:
        states: the state of each run.
        steps: environment steps of the runs that have started.
        bases: the finished bases by task.
        timing: how long runs took before.
        workers: runs side by side.
    """

    states: Mapping[Job, State]
    steps: Mapping[Job, int]
    bases: Mapping[str, Base]
    timing: Timing
    workers: int

    @property
    def left(self) -> list[Job]:
        """The runs to start or to continue, in order."""
        return [job for job, state in self.states.items() if state in ("to do", "started")]

    def table(self) -> Table:
        """The number of runs in each state, by task."""
        table = Table("task", "base", box=None, title_justify="left")
        columns: tuple[State, ...] = ("done", "started", "to do", "failed")
        for column in columns:
            table.add_column(column, justify="right")
        for task in dict.fromkeys(job.task.id for job in self.states):
            states = [state for job, state in self.states.items() if job.task.id == task]
            base = f"{self.bases[task].success:.0%}" if task in self.bases else "to make"
            table.add_row(task, base, *(str(states.count(column)) for column in columns))
        return table

    def forecast(self) -> str:
        """How long the remaining runs will take, as a sentence."""
        return forecast(self.timing, {job: self.steps.get(job, 0) for job in self.left}, self.workers)


def forecast(timing: Timing, left: Mapping[Job, int], workers: int) -> str:
    """How long runs will take, as a sentence.

    Args:
        timing: how long runs took before.
        left: the remaining runs, with the environment steps that each has taken.
        workers: runs side by side.
    """
    if not left:
        return "Nothing is left to run."
    seconds = [timing.seconds(job, steps) for job, steps in left.items()]
    known = [second for second in seconds if second is not None]
    count = "1 run is left" if len(left) == 1 else f"{len(left)} runs are left"
    never = "no run of that algorithm and task has been completed on this machine"
    if not known:
        return f"{count}; how long they take is not known: {never}."
    # workers idle while the last runs end: no less than the longest run
    minutes = max(sum(known) / workers, max(known)) / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    beside = f" with {workers} side by side" if workers > 1 else ""
    unknown = len(seconds) - len(known)
    more = f", and the time of {unknown} of them, which is not known: {never}" if unknown else ""
    return f"{count}: about {time}{beside}{more}."
