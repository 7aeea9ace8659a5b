"""What is done, what is to do, and how long it will take, told before anything starts."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.table import Table

from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.records import is_finished, progress
from otpr_bench.results import Row, RunKey

START_SECONDS = 20.0
"""What a run takes beside its own clock: to import, load, make environments and compile."""

State = Literal["done", "failed", "started", "to do"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """What runs took on this machine, by (algorithm, task).

    Attributes:
        costs: mean seconds of a run whatever its environment steps (of algorithms that take none, all of
            them), and mean seconds for a step (of the others).
    """

    costs: Mapping[tuple[str, str], tuple[float, float]]

    @classmethod
    def of(cls, rows: Iterable[Row], machine: str) -> Timing:
        """From the last rows of finished runs on `machine`, of any version of the code."""
        last: dict[RunKey, Row] = {}
        for row in rows:
            if row.status == "done" and row.machine == machine:
                last[row.run] = max(last.get(row.run, row), row, key=lambda row: row.eval_at)
        costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in last.values():
            cost = (0.0, row.wall_seconds / row.env_steps) if row.env_steps else (row.wall_seconds, 0.0)
            costs.setdefault((row.algorithm, row.task), []).append(cost)
        mean = statistics.mean
        return cls({key: (mean(c[0] for c in all_), mean(c[1] for c in all_)) for key, all_ in costs.items()})

    def seconds(self, job: Job, steps_done: int = 0) -> float | None:
        """How long a run will take that has come to `steps_done` environment steps; None: not known."""
        cost = self.costs.get((job.method.algorithm, job.task.id))
        if cost is None:
            return None
        return START_SECONDS + cost[0] + cost[1] * max(job.task.budget.env_steps - steps_done, 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the runs of a benchmark stand.

    Attributes:
        states: of each run.
        steps: environment steps of those that have started.
        bases: those that are finished, by task.
        timing: what runs took before.
        workers: runs side by side.
    """

    states: Mapping[Job, State]
    steps: Mapping[Job, int]
    bases: Mapping[str, Base]
    timing: Timing
    workers: int

    @classmethod
    def of(
        cls,
        jobs: Sequence[Job],
        rows: Sequence[Row],
        *,
        folder: Path,
        bases: Mapping[str, Base],
        machine: str,
        workers: int,
        retry_failed: bool = False,
    ) -> Plan:
        """Look at results and run directories; nothing is changed.

        Args:
            jobs: the runs.
            rows: of the results file.
            folder: of the benchmark.
            bases: those that are finished, by task; a run whose base is not made is to do.
            machine: whose times count.
            workers: runs side by side.
            retry_failed: runs that failed are to do.
        """
        recorded: dict[RunKey, Literal["done", "failed"]] = {row.run: row.status for row in rows}
        states: dict[Job, State] = {}
        steps: dict[Job, int] = {}
        for job in jobs:
            base = bases.get(job.task.id)
            status = recorded.get(job.key(base)) if base else None
            if base is None:
                states[job] = "to do"
            elif status is not None:
                states[job] = "to do" if status == "failed" and retry_failed else status
            elif is_finished(directory := job.directory(folder, base)):
                states[job] = "done"
            elif directory.exists():
                states[job], steps[job] = "started", progress(directory)[0]
            else:
                states[job] = "to do"
        return cls(states, steps, bases, Timing.of(rows, machine), workers)

    @property
    def left(self) -> list[Job]:
        """The runs that are to do or to be gone on with, in order."""
        return [job for job, state in self.states.items() if state in ("to do", "started")]

    def table(self) -> Table:
        """Counts by task."""
        table = Table("task", "base", box=None, title_justify="left")
        for column in ("done", "started", "to do", "failed", "time left"):
            table.add_column(column, justify="right")
        tasks = list(dict.fromkeys(job.task.id for job in self.states))
        for task in tasks:
            jobs = [job for job in self.states if job.task.id == task]
            table.add_row(task, *self._cells(jobs, self.bases.get(task)))
        if len(tasks) > 1:
            table.add_row("all", *self._cells(list(self.states), None, ""))
        return table

    def forecast(self) -> str:
        """How long the rest will take, in words."""
        return forecast(self.timing, {job: self.steps.get(job, 0) for job in self.left}, self.workers)

    def _cells(self, jobs: list[Job], base: Base | None, no_base: str = "to make") -> list[str]:
        states = [self.states[job] for job in jobs]
        left = [job for job in jobs if self.states[job] in ("to do", "started")]
        seconds = [self.timing.seconds(job, self.steps.get(job, 0)) for job in left]
        known = sum(second for second in seconds if second is not None)
        time = duration(known) if None not in seconds else f"{duration(known)} + ?" if known else "?"
        counts = [str(states.count(state)) for state in ("done", "started", "to do", "failed")]
        return [no_base if base is None else f"{base.success:.0%}", *counts, time if left else ""]


def forecast(timing: Timing, left: Mapping[Job, int], workers: int) -> str:
    """How long runs will take, in words.

    Args:
        timing: what runs took before.
        left: the runs, with the environment steps each has taken.
        workers: runs side by side.
    """
    if not left:
        return "Nothing is left to run."
    seconds = [timing.seconds(job, steps) for job, steps in left.items()]
    known = [second for second in seconds if second is not None]
    beside = f" with {workers} side by side" if workers > 1 else ""
    unknown = len(seconds) - len(known)
    never = "no run of that algorithm and task is done on this machine yet"
    count = "1 run is" if len(left) == 1 else f"{len(left)} runs are"
    if not known:
        return f"{count} left; how long they take is not known: {never}."
    # the last runs leave workers idle: no less than the longest of them
    time = duration(max(sum(known) / workers, max(known)))
    more = f", and {unknown} of them on top that cannot be timed: {never}" if unknown else ""
    return f"{count} left: about {time}{beside}{more}."


def duration(seconds: float) -> str:
    """Time for people: minutes, from two hours on hours."""
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
