"""Many runs, one a core, from a list that survives being stopped at any instant.

Nothing is kept but run directories and the results file. What a queue does next follows from these, so it
makes no difference whether the last one came to its end, was stopped or was killed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr.training.stopping import StopRequest
from otpr_bench.bases import Base, load_base
from otpr_bench.jobs import Job, plain_name
from otpr_bench.plan import Plan, Timing, forecast
from otpr_bench.processes import COMMAND, Child, is_busy, set_aside, stored_paths
from otpr_bench.records import done_rows, failed_row, is_finished, last_words, machine, progress, started
from otpr_bench.results import Row, add_rows, read_results
from otpr_bench.suites import BenchTask

_say = functools.partial(print, flush=True)  # a log is looked at while the queue goes on


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a queue waits, in seconds."""

    # a run that has logged nothing for so long hangs, and is ended; the longest evaluations take ten minutes
    stall: float = 1800.0
    # a run that was asked to stop and has not ended after so long is ended
    stop: float = 120.0
    # between two looks at the runs
    look: float = 0.2


class Queue:
    """The runs of one benchmark; `run` does what is left of them.

    Args:
        jobs: the runs, in their order.
        folder: where bases, run directories and logs go; made if missing.
        results: the Parquet file, to which the rows of each run are added as it ends.
        version: the version of the code for an algorithm and a task, looked up before each run: where sources
            were changed meanwhile, nothing more is started.
        workers: runs side by side, each on a core of its own where there are so many.
        budget: seconds after which running ones are stopped, as by a signal; None: no limit.
        retry_failed: begin runs anew that failed.
        patience: how long it waits.
        command: what runs in place of `COMMAND`, in tests.

    Raises:
        OtprError: a base is not as it was made or of another recipe, or the results cannot be read.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        folder: Path,
        results: Path,
        version: Callable[[str, str], str],
        workers: int = 1,
        budget: float | None = None,
        retry_failed: bool = False,
        patience: Patience | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._jobs, self._folder, self._results = list(jobs), folder.resolve(), results
        self._version, self._workers, self._budget = version, workers, budget
        self._retry_failed, self._patience, self._command = retry_failed, patience or Patience(), command
        self._machine = machine()
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
        self._stopped_at: float | None = None  # when runs were asked to stop
        self._changed = False  # the sources were

    def failures(self) -> list[Row]:
        """Those of the runs that are recorded as failed."""
        keys = {job.key(base) for job in self._jobs if (base := self._bases.get(job.task.id))}
        return [row for row in self._rows if row.status == "failed" and row.run in keys]

    def plan(self) -> Plan:
        """Where the runs stand now."""
        return Plan.of(
            self._jobs,
            self._rows,
            folder=self._folder,
            bases=self._bases,
            machine=self._machine,
            workers=self._workers,
            retry_failed=self._retry_failed,
        )

    def run(self) -> bool:
        """Do what is left; a line is printed for each run that ends.

        Returns:
            Whether all runs are done or have failed; False where some are left for another time.

        Raises:
            OtprError: another queue works in the folder, a base cannot be made, or results cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.take(self._folder)
        try:
            for job in self._jobs:
                self._take_in_unseen(job)
            self._waiting = self.plan().left
            tasks = {job.task.id: job.task for job in self._waiting}
            self._to_make = [task for name, task in tasks.items() if name not in self._bases]
            with StopRequest() as stop:
                self._loop(stop)
        finally:
            for child in self._running.values():  # there are some only where something failed here
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
                    _say("The budget of time is used up: the runs that are going on save and stop.")
                for child in self._running.values():
                    child.process.terminate()
            self._end_the_hopeless()
            if self._stopped_at is None:
                while len(self._running) < self._workers and self._start_one():
                    pass
            if not self._running and (self._stopped_at is not None or not self._startable()):
                return
            time.sleep(self._patience.look)

    def _startable(self) -> bool:
        """Whether there is something to start, now or once another process has let go of it."""
        ready = any(job.task.id in self._bases for job in self._waiting)
        return not self._changed and (bool(self._to_make) or ready)

    def _start_one(self) -> bool:
        """Start the next base or run; False where none can be started now."""
        if self._changed:
            return False
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
                continue  # busy: with a run of a queue that was killed, and that is about to save
            if self._version(job.method.algorithm, job.task.id) != job.code_version:
                self._changed = True
                _say("The sources were changed since the queue began: nothing more is started.")
                return False
            self._waiting.remove(job)
            if self._is_recorded(job, base):  # the base had to be made again, and came out the same
                continue
            if is_finished(directory):  # meanwhile
                self._take_in(job, base)
                continue
            resume = self._make_way(job, base, directory)
            arguments = job.arguments(directory, base)
            self._start(job, directory, [*arguments, "--resume"] if resume else arguments)
            return True
        return False

    def _start(self, work: Job | BenchTask, directory: Path, arguments: Sequence[str]) -> None:
        slot = min(set(range(self._workers)) - {child.slot for child in self._running.values()})
        log = self._folder / "logs" / directory.relative_to(self._folder)
        self._running[work] = Child.start(self._command, arguments, slot=slot, directory=directory, log=log)

    def _make_way(self, job: Job, base: Base, directory: Path) -> bool:
        """Make a run's directory free for a start, or find that the run in it can go on: True."""
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            return False
        began = started(directory)
        if any(row.run == job.key(base) and row.started == began for row in self._rows):  # this one failed
            shutil.rmtree(directory)
            return False
        try:
            paths = stored_paths(directory)
        except OtprError as error:
            aside = set_aside(directory)
            _say(f"{job}: what the run left is damaged, so it begins anew; {error} It is kept in {aside}.")
            return False
        if paths != (str(base.policy), [str(base.data)]):  # the benchmark's folder was moved
            shutil.rmtree(directory)
            return False
        return True

    def _end_the_hopeless(self) -> None:
        """End runs that hang, and those that do not stop when they are asked to."""
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
            self._left_early.add(job)  # that somebody else stops it is believed once
            self._waiting.append(job)
            _say(f"{job}: stopped at {progress(child.directory)[0]:,} steps.")
        else:
            self._failed(job, child, last_words(child.errors, status))

    def _failed(self, job: Job, child: Child, why: str) -> None:
        self._record(job, [failed_row(job, self._bases[job.task.id], child.directory, why)])

    def _take_in_unseen(self, job: Job) -> None:
        """Add the rows of a run that came to its end when no queue was there to see it."""
        base = self._bases.get(job.task.id)
        if base is None or self._is_recorded(job, base):
            return
        if is_finished(job.directory(self._folder, base)):
            self._take_in(job, base)

    def _take_in(self, job: Job, base: Base) -> None:
        directory = job.directory(self._folder, base)
        try:
            rows = done_rows(job, base, directory)
        except OtprError as error:
            rows = [failed_row(job, base, directory, str(error).replace(f"{self._folder}/", ""))]
        self._record(job, rows)
        # nothing to go on with any more, and of a whole benchmark tens of gigabytes
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
        left = dict.fromkeys(self._waiting, 0)
        for work, child in self._running.items():
            if isinstance(work, Job):
                left[work] = progress(child.directory)[0]
        _say(f"{job}: {words}. {forecast(Timing.of(self._rows, self._machine), left, self._workers)}")

    def _base_folder(self, task: BenchTask) -> Path:
        return self._folder / "bases" / plain_name(task.id)
