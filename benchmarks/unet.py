"""A training step of the 1-D U-Net, ours over PyTorch's, one thread each, in turns.

PyTorch and LeRobot are in the environment that `make interop` makes; without it there is nothing to compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.timing import medians, ratio

HERE = Path(__file__).resolve().parent
PYTHON = Path(os.environ.get("OTPR_INTEROP", HERE.parent / ".venv-interop")) / "bin" / "python"
THEIRS = HERE.parent / "tests" / "interop" / "torch_step.py"
STATE_DIM = 78
"""Two observations of Meta-World."""


class _Side:
    """A process that takes a training step when it is asked to, on one core."""

    def __init__(self, command: list[str], core: int, environment: dict[str, str]):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=HERE.parent,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def step(self) -> float:
        """The seconds that it took."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def unet(sizes: Sizes) -> list[Row]:
    """One row; none where LeRobot is not installed."""
    if not PYTHON.is_file() or not hasattr(os, "sched_setaffinity"):
        print(f"unet_vs_torch is left out: {PYTHON} is not there. `make interop` makes it.", file=sys.stderr)
        return []
    network = {
        "plan": sizes.plan,
        "batch": sizes.unet_batch,
        "state_dim": STATE_DIM,
        "down_dims": sizes.unet_dims,
        "kernel_size": 5,
    }
    core, given = max(os.sched_getaffinity(0)), json.dumps(network)
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    sides = {
        "ours": _Side([sys.executable, "-m", "benchmarks.unet_step", given], core, dict(os.environ)),
        "torch": _Side([str(PYTHON), str(THEIRS), given], core, alone),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(sizes.unet_turns + 2):  # the first two compile and warm up
        for name, side in sides.items():
            seconds = side.step()
            if turn >= 2:
                times[name].append(seconds)
    for side in sides.values():
        side.end()
    return [
        Row(
            "unet_vs_torch",
            ratio(times["ours"], times["torch"]),
            "x",
            "a training step of our U-Net / of LeRobot's in PyTorch, one thread each",
            medians(times),
            at_most=1.3,
            note=f"down_dims {', '.join(map(str, sizes.unet_dims))}, {sizes.unet_batch} plans of "
            f"{sizes.plan[0]} x {sizes.plan[1]}; ours takes {medians(times)['ours']:.2f} s",
        )
    ]
