"""The runs of a benchmark as Ray tasks. Ray places them and retries those whose machine dies.

All state is in the run directories and the results file, so that a queue can continue no matter whether the
previous one completed, was stopped or was killed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr.training.stopping import StopRequest
from otpr_bench.bases import Base
from otpr_bench.execution import Command, Outcome, carry_out, found_base, make_base, otpr_command
from otpr_bench.jobs import Job
from otpr_bench.plan import Plan, State, durations
from otpr_bench.ray_tasks import Failure, Tasks, task_options
from otpr_bench.records import UNKNOWN, failed_row, is_finished, machine, progress
from otpr_bench.results import Row, add_rows, read_results
from otpr_bench.shifts import Carried, Cell, carry_out_cell
from otpr_bench.snapshots import Place
from otpr_bench.suites import BenchTask

_say = functools.partial(print, flush=True)  # flushed, because users follow the log


class Queue:
    """The runs of one benchmark; `run` executes the remaining ones.

    Args:
        jobs: the runs, in order.
        folder: where bases, run directories and logs go; created if missing.
        results: the Parquet file that gets the rows of each run as it ends.
        storage: see `Place`; None: all machines share `folder`.
        cpus, gpus: resources of a run.
        budget: seconds after which running runs are stopped, as by a signal.
        retry_failed: whether failed runs start again.
        grace: seconds after which a run that does not stop is ended.
        command: executes `otpr`; replaced in tests.
        fresh: whether each run has its own process; False in tests.

    Raises:
        OtprError: a base changed or was made by another recipe, or the results cannot be read.
    """

    side_by_side = 1
    """Number of parallel runs, for the forecast."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        folder: Path,
        results: Path,
        storage: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        budget: float = math.inf,
        retry_failed: bool = False,
        grace: float = 120.0,
        command: Command = otpr_command,
        fresh: bool = True,
    ) -> None:
        self._jobs, self._results, self._command = list(jobs), results, command
        self._place = Place(folder.resolve(), storage, max(1, math.floor(cpus)))
        self._options = task_options(cpus, gpus, fresh)
        self._budget, self._grace, self._end = budget, grace, math.inf
        self._machine = machine()
        self._rows: list[Row] = read_results(results) if results.exists() else []
        self._to_retry = {row.run for row in self._rows if retry_failed and row.status == "failed"}
        self._tasks = {job.task.id: job.task for job in self._jobs}
        found = {name: found_base(task, self._place) for name, task in self._tasks.items()}
        self._bases = {name: base for name, base in found.items() if base is not None}
        self._base_errors: list[str] = []
        self._stop = StopRequest()

    def _placed(self) -> Iterator[tuple[Job, Base, Path]]:
        """The runs with an existing base, each with its base and directory."""
        for job in self._jobs:
            if (base := self._bases.get(job.task.id)) is not None:
                yield job, base, job.directory(self._place.folder, base)

    def failures(self) -> list[Row]:
        """The rows of failed runs."""
        keys = {job.key(base) for job, base, _ in self._placed()}
        return [row for row in self._rows if row.status == "failed" and row.run in keys]

    def finished(self) -> list[tuple[Job, Base, Path]]:
        """The completed runs, each with its base and its directory, which is fetched if necessary."""
        for _, _, directory in self._placed():
            if not directory.exists():
                self._place.fetch(directory)
        return [each for each in self._placed() if is_finished(each[2])]

    def plan(self) -> Plan:
        """The current state of the runs, as far as it is known on this machine, without side effects."""
        states: dict[Job, State] = dict.fromkeys(self._jobs, "to do")
        steps: dict[Job, int] = {}
        for job, base, directory in self._placed():
            if (recorded := self._recorded(job, base)) is not None:
                states[job] = recorded
            elif is_finished(directory):
                states[job] = "done"
            elif directory.exists():
                states[job], steps[job] = "started", progress(directory)[0]
        return Plan(states, steps, self._bases, durations(self._rows, self._machine), self.side_by_side)

    def run(self, ray: Any) -> bool:
        """Make missing bases, execute the remaining runs, and print a line at the end of each.

        Args:
            ray: the module, connected to a cluster.

        Returns:
            Whether every run is completed or failed; False if some are left for another time.

        Raises:
            OtprError: another queue works in the folder, a base cannot be made, or results cannot be written.
        """
        self._place.folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.take(self._place.folder)
        self._end = time.monotonic() + self._budget
        tasks = Tasks(ray, self._options)
        try:
            with self._stop:
                for task in self._tasks.values():
                    if task.id not in self._bases:
                        _say(f"Making the base of {task.id}: {task.recipe}")
                        tasks.submit(task, make_base, task, self._place, self._command)
                for job, _, _ in self._placed():
                    self._submit(job, tasks)
                for item, result in tasks.ended(self._is_over, self._grace):
                    came: Came = _STOPPED if result is None else result
                    if isinstance(came, Failure) and came.died:
                        came = Failure(f"{came.why}; what it wrote is in the folder `logs` of --out", True)
                    if isinstance(item, _Started):
                        self._take_run(item, came, tasks)
                    else:
                        self._take_base(item, came, tasks)
        finally:
            tasks.end()
            lock.release()
        if self._base_errors:
            raise OtprError("\n".join(self._base_errors))
        return not self.plan().left

    def _submit(self, job: Job, tasks: Tasks) -> None:
        base = self._bases[job.task.id]
        key, directory = job.key(base), job.directory(self._place.folder, base)
        if self._recorded(job, base) in (None, "to do"):
            failed = [row.started for row in self._rows if row.run == key] if key in self._to_retry else []
            tasks.submit(
                _Started(job, progress(directory)[0]), carry_out, job, failed, self._place, self._command
            )

    def _take_base(self, task: BenchTask, came: Came, tasks: Tasks) -> None:
        """Handle the result of making a base, and start the runs that wait for it."""
        why = came.why if isinstance(came, Failure) else came.failed
        base = None if why else found_base(task, self._place)
        if why:
            self._base_errors.append(f"The base of {task.id} was not made: {why}")
            _say(self._base_errors[-1])
        elif base is None:
            _say(f"The base of {task.id}: stopped before it was complete.")
        else:
            self._bases[task.id] = base
            _say(f"The base of {task.id} succeeds in {base.success:.0%} of {base.episodes} episodes.")
            if base.warning:
                _say(base.warning)
            for job in self._jobs:
                if job.task.id == task.id and not self._is_over():
                    self._submit(job, tasks)

    def _take_run(self, run: _Started, came: Came, tasks: Tasks) -> None:
        """Record the result of a run, unless it was postponed."""
        job, base = run.job, self._bases[run.job.task.id]
        directory = job.directory(self._place.folder, base)
        if isinstance(came, Failure) and not (came.died and self._is_over()):
            self._place.fetch(directory)
            if came.died and progress(directory)[0] > run.steps:
                _say(f"{job}: {came.why}; it has come further, and goes on.")
                self._submit(job, tasks)
            else:
                self._record(job, base, [failed_row(job, base, directory, came.why, on=UNKNOWN)])
        elif isinstance(came, Failure) or not came.rows:
            _say(f"{job}: {'stopped' if isinstance(came, Failure) else came.left}.")
        else:
            self._record(job, base, came.rows)

    def cells(self, ray: Any, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Carried]]:
        """Carry out cells of the suite `shifts` as tasks, until the queue is to stop; see `run`.

        Yields:
            The cells as they end, each with what came out, or the reason why nothing did.
        """
        tasks = Tasks(ray, {key: x for key, x in self._options.items() if key != "max_calls"})
        try:
            with self._stop:
                for cell in cells:
                    tasks.submit(cell, carry_out_cell, cell)
                for cell, came in tasks.ended(self._is_over, self._grace):
                    if came is not None:
                        yield cell, came.why if isinstance(came, Failure) else came
        finally:
            tasks.end()

    def _is_over(self) -> bool:
        """Whether to stop: because of a signal or the end of the budget."""
        return self._stop.requested or time.monotonic() >= self._end

    def _recorded(self, job: Job, base: Base) -> State | None:
        """The recorded state of a run, "to do" if it failed and starts again; None if there is none."""
        key = job.key(base)
        return (
            "to do" if key in self._to_retry else next((r.status for r in self._rows if r.run == key), None)
        )

    def _record(self, job: Job, base: Base, rows: Sequence[Row]) -> None:
        first, last = rows[0], rows[-1]
        if first.success is None or last.success is None:
            words = f"FAILED after {last.env_steps:,} steps: {last.error.splitlines()[-1]}"
        else:
            words = f"{first.success:.0%} before, {last.success:.0%} after {last.env_steps:,} steps and "
            words += f"{last.wall_seconds / 60:.1f} minutes"
        add_rows(self._results, rows)
        self._rows = read_results(self._results)
        self._to_retry.discard(job.key(base))
        _say(f"{job}: {words}. {self.plan().forecast()}")


Came = Outcome | Failure
"""The result of a task."""

_STOPPED = Outcome(left="stopped")


class _Started(NamedTuple):
    """A run whose task was submitted, and its earlier progress."""

    job: Job
    steps: int
