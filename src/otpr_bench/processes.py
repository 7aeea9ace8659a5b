"""Processes of a queue: where each goes, how it is started and ended, and what its directory must be like."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.training.lock import RunLock
from otpr.training.run_directory import read_rows

COMMAND = (sys.executable, "-m", "otpr_bench.child")
"""What is run in a process, before the core, our process id and the arguments of `otpr`."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclasses.dataclass(frozen=True)
class Child:
    """A process that works in a directory.

    Attributes:
        process: it.
        slot: its place among those that run side by side.
        directory: where it works.
        errors: the file of its standard error.
        started: time of the start, in seconds since the epoch.
    """

    process: subprocess.Popen[bytes]
    slot: int
    directory: Path
    errors: Path
    started: float

    @classmethod
    def start(
        cls, command: Sequence[str], arguments: Sequence[str], *, slot: int, directory: Path, log: Path
    ) -> Child:
        """Start a process on one core.

        Args:
            command: `COMMAND`, or what takes its place.
            arguments: of `otpr`.
            slot: its place; it gets the core of that number, counted round.
            directory: where it works.
            log: the file for its output, with `.out` and `.err` added; the folder is made if missing.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        log.parent.mkdir(parents=True, exist_ok=True)
        errors = log.with_name(f"{log.name}.err")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip(),
        }
        with open(log.with_name(f"{log.name}.out"), "ab") as out, open(errors, "wb") as err:
            process = subprocess.Popen(
                [*command, str(cores[slot % len(cores)]), str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the queue, which passes on one signal, not two
            )
        return cls(process, slot, directory, errors, time.time())

    @property
    def silent(self) -> float:
        """Seconds since its last row of metrics, or its start."""
        file = self.directory / "metrics.jsonl"
        return time.time() - max(self.started, file.stat().st_mtime if file.exists() else 0.0)

    def kill(self) -> None:
        """End it at once; its simulators go with it, since their pipes break."""
        self.process.kill()
        self.process.wait()


def is_busy(directory: Path) -> bool:
    """Whether a process works in a run directory."""
    if not (directory / "lock").exists():
        return False
    try:
        RunLock.take(directory).release()
    except OtprError:
        return True
    return False


def stored_paths(directory: Path) -> tuple[str, list[str]]:
    """The policy and the data that the run in a directory started from.

    Raises:
        OtprError: it is no run that can be gone on with.
    """
    try:
        read_json(directory / "versions.json")
        read_rows(directory)
        config = read_json(directory / "config.json")["config"]
        return config["policy"], config["data"]
    except (LookupError, TypeError) as error:
        raise DamagedFile(directory / "config.json", error) from error


def set_aside(directory: Path) -> Path:
    """Give a directory another name, which is returned."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.damaged{number}")).exists():
        number += 1
    return directory.rename(aside)
