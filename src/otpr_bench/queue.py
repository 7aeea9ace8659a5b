"""A list of runs, done one to a core, that survives being stopped at any instant.

The only state is in the run directories and the results file. What a queue does next follows from these,
whether the last queue completed, was stopped or was killed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr.training.stopping import StopRequest
from otpr_bench.bases import Base, load_base
from otpr_bench.jobs import Job, plain_name
from otpr_bench.plan import Plan, State, durations
from otpr_bench.records import done_rows, failed_row, is_finished, last_words, machine, progress, started
from otpr_bench.results import Row, add_rows, read_results
from otpr_bench.suites import BenchTask

T = TypeVar("T")

COMMAND = (sys.executable, "-m", "otpr_bench.child")
"""The command of a process, before the core, our process id and the arguments of `otpr`."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
_LOOK = 0.1  # seconds between two looks at a process
_say = functools.partial(print, flush=True)  # people follow the log while the queue works


class Queue:
    """The runs of one benchmark; `run` does those that are left.

    Args:
        jobs: the runs, in order.
        folder: where bases, run directories and logs go; created if missing.
        results: the Parquet file that gets the rows of each run as it ends.
        workers: runs side by side, each on a core of its own if there are as many.
        budget: seconds after which the running ones are stopped, as by a signal.
        retry_failed: whether runs that failed begin anew.
        stall: seconds after which a run that has logged nothing is ended; the longest evaluations take 600.
        grace: seconds after which a run that was asked to stop and is still going on is ended.
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
        budget: float = math.inf,
        retry_failed: bool = False,
        stall: float = 1800.0,
        grace: float = 120.0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._jobs, self._folder, self._results = list(jobs), folder.resolve(), results
        self._workers, self._budget, self._end = workers, budget, math.inf
        self._stall, self._grace, self._command, self._machine = stall, grace, command, machine()
        self._rows: list[Row] = read_results(results) if results.exists() else []
        self._to_retry = {row.run for row in self._rows if retry_failed and row.status == "failed"}
        self._tasks = {job.task.id: job.task for job in self._jobs}
        found = {name: self._load_base(task) for name, task in self._tasks.items()}
        self._bases = {name: base for name, base in found.items() if base is not None}
        self._base_errors: list[str] = []
        self._stop, self._broken = StopRequest(), False
        self._recording = threading.Lock()
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(workers):
            self._slots.put(slot)

    def failures(self) -> list[Row]:
        """The rows of those of the runs that failed."""
        keys = {job.key(base) for job in self._jobs if (base := self._bases.get(job.task.id))}
        return [row for row in self._rows if row.status == "failed" and row.run in keys]

    def finished(self) -> list[tuple[Job, Base, Path]]:
        """The runs that were completed and whose directories are there, each with its base and directory."""
        pairs = [(job, base) for job in self._jobs if (base := self._bases.get(job.task.id))]
        found = [(job, base, job.directory(self._folder, base)) for job, base in pairs]
        return [(job, base, directory) for job, base, directory in found if is_finished(directory)]

    def plan(self) -> Plan:
        """The present state of the runs. Nothing is changed."""
        states: dict[Job, State] = {}
        steps: dict[Job, int] = {}
        for job in self._jobs:
            states[job] = "to do"
            if (base := self._bases.get(job.task.id)) is None:
                continue
            directory = job.directory(self._folder, base)
            if (recorded := self._recorded(job, base)) is not None:
                states[job] = recorded
            elif is_finished(directory):
                states[job] = "done"
            elif directory.exists():
                states[job], steps[job] = "started", progress(directory)[0]
        return Plan(states, steps, self._bases, durations(self._rows, self._machine), self._workers)

    def run(self) -> bool:
        """Make the bases that are missing, do the runs that are left, and print a line as each of them ends.

        Returns:
            Whether every run is completed or failed; False if some are left for another time.

        Raises:
            OtprError: another queue works in the folder, a base cannot be made, or results cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.take(self._folder)
        self._end = time.monotonic() + self._budget
        try:
            with self._stop:
                tasks = [task for name, task in self._tasks.items() if name not in self._bases]
                self._side_by_side(self._make_base, tasks)
                self._side_by_side(self._do, [job for job in self._jobs if job.task.id in self._bases])
        finally:
            lock.release()
        if self._base_errors:
            raise OtprError("\n".join(self._base_errors))
        return not self.plan().left

    def _side_by_side(self, do: Callable[[T], None], items: Iterable[T]) -> None:
        """Call `do` for each item in order, as many at a time as there are workers."""
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for future in as_completed([pool.submit(do, item) for item in items]):
                    future.result()
            except BaseException:
                self._broken = True  # the others save and stop as well
                raise

    def _make_base(self, task: BenchTask) -> None:
        if self._is_over():
            return
        recipe, folder = json.dumps(dataclasses.asdict(task.recipe)), self._base_folder(task)
        _say(f"Making the base of {task.id}: {recipe}")
        if why := self._process(["base", str(folder), task.id, recipe], folder, stall=math.inf):
            self._base_errors.append(f"The base of {task.id} was not made: {why}")
            _say(self._base_errors[-1])
        elif (base := self._load_base(task)) is None:
            _say(f"The base of {task.id}: stopped before it was complete.")
        else:
            self._bases[task.id] = base
            _say(f"The base of {task.id} succeeds in {base.success:.0%} of {base.episodes} episodes.")
            if base.warning:
                _say(base.warning)

    def _do(self, job: Job) -> None:
        """Start or continue a run, and record what comes of it; nothing if that is recorded already."""
        base = self._bases[job.task.id]
        directory = job.directory(self._folder, base)
        if self._recorded(job, base) in ("done", "failed"):
            return
        while _is_busy(directory) and not self._is_over():
            time.sleep(_LOOK)  # a queue was killed, and its run is about to save
        if self._is_over():
            return
        key, began = job.key(base), started(directory)
        if key in self._to_retry and began in (None, *(row.started for row in self._rows if row.run == key)):
            shutil.rmtree(directory, ignore_errors=True)  # otherwise it is a retry that was stopped
        if not is_finished(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            resume = ["--resume"] if directory.exists() else []
            arguments = [*job.arguments(directory, base), *resume]
            if why := self._process(arguments, directory, stall=self._stall):
                self._record(job, base, [failed_row(job, base, directory, why)])
                return
        if not is_finished(directory):
            _say(f"{job}: stopped at {progress(directory)[0]:,} steps.")
            return
        try:
            rows = done_rows(job, base, directory)
        except OtprError as error:
            rows = [failed_row(job, base, directory, str(error).replace(f"{self._folder}/", ""))]
        self._record(job, base, rows)
        # nobody will resume from them, and a whole benchmark would keep tens of gigabytes
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)

    def _process(self, arguments: Sequence[str], directory: Path, stall: float) -> str:
        """Let `otpr` work in a directory until it ends, is silent for `stall` seconds, or the queue stops.

        Returns:
            Why it failed; empty if it ended well or was stopped.
        """
        log = self._folder / "logs" / directory.relative_to(self._folder)
        out, errors = log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
        metrics, slot = directory / "metrics.jsonl", self._slots.get()
        process = self._start(arguments, slot, out, errors)
        began, asked, hangs = time.time(), math.inf, False
        while process.poll() is None:
            time.sleep(_LOOK)
            if self._is_over() and math.isinf(asked):
                process.terminate()
                asked = time.time()
            silent = time.time() - max(began, metrics.stat().st_mtime if metrics.exists() else 0.0)
            hangs = silent > stall and math.isinf(asked)
            if hangs or time.time() - asked > self._grace:
                process.kill()  # its simulators end with it, because their pipes break
                process.wait()
        self._slots.put(slot)
        if process.returncode == 0 or not math.isinf(asked):
            return ""
        hung = f"it hung: no metrics for {stall / 60:.0f} minutes"
        return hung if hangs else last_words(errors, process.returncode)

    def _start(self, arguments: Sequence[str], slot: int, out: Path, errors: Path) -> subprocess.Popen[bytes]:
        """Start a process on the core of a slot, with its output in files."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        one_thread = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip(),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "ab") as stdout, open(errors, "wb") as stderr:
            return subprocess.Popen(
                [*self._command, str(cores[slot % len(cores)]), str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | one_thread,
                start_new_session=True,  # Ctrl-C reaches the queue alone, which passes on one signal
            )

    def _is_over(self) -> bool:
        """Whether to stop: because of a signal, the end of the budget, or an error in another thread."""
        return self._stop.requested or self._broken or time.monotonic() >= self._end

    def _recorded(self, job: Job, base: Base) -> State | None:
        """What the results say of a run, which is "to do" if it failed and begins anew; None if nothing."""
        key = job.key(base)
        return (
            "to do" if key in self._to_retry else next((r.status for r in self._rows if r.run == key), None)
        )

    def _record(self, job: Job, base: Base, rows: list[Row]) -> None:
        first, last = rows[0], rows[-1]
        if first.success is None or last.success is None:
            words = f"FAILED after {last.env_steps:,} steps: {last.error.splitlines()[-1]}"
        else:
            words = f"{first.success:.0%} before, {last.success:.0%} after {last.env_steps:,} steps and "
            words += f"{last.wall_seconds / 60:.1f} minutes"
        with self._recording:
            add_rows(self._results, rows)
            self._rows = read_results(self._results)
            self._to_retry.discard(job.key(base))
            _say(f"{job}: {words}. {self.plan().forecast()}")

    def _base_folder(self, task: BenchTask) -> Path:
        return self._folder / "bases" / plain_name(task.id)

    def _load_base(self, task: BenchTask) -> Base | None:
        return load_base(self._base_folder(task), task.id, task.recipe)


def _is_busy(directory: Path) -> bool:
    """Whether a process works in a run directory."""
    if not (directory / "lock").exists():
        return False
    try:
        RunLock.take(directory).release()
    except OtprError:
        return True
    return False
