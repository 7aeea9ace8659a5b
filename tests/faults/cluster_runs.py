"""What runs on a cluster while its machines are killed: a benchmark of fake runs, and a fine-tuning run."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otpr_bench import snapshots
from tests.faults.faulty_envs import Point

snapshots.EVERY = 0.2  # a fake run takes seconds, with a checkpoint in each

STEP = 0.05
WORKERS, EACH = 3, 2
ROUND = WORKERS * EACH


class Slow(Point):
    """An environment in the midst of whose episodes a machine can be killed."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(STEP)
        return super().step(action)


def carry_out(calls: str, behaviour: dict[str, Any], arguments: Sequence[str]) -> int:
    import fake_finetune

    return fake_finetune.carry_out(calls, behaviour, arguments)


def bench(folder: str, address: str, seeds: int, storage: str | None) -> None:
    """One sitting of a benchmark whose runs take five seconds each."""
    from test_queue import Bench

    from otpr.cluster import connected

    made = Bench(Path(folder), {str(seed): "slow" for seed in range(seeds)})
    command = functools.partial(carry_out, str(made.folder / "calls"), dict(made.behaviour))
    with connected(address) as ray:
        complete = made.run(seeds=f"0..{seeds - 1}", on=ray, cpus=1.0, command=command, storage=storage)
    print("complete" if complete else "left", flush=True)


def finetune(folder: str, address: str, rounds: int) -> None:
    """One sitting of a run whose episodes run on the cluster."""
    from otpr.cluster import connected
    from otpr.envs import Setup
    from otpr.training.ray_workers import RayCrew
    from otpr.training.workers import WorkerPool
    from tests.faults import small

    task, path = "tests.faults.cluster_runs:Slow", Path(folder)
    steps = rounds * ROUND * Slow.max_episode_steps
    loop = {"env_steps": steps, "num_envs": ROUND, "warmup_steps": steps - 1, "checkpoint_every": 1}
    with (
        connected(address) as ray,
        WorkerPool(task, RayCrew(ray, Setup(task), EACH, small.CHUNK, 1, 60.0), WORKERS, EACH) as pool,
    ):
        small.fine_tune(path, pool, resume=path.exists(), **loop)
    print("complete", flush=True)
