"""Runs of `otpr finetune` in processes of their own, for benchmarks that no suite covers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from otpr_bench.records import is_finished


def run_to_end(arguments: Sequence[str], directory: Path) -> None:
    """Make a run, or go on with it, unless it is finished. What it prints goes into a file beside it.

    Args:
        arguments: those of the command `otpr`, without `--resume`.
        directory: the run directory that they name.
    """
    if is_finished(directory):
        return
    more = ["--resume"] if directory.exists() else []
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f"{directory.name}.log"), "a") as log:
        command = [Path(sys.executable).with_name("otpr"), *arguments, *more]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
