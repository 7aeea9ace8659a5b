"""How collecting scales with workers, for a simulator that takes 20 ms a step: `python -m benchmarks.scale`.

Such a simulator costs time and no processor, so that many workers fit on a few cores, until their decisions
do not. Each number of workers is measured collecting alone, with a learner that takes its gradient steps
after each round (sync), and with one that takes them while the next round is collected (async).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks.machine import describe
from benchmarks.sizes import FULL
from benchmarks.slow_env import SECONDS, STEPS
from benchmarks.subjects import base_policy, default_agent, experience
from otpr.cluster import connected
from otpr.envs import Setup
from otpr.envs.chunked import available_cores
from otpr.policies.packed import pack
from otpr.training.learning import take_block
from otpr.training.local_workers import LocalCrew
from otpr.training.ray_workers import RayCrew
from otpr.training.rollout import Rollout
from otpr.training.workers import WorkerPool

TASK = "benchmarks.slow_env:Slow"
CHUNK_LENGTH = 4
UPDATE_RATIO = 0.05
"""Gradient steps for each environment step; the default, ten times as many, would leave one core no time."""

Mode = Literal["collecting", "sync", "async"]
Learn = Callable[[int], Any]
"""Takes so many gradient steps."""


def learner() -> Learn:
    """One at the default settings, with a replay of 10,000 transitions."""
    agent, data = default_agent(FULL, CHUNK_LENGTH, levels=10), experience(FULL, 10_000, CHUNK_LENGTH)
    return lambda updates: take_block(agent, data, updates, update_policy=True)


def measured(
    kind: str, count: int, policy: Any, learn: Learn, modes: list[Mode], rounds: int
) -> list[dict[str, Any]]:
    """A row for each mode, of so many workers with one environment each."""
    arguments = (Setup(TASK), 1, CHUNK_LENGTH, 1, 60.0)
    free, started = _available_memory(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        if kind == "ray":
            crew: Any = RayCrew(stack.enter_context(connected("local", count)), *arguments)
        else:
            crew = LocalCrew(*arguments)
        pool = stack.enter_context(WorkerPool(TASK, crew, count, 1))
        first = pool.start(policy, range(count), action_seed=0).result()  # starts and compiles
        about = {
            "kind": kind,
            "workers": count,
            "start_seconds": time.perf_counter() - started,
            "memory_of_a_worker_mb": (free - _available_memory()) / count / 2**20,
            "policy_kb": sum(array.nbytes for array in pack(policy).arrays.values()) / 1000,
            "episode_kb": len(pickle.dumps(first)) / count / 1000,
        }
        updates = round(UPDATE_RATIO * count * STEPS)
        learn(updates)  # compiles
        return [about | _of_rounds(pool, count, policy, mode, learn, updates, rounds) for mode in modes]


def _of_rounds(
    pool: WorkerPool, count: int, policy: Any, mode: Mode, learn: Learn, updates: int, rounds: int
) -> dict[str, Any]:
    """Times of rounds of one episode a worker, with so many gradient steps for each."""
    times: list[float] = []
    learning, own = 0.0, time.process_time()
    busy, begun = _busy_seconds(), time.perf_counter()

    def ask(number: int) -> Any:
        return pool.start(policy, range(number * count, (number + 1) * count), action_seed=0)

    pending = ask(1)
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        rollout: Rollout = pending.result()
        assert len(rollout.episodes) == count
        if mode == "async":
            pending = ask(number + 1)
        if mode != "collecting":
            before = time.perf_counter()
            learn(updates)
            learning += time.perf_counter() - before
        if mode != "async" and number < rounds:
            pending = ask(number + 1)
        times.append(time.perf_counter() - started)
    spent = time.perf_counter() - begun
    row = {
        "mode": mode,
        "steps_per_second": count * STEPS / statistics.median(times),
        "of_linear": STEPS * SECONDS / statistics.median(times),
        "learning_share": learning / spent,
        "own_processor_share": (time.process_time() - own) / spent,
        "processors_busy": (_busy_seconds() - busy) / spent / available_cores(),
        "seconds": times,
    }
    if mode == "async":
        pending.result()
    return row


def _busy_seconds() -> float:
    """Of the cores that this process may use, since the machine started."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *fields = line.split()
        if name in cores:
            user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


def _available_memory() -> int:
    """Bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("collecting", "sync", "async"),
        default=["collecting", "sync", "async"],
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results", "scale", "workers.json"))
    options = parser.parse_args()
    policy = base_policy(
        FULL, width=FULL.policy_width, depth=FULL.policy_depth, chunk_length=CHUNK_LENGTH, levels=10
    )
    learn = learner()
    machine = f"{describe()}; {available_cores()} of its cores were used"
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for count in options.workers:
            found = measured(kind, count, policy, learn, options.modes, options.rounds)
            rows += found
            for row in found:
                print(
                    json.dumps({name: value for name, value in row.items() if name != "seconds"}), flush=True
                )
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
