"""The processes of a queue: how they are started and ended, and the directories they leave."""

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
"""The command of a process, before the core, our process id and the arguments of `otpr`."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclasses.dataclass(frozen=True)
class Child:
    """A process that works in a directory.

    Attributes:
        process: the process.
        slot: its place among those that run side by side.
        directory: where it works.
        errors: the file of its standard error.
        started: when it was started, in seconds since the epoch.
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
            command: `COMMAND`, or what replaces it in tests.
            arguments: arguments of `otpr`.
            slot: the place of the process, which selects its core.
            directory: where it works.
            log: the file for its output, with `.out` and `.err` added; the folder is created if missing.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        log.parent.mkdir(parents=True, exist_ok=True)
        errors = log.with_name(f"{log.name}.err")
        one_thread = {
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
                env=os.environ | one_thread,
                start_new_session=True,  # Ctrl-C reaches the queue alone, which passes on one signal
            )
        return cls(process, slot, directory, errors, time.time())

    @property
    def silent(self) -> float:
        """Seconds since the process wrote metrics, or since its start."""
        file = self.directory / "metrics.jsonl"
        return time.time() - max(self.started, file.stat().st_mtime if file.exists() else 0.0)

    def kill(self) -> None:
        """End the process at once; its simulators end with it, because their pipes break."""
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
        OtprError: the run is damaged and cannot be continued.
    """
    try:
        read_json(directory / "versions.json")
        read_rows(directory)
        config = read_json(directory / "config.json")["config"]
        return config["policy"], config["data"]
    except (LookupError, TypeError) as error:
        raise DamagedFile(directory / "config.json", error) from error


def set_aside(directory: Path) -> Path:
    """Rename a directory to `NAME.damaged1` or the next free number, and return the new path."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.damaged{number}")).exists():
        number += 1
    return directory.rename(aside)
