"""The processes of a queue: how they are started, and the directories they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.training.lock import RunLock
from otpr.training.run_directory import read_rows
from otpr_bench.bases import Base

COMMAND = (sys.executable, "-m", "otpr_bench.child")
"""The command of a process, before the core, our process id and the arguments of `otpr`."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def start(
    command: Sequence[str], arguments: Sequence[str], *, slot: int, out: Path, errors: Path
) -> subprocess.Popen[bytes]:
    """Start a process on one core.

    Args:
        command: `COMMAND`, or what replaces it in tests.
        arguments: arguments of `otpr`.
        slot: the place of the process among those that run side by side, which selects its core.
        out: the file that its output is appended to; the folder is created if missing.
        errors: the file of its standard error.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    one_thread = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "ab") as stdout, open(errors, "wb") as stderr:
        return subprocess.Popen(
            [*command, str(cores[slot % len(cores)]), str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | one_thread,
            start_new_session=True,  # Ctrl-C reaches the queue alone, which passes on one signal
        )


def is_busy(directory: Path) -> bool:
    """Whether a process works in a run directory."""
    if not (directory / "lock").exists():
        return False
    try:
        RunLock.take(directory).release()
    except OtprError:
        return True
    return False


def check_continuable(directory: Path, base: Base) -> None:
    """Refuse a run directory whose run cannot be continued.

    Raises:
        OtprError: it is damaged, or its run started from another place than the one where the base is now.
    """
    try:
        read_json(directory / "versions.json")
        read_rows(directory)
        config = read_json(directory / "config.json")["config"]
        paths = config["policy"], config["data"]
    except (LookupError, TypeError) as error:
        raise DamagedFile(directory / "config.json", error) from error
    if paths != (str(base.policy), [str(base.data)]):
        raise OtprError(f"It started from {paths[0]}, and its base is now in {base.policy}.")


def set_aside(directory: Path) -> Path:
    """Rename a directory to `NAME.damaged1` or the next free number, and return the new path."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.damaged{number}")).exists():
        number += 1
    return directory.rename(aside)
