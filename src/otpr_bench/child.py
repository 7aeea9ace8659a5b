"""One run of a benchmark in a process of its own: `python -m otpr_bench.child CORE PARENT COMMAND...`.

The process takes one core and a low priority. When the queue that started it (the process PARENT) dies, even
if it was killed, the run is asked to stop; it saves, and the next queue continues it. COMMAND is one of
`otpr`, or `base FOLDER TASK RECIPE` (a recipe as JSON), which makes a base policy.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # the option of Linux's prctl(2) for the signal that the death of the parent sends


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    core, parent, *command = arguments
    if sys.platform == "linux":
        os.sched_setaffinity(0, {int(core)})
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # the parent died before
            return 1
    os.nice(10)
    if command[0] == "base":
        return _make_base(*command[1:])
    from otpr.cli import main as cli

    return cli.main(command)


def _make_base(folder: str, task: str, recipe: str) -> int:
    from otpr.errors import OtprError
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.stopping import Stopped
    from otpr_bench.bases import make_base
    from otpr_bench.suites import Recipe

    use_compilation_cache()
    try:
        make_base(Path(folder), task, Recipe(**json.loads(recipe)))
    except OtprError as error:
        print(f"otpr: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"otpr: {stopped}.")
    return 0


if __name__ == "__main__":
    from otpr.training.stopping import exit_process

    exit_process(main(sys.argv[1:]))
