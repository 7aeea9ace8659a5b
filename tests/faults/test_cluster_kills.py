"""Machines of a cluster and the process that uses it, killed at random moments: nothing is lost."""

from __future__ import annotations

import collections
import dataclasses
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.data.experience_files import read_experience
from otpr.envs import Setup
from otpr.training.local_workers import LocalCrew
from otpr.training.run_directory import read_rows
from otpr.training.workers import WorkerPool
from otpr_bench.results import read_results
from tests.faults import small
from tests.faults.cluster_runs import EACH, ROUND, WORKERS
from tests.faults.ray_machines import ROOT, Machines, environment

MACHINES = 3
KILLS = [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.faults)]
PATIENCE = 300.0


@dataclasses.dataclass
class Sittings:
    """The sittings of something on a cluster, one after the other; `call` is what each does."""

    call: str
    machines: Machines
    progress: Callable[[], int]
    process: Any = None

    def start(self) -> None:
        code = f"from tests.faults import cluster_runs; cluster_runs.{self.call}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
        )

    def until(self, steps: int) -> bool:
        """Wait until it has come so far; whether it still goes on then."""
        until = time.monotonic() + PATIENCE
        while self.progress() < steps:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < until, f"no progress beyond {self.progress()}"
            time.sleep(0.02)
        return self.process.poll() is None

    def killed(self, kills: int, every: int, seed: int = 0) -> collections.Counter[str]:
        """Kill a machine or the process itself so many times, each after some progress, and come to the end.

        Returns:
            how many were killed, by what.
        """
        generator, killed = random.Random(seed), collections.Counter[str]()
        self.start()
        try:
            while killed.total() < kills:
                assert self.until(self.progress() + every), "it ended before enough was killed"
                time.sleep(generator.uniform(0, 0.5))
                if killed.total() % 4 == 1:
                    self.process.kill()
                    self.process.communicate()
                    self.start()
                    killed["process"] += 1
                else:
                    self.machines.kill(generator.randrange(MACHINES))
                    killed["machine"] += 1
            output, _ = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        assert (self.process.returncode, output.splitlines()[-1]) == (0, "complete"), output
        print(f"killed: {dict(killed)}")
        return killed


# ------------------------------------------------------------------------------------------------ benchmarks


@pytest.mark.parametrize("stored", [False, True], ids=["shared-folder", "storage"])
@pytest.mark.parametrize("kills", KILLS)
def test_runs_of_a_benchmark_outlive_machines_and_the_command(kills: int, stored: bool, tmp_path: Path):
    folder, seeds = tmp_path / "bench", 4 + 2 * kills
    folder.mkdir()
    storage = (tmp_path / "storage").as_uri() if stored else None

    def progress() -> int:
        """Checkpoints of all runs that were ever seen; those of completed runs are deleted."""
        seen.update(
            (run.parent.parent.name, run.name)
            for run in (folder / "bench" / "runs").glob("*/*/*/checkpoints/*")
        )
        return len(seen)

    seen: set[tuple[str, str]] = set()
    with Machines(MACHINES) as machines:
        call = f"bench({str(folder)!r}, {machines.address!r}, {seeds}, {storage!r})"
        Sittings(call, machines, progress).killed(kills, every=3)
    rows = read_results(folder / "kept" / "results.parquet")
    by_seed = {seed: [row for row in rows if row.seed == seed] for seed in range(seeds)}
    for found in by_seed.values():
        assert [row.eval_at for row in found] == [0, 200, 400, 600, 800, 1000]
        assert {row.status for row in found} == {"done"}
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    assert [call for call in calls if "--resume" in call]
    # a run that is begun where its directory is would have failed: each went on, and took each step once
    for run in (folder / "bench" / "runs").glob("*/*/*"):
        steps = [row["env_steps"] for row in read_rows(run)]
        assert steps == list(range(100, 1001, 100))


# --------------------------------------------------------------------------------------------------- episodes


@pytest.mark.parametrize("kills", KILLS)
def test_a_run_outlives_the_machines_of_its_episodes_and_itself(kills: int, tmp_path: Path):
    path, rounds = tmp_path / "run", 8 + 6 * kills

    def progress() -> int:
        file = path / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    with Machines(MACHINES) as machines:
        call = f"finetune({str(path)!r}, {machines.address!r}, {rounds})"
        killed = Sittings(call, machines, progress).killed(kills, every=3)
    last = [row for row in read_rows(path) if "rollout/episodes" in row][-1]
    started, broken = last["rollout/episodes"], last["rollout/broken_episodes"]
    episodes = list(read_experience(path / "experience"))
    # each episode that was started is there, or is counted among those that a machine took with it
    assert len(episodes) == started - broken
    assert len({episode.seed for episode in episodes}) == len(episodes)
    assert sum(len(episode) for episode in episodes) == last["env_steps"] >= rounds * ROUND * 6
    assert 0 < broken <= EACH * killed["machine"]
    # and they are those that workers of one machine collect
    task, some = small.TASK, episodes[-20:]
    with WorkerPool(task, LocalCrew(Setup(task), EACH, small.CHUNK, 1, 60.0), 1, EACH) as pool:
        seeds = [episode.seed for episode in some]
        local = pool.start(small.BASE.single(), seeds, action_seed=0).result().episodes
    for given, expected in zip(some, local, strict=True):
        np.testing.assert_array_equal(given.actions, expected.actions)
        np.testing.assert_array_equal(given.observations["state"], expected.observations["state"])
    assert WORKERS == MACHINES
