"""The plan of a benchmark: finished and remaining runs, and the expected duration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Literal

from rich.table import Table

from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.results import Row

START_SECONDS = 20.0  # time of a run outside its own clock: imports, loading, environments, compilation

State = Literal["done", "failed", "started", "to do"]


def durations(rows: Iterable[Row], machine: str) -> dict[str, float]:
    """Mean seconds of the completed runs on a machine, by the hash of their settings.

    Args:
        rows: as `read_results` gives them: the rows of a run are ordered by step.
        machine: rows of other machines are left out.
    """
    ends = {row.run: row for row in rows if row.status == "done" and row.machine == machine}
    seconds: dict[str, list[float]] = {}
    for row in ends.values():
        seconds.setdefault(row.settings, []).append(row.wall_seconds)
    return {settings: fmean(found) for settings, found in seconds.items()}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The state of the runs of a benchmark."""

    states: Mapping[Job, State]
    steps: Mapping[Job, int]  # environment steps of the runs that have started
    bases: Mapping[str, Base]  # the finished ones, by task
    seconds: Mapping[str, float]  # of `durations`
    workers: int  # runs side by side

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
        if not self.left:
            return "Nothing is left to run."
        known = [
            START_SECONDS + seconds * max(0.0, 1 - self.steps.get(job, 0) / job.task.budget.env_steps)
            for job in self.left
            if (seconds := self.seconds.get(job.settings)) is not None
        ]
        count = "1 run is left" if len(self.left) == 1 else f"{len(self.left)} runs are left"
        never = "no run with their settings has been completed on this machine"
        if not known:
            return f"{count}; how long they take is not known: {never}."
        # workers idle while the last runs end: no less than the longest run
        minutes = max(sum(known) / self.workers, max(known)) / 60
        time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        beside = f" with {self.workers} side by side" if self.workers > 1 else ""
        unknown = len(self.left) - len(known)
        more = f", and the time of {unknown} of them, which is not known: {never}" if unknown else ""
        return f"{count}: about {time}{beside}{more}."
