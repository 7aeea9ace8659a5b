"""How collecting scales with workers, for a simulator that takes 20 ms a step: `python -m benchmarks.scale`.

Such a simulator costs time and no processor, so that many workers fit on a few cores, until their decisions
do not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.sizes import FULL
from benchmarks.slow_env import SECONDS, STEPS
from benchmarks.subjects import base_policy
from otpr.cluster import connected
from otpr.envs import Setup
from otpr.training.local_workers import LocalCrew
from otpr.training.ray_workers import RayCrew
from otpr.training.workers import WorkerPool

TASK = "benchmarks.slow_env:Slow"
CHUNK_LENGTH = 4


def measured(kind: str, count: int, policy: Any, rounds: int) -> dict[str, Any]:
    """Steps a second of so many workers, one environment each, and what they took of the processors."""
    arguments = (Setup(TASK), 1, CHUNK_LENGTH, 1, 60.0)
    with contextlib.ExitStack() as stack:
        if kind == "ray":
            crew: Any = RayCrew(stack.enter_context(connected("local", count)), *arguments)
        else:
            crew = LocalCrew(*arguments)
        pool = stack.enter_context(WorkerPool(TASK, crew, count, 1))
        pool.start(policy, range(count), action_seed=0).result()  # starts and compiles
        times: list[float] = []
        for number in range(1, rounds + 1):
            started = time.perf_counter()
            seeds = range(number * count, (number + 1) * count)
            pool.start(policy, seeds, action_seed=0).result()
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    return {
        "kind": kind,
        "workers": count,
        "steps_per_second": count * STEPS / seconds,
        "of_linear": STEPS * SECONDS / seconds,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results", "scale", "workers.json"))
    options = parser.parse_args()
    policy = base_policy(
        FULL, width=FULL.policy_width, depth=FULL.policy_depth, chunk_length=CHUNK_LENGTH, levels=10
    )
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for count in options.workers:
            rows.append(measured(kind, count, policy, options.rounds))
            print(json.dumps(rows[-1]), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
