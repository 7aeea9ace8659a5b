"""The work on a machine that Ray chose: making a base policy, or starting or continuing a run.

A run executes in the process of the Ray task. If the task is killed, so is the run, and the next attempt
continues from its last checkpoint. If the task is stopped, the run stops as at a signal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr_bench.bases import Base, load_base
from otpr_bench.jobs import Job
from otpr_bench.records import done_rows, failed_row, is_finished, last_words, progress, started
from otpr_bench.result_versions import result_version
from otpr_bench.results import Row
from otpr_bench.snapshots import Place
from otpr_bench.suites import BenchTask, Recipe

LET_GO = 60.0
"""Seconds that another process, e.g. a killed one, may take to release a run."""

_INTERRUPTED = 130
"""Exit status of a command that was stopped before it started."""

Command = Callable[[Sequence[str]], int]
"""Executes arguments of `otpr`, or `base FOLDER TASK RECIPE`, and returns an exit status."""


class Outcome(NamedTuple):
    """The result of a run or of making a base: a run's rows, or the reason why there are none."""

    rows: Sequence[Row] = ()
    left: str = ""  # why it was postponed
    failed: str = ""  # why no base was made


def found_base(task: BenchTask, place: Place) -> Base | None:
    """The base of a task, fetched if it is not on this machine; None if there is no complete one.

    Raises:
        OtprError: see `load_base`.
    """
    folder = place.base(task.id)
    if not (folder / "base.json").exists():
        place.fetch(folder)
    return load_base(folder, task.id, task.recipe)


def make_base(task: BenchTask, place: Place, command: Command) -> Outcome:
    """Make the base policy of a task."""
    folder = place.base(task.id)
    if found_base(task, place) is None:
        recipe = json.dumps(dataclasses.asdict(task.recipe))
        why = _carried_out(["base", str(folder), task.id, recipe], folder, place, command)
        if why or not (folder / "base.json").exists():
            return Outcome(failed=why, left="stopped before it was complete")
    place.keep(folder)
    return Outcome()


def carry_out(job: Job, failed_starts: Sequence[str], place: Place, command: Command) -> Outcome:
    """Start or continue a run.

    Args:
        job: the run.
        failed_starts: start times of failed attempts; the run then starts again from the beginning.
        place: the location of its files.
        command: executes `otpr`.

    Raises:
        OtprError: this machine has another version of otpr, or the base is missing.
    """
    here = result_version(job.variant.algorithm, job.task.id)
    if here != job.result_version:
        raise OtprError(
            f"This machine's otpr has result version {here} of {job.variant.algorithm} on {job.task.id}, the "
            f"benchmark {job.result_version}. Install the same version on every machine."
        )
    if (base := found_base(job.task, place)) is None:
        raise OtprError(
            f"{place.base(job.task.id)} is not there. Have all machines share --out, or give --storage."
        )
    directory = job.directory(place.folder, base)
    if not _is_let_go(directory):
        return Outcome(left="another process works in its directory")
    place.fetch(directory)
    if failed_starts and directory.exists() and started(directory) in (None, *failed_starts):
        shutil.rmtree(directory)  # otherwise it is a stopped retry
    why = ""
    if not is_finished(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        arguments = [*job.arguments(directory, base)]
        # set in both cases: a run must not use more than its share of the machine's cores
        many = place.workers > 1
        arguments += ["--num-workers", str(place.workers)] if many else ["--rollout", "lockstep"]
        arguments += ["--resume"] if directory.exists() else []
        why = _carried_out(arguments, directory, place, command)
    if why:
        outcome = Outcome([failed_row(job, base, directory, why)])
    elif not is_finished(directory):
        outcome = Outcome(left=f"stopped at {progress(directory)[0]:,} steps")
    else:
        try:
            outcome = Outcome(done_rows(job, base, directory))
        except OtprError as error:
            why = str(error).replace(f"{place.folder}/", "")
            outcome = Outcome([failed_row(job, base, directory, why)])
        # they are not needed any more, and those of a whole benchmark take tens of gigabytes
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    place.keep(directory)
    return outcome


def _is_let_go(directory: Path) -> bool:
    """Whether a run directory is unused, now or after a wait."""
    until = time.monotonic() + LET_GO
    while (directory / "lock").exists():
        try:
            RunLock.take(directory).release()
            return True
        except OtprError:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
    return True


def _carried_out(arguments: list[str], directory: Path, place: Place, command: Command) -> str:
    """Run `otpr` in a directory; returns the reason of a failure, empty for success or a stop."""
    log = place.folder / "logs" / directory.relative_to(place.folder)
    out, errors = log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _written_to(out, errors):
        try:
            with place.keeping(directory):
                status = command(arguments)
        except Exception:  # noqa: BLE001 - one failed run never stops the others
            traceback.print_exc()
            status = 1
    return "" if status in (0, _INTERRUPTED) else last_words(errors, status)


@contextlib.contextmanager
def _written_to(out: Path, errors: Path) -> Generator[None]:
    """A context that redirects all output of this process, including native code: `out` is appended to."""
    before = os.dup(1), os.dup(2)
    try:
        with (
            open(out, "a", buffering=1) as stdout,
            open(errors, "w", buffering=1) as stderr,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            yield
    finally:
        for descriptor, standard in zip(before, (1, 2), strict=True):
            os.dup2(descriptor, standard)
            os.close(descriptor)


def otpr_command(arguments: Sequence[str]) -> int:
    """Execute `otpr ...`, or `base FOLDER TASK RECIPE` (a recipe as JSON), which makes a base policy."""
    if arguments[0] != "base":
        from otpr.cli import main as cli

        return cli.main(list(arguments))
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.stopping import Stopped
    from otpr_bench.bases import make_base as make

    _, folder, task, recipe = arguments
    use_compilation_cache()
    try:
        make(Path(folder), task, Recipe(**json.loads(recipe)))
    except OtprError as error:
        print(f"otpr: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"otpr: {stopped}.")
    return 0
