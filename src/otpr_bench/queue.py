"""A list of runs, done one to a core, that survives being stopped at any instant.

The only state is in the run directories and the results file. What a queue does next follows from these,
whether the last queue completed, was stopped or was killed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr.training.stopping import StopRequest
from otpr_bench.bases import Base, load_base
from otpr_bench.jobs import Job, plain_name
from otpr_bench.plan import Plan, State, Timing, forecast
from otpr_bench.processes import COMMAND, Child, is_busy, set_aside, stored_paths
from otpr_bench.records import done_rows, failed_row, is_finished, last_words, machine, progress, started
from otpr_bench.results import Row, RunKey, add_rows, read_results
from otpr_bench.suites import BenchTask

_say = functools.partial(print, flush=True)  # people follow the log while the queue works


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a queue waits, in seconds."""

    # a run that has logged nothing for this long is ended; the longest evaluations take ten minutes
    stall: float = 1800.0
    # a run that was asked to stop and is still going on after this long is ended
    stop: float = 120.0
    # time between two looks at the runs
    look: float = 0.2


class Queue:
    """The runs of one benchmark; `run` does those that are left.

    Args:
        jobs: the runs, in order.
        folder: where bases, run directories and logs go; created if missing.
        results: the Parquet file that gets the rows of each run as it ends.
        workers: runs side by side, each on a core of its own if there are as many.
        budget: seconds after which the running ones are stopped, as by a signal; None for no limit.
        retry_failed: whether runs that failed begin anew.
        patience: how long the queue waits.
        command: replaces `COMMAND` in tests.

    Raises:
        OtprError: a base changed or was made by another recipe, or the results cannot be read.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        folder: Path,
        results: Path,
        workers: int = 1,
        budget: float | None = None,
        retry_failed: bool = False,
        patience: Patience | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._jobs, self._folder, self._results = list(jobs), folder.resolve(), results
        self._workers, self._budget, self._retry_failed = workers, budget, retry_failed
        self._patience, self._command, self._machine = patience or Patience(), command, machine()
        self._rows: list[Row] = read_results(results) if results.exists() else []
        self._bases: dict[str, Base] = {}
        for task in {job.task.id: job.task for job in self._jobs}.values():
            if (base := load_base(self._base_folder(task), task.id, task.recipe)) is not None:
                self._bases[task.id] = base
        self._to_make: list[BenchTask] = []
        self._waiting: list[Job] = []
        self._running: dict[Job | BenchTask, Child] = {}
        self._left_early: set[Job] = set()
        self._base_errors: dict[str, str] = {}
        self._stopped_at: float | None = None  # when the runs were asked to stop

    def failures(self) -> list[Row]:
        """The rows of those of the runs that failed."""
        keys = {job.key(base) for job in self._jobs if (base := self._bases.get(job.task.id))}
        return [row for row in self._rows if row.status == "failed" and row.run in keys]

    def plan(self) -> Plan:
        """The present state of the runs. Nothing is changed."""
        recorded: dict[RunKey, State] = {row.run: row.status for row in self._rows}
        states: dict[Job, State] = {}
        steps: dict[Job, int] = {}
        for job in self._jobs:
            states[job] = "to do"
            if (base := self._bases.get(job.task.id)) is None:
                continue
            directory = job.directory(self._folder, base)
            if (status := recorded.get(job.key(base))) is not None:
                states[job] = "to do" if status == "failed" and self._retry_failed else status
            elif is_finished(directory):
                states[job] = "done"
            elif directory.exists():
                states[job], steps[job] = "started", progress(directory)[0]
        return Plan(states, steps, self._bases, Timing.of(self._rows, self._machine), self._workers)

    def run(self) -> bool:
        """Do the runs that are left, and print a line as each of them ends.

        Returns:
            Whether every run is completed or failed; False if some are left for another time.

        Raises:
            OtprError: another queue works in the folder, a base cannot be made, or results cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.take(self._folder)
        try:
            for job in self._jobs:  # runs that ended while no queue was there to see it
                base = self._bases.get(job.task.id)
                if (
                    base
                    and not self._is_recorded(job, base)
                    and is_finished(job.directory(self._folder, base))
                ):
                    self._take_in(job, base)
            self._waiting = self.plan().left
            tasks = {job.task.id: job.task for job in self._waiting}
            self._to_make = [task for name, task in tasks.items() if name not in self._bases]
            with StopRequest() as stop:
                self._loop(stop)
        finally:
            for child in self._running.values():  # empty unless this method failed
                child.process.terminate()
            lock.release()
        if self._base_errors:
            whys = [f"The base of {task} was not made: {why}" for task, why in self._base_errors.items()]
            raise OtprError("\n".join(whys))
        return not self._waiting

    # ------------------------------------------------------------------------------------------- the loop

    def _loop(self, stop: StopRequest) -> None:
        began = time.monotonic()
        while True:
            self._reap()
            over = self._budget is not None and time.monotonic() - began >= self._budget
            if (stop.requested or over) and self._stopped_at is None:
                self._stopped_at = time.monotonic()
                if not stop.requested:
                    _say("The time budget is used up: the running ones save and stop.")
                for child in self._running.values():
                    child.process.terminate()
            self._end_the_hopeless()
            if self._stopped_at is None:
                while len(self._running) < self._workers and self._start_one():
                    pass
            # runs whose directory is busy can start later, those without a base cannot
            startable = self._to_make or any(job.task.id in self._bases for job in self._waiting)
            if not self._running and (self._stopped_at is not None or not startable):
                return
            time.sleep(self._patience.look)

    def _start_one(self) -> bool:
        """Start the next base or run; False if none can be started now."""
        if self._to_make:
            task = self._to_make.pop(0)
            recipe = json.dumps(dataclasses.asdict(task.recipe))
            _say(f"Making the base of {task.id}: {recipe}")
            folder = self._base_folder(task)
            self._start(task, folder, ["base", str(folder), task.id, recipe])
            return True
        for job in list(self._waiting):
            base = self._bases.get(job.task.id)
            if base is None or is_busy(directory := job.directory(self._folder, base)):
                continue  # busy with a run of a queue that was killed, which is about to save
            self._waiting.remove(job)
            if self._is_recorded(job, base):  # the base was made again and is the same as before
                continue
            if is_finished(directory):  # by the queue that was killed
                self._take_in(job, base)
                continue
            resume = ["--resume"] if self._can_resume(job, base, directory) else []
            self._start(job, directory, [*job.arguments(directory, base), *resume])
            return True
        return False

    def _start(self, work: Job | BenchTask, directory: Path, arguments: Sequence[str]) -> None:
        slot = min(set(range(self._workers)) - {child.slot for child in self._running.values()})
        log = self._folder / "logs" / directory.relative_to(self._folder)
        self._running[work] = Child.start(self._command, arguments, slot=slot, directory=directory, log=log)

    def _can_resume(self, job: Job, base: Base, directory: Path) -> bool:
        """Whether the run in a directory can be continued; if not, the directory is free afterwards."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not directory.exists():
            return False
        try:
            paths = stored_paths(directory)
        except OtprError as error:
            aside = set_aside(directory)
            _say(f"{job}: the run is damaged and begins anew; {error} It is kept in {aside}.")
            return False
        began = started(directory)
        failed = any(row.run == job.key(base) and row.started == began for row in self._rows)
        if failed or paths != (str(base.policy), [str(base.data)]):  # the benchmark's folder was moved
            shutil.rmtree(directory)
            return False
        return True

    def _end_the_hopeless(self) -> None:
        """End runs that hang, and runs that do not stop when they are asked to."""
        if self._stopped_at is not None:
            if time.monotonic() - self._stopped_at > self._patience.stop:
                for child in self._running.values():
                    child.kill()
            return
        for work, child in list(self._running.items()):
            if isinstance(work, Job) and child.silent > self._patience.stall:
                child.kill()
                del self._running[work]
                self._failed(work, child, f"it hung: no metrics for {self._patience.stall / 60:.0f} minutes")

    # ------------------------------------------------------------------------------------- what comes of it

    def _reap(self) -> None:
        ended = {work: child for work, child in self._running.items() if child.process.poll() is not None}
        for work, child in ended.items():
            del self._running[work]
            if isinstance(work, BenchTask):
                self._base_ended(work, child)
            else:
                self._run_ended(work, child)

    def _base_ended(self, task: BenchTask, child: Child) -> None:
        status = child.process.returncode
        base = load_base(child.directory, task.id, task.recipe) if status == 0 else None
        if base is not None:
            self._bases[task.id] = base
            _say(f"The base of {task.id} succeeds in {base.success:.0%} of {base.episodes} episodes.")
            if base.warning:
                _say(base.warning)
        elif self._stopped_at is None:
            self._base_errors[task.id] = last_words(child.errors, status)
            _say(f"The base of {task.id} was not made: {self._base_errors[task.id]}")

    def _run_ended(self, job: Job, child: Child) -> None:
        status = child.process.returncode
        if status == 0 and is_finished(child.directory):
            self._take_in(job, self._bases[job.task.id])
        elif self._stopped_at is not None or (status == 0 and job not in self._left_early):
            self._left_early.add(job)  # that somebody else stopped it is believed once
            self._waiting.append(job)
            _say(f"{job}: stopped at {progress(child.directory)[0]:,} steps.")
        else:
            self._failed(job, child, last_words(child.errors, status))

    def _failed(self, job: Job, child: Child, why: str) -> None:
        self._record(job, [failed_row(job, self._bases[job.task.id], child.directory, why)])

    def _take_in(self, job: Job, base: Base) -> None:
        """Add the rows of a completed run to the results."""
        directory = job.directory(self._folder, base)
        try:
            rows = done_rows(job, base, directory)
        except OtprError as error:
            rows = [failed_row(job, base, directory, str(error).replace(f"{self._folder}/", ""))]
        self._record(job, rows)
        # nobody will resume from them, and a whole benchmark would keep tens of gigabytes
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)

    def _is_recorded(self, job: Job, base: Base) -> bool:
        wanted = {"done"} if self._retry_failed else {"done", "failed"}
        return any(row.run == job.key(base) and row.status in wanted for row in self._rows)

    def _record(self, job: Job, rows: list[Row]) -> None:
        add_rows(self._results, rows)
        self._rows = read_results(self._results)
        first, last = rows[0], rows[-1]
        if first.success is None or last.success is None:
            words = f"FAILED after {last.env_steps:,} steps: {last.error.splitlines()[-1]}"
        else:
            words = f"{first.success:.0%} before, {last.success:.0%} after {last.env_steps:,} steps and "
            words += f"{last.wall_seconds / 60:.1f} minutes"
        running = {work: child.directory for work, child in self._running.items() if isinstance(work, Job)}
        left = dict.fromkeys(self._waiting, 0) | {job: progress(path)[0] for job, path in running.items()}
        _say(f"{job}: {words}. {forecast(Timing.of(self._rows, self._machine), left, self._workers)}")

    def _base_folder(self, task: BenchTask) -> Path:
        return self._folder / "bases" / plain_name(task.id)
