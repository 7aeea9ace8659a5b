"""Machines of a Ray cluster that die: here nodes of `ray.cluster_utils.Cluster`, all on this machine."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.envs import Setup
from otpr.training.local_workers import LocalCrew
from otpr.training.ray_workers import RayCrew
from otpr.training.workers import WorkerPool
from otpr_bench.jobs import make_jobs, parse_seeds, parse_variants
from otpr_bench.queue import Queue
from otpr_bench.results import read_results
from otpr_bench.suites import Budget, Recipe, open_suite
from tests.bench import fake_finetune
from tests.faults.small import TASK
from tiny import chooser, policy

pytestmark = [
    pytest.mark.faults,
    # the cluster forks as it starts, in this process with JAX's threads
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ACTING = policy(observation_dim=3, action_dim=2, execute=2, chooser=chooser(3, 4))
KILLS = 20


@pytest.fixture
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_episodes_of_nodes_that_die_are_told_and_run_again_they_are_the_same(cluster: Any):
    """A node dies again and again while two workers run; every seed is answered, always by its episode."""
    import ray

    seeds = list(range(400))
    arguments = (Setup(TASK), 2, 2, 1, 60.0)
    with WorkerPool(TASK, LocalCrew(*arguments), 1, 2) as one:
        expected = {e.seed: e for e in one.start(ACTING, seeds, action_seed=5).result().episodes}
    assert sorted(expected) == seeds
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    found: dict[int, Any] = {}
    kills = broken = 0
    with WorkerPool(TASK, RayCrew(ray, *arguments), 2, 2) as pool:
        pool.start(ACTING, seeds[:8], action_seed=5).result()  # it has worked
        while kills < KILLS:
            pending = pool.start(ACTING, seeds, action_seed=5)
            time.sleep(0.05 * (kills % 5))
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            kills += 1
            nodes.append(cluster.add_node(num_cpus=1))
            rollout = pending.result()
            assert sorted([*(e.seed for e in rollout.episodes), *rollout.broken]) == seeds
            broken += len(rollout.broken)
            found |= {episode.seed: episode for episode in rollout.episodes}
        assert pool.replaced > 0
    assert broken > 0
    for seed, episode in found.items():
        np.testing.assert_array_equal(episode.actions, expected[seed].actions)
    print(f"{kills} nodes killed, {broken} of {KILLS * len(seeds)} episodes lost and told")


def test_runs_of_nodes_that_die_go_on_from_what_they_had(cluster: Any, tmp_path: Path):
    """Real queue, fake runs: a run's node dies while it works, another one takes it up."""
    import ray

    budget = Budget(env_steps=1000, eval_every=200, eval_episodes=10, final_eval_episodes=10)
    suite = open_suite(("metaworld/peg-insert-side-v3",), Recipe(), budget)
    jobs = make_jobs(suite, parse_variants("otpr"), parse_seeds("0..5"))
    behaviour = {str(seed): "slow" for seed in range(6)}
    command = functools.partial(fake_finetune.carry_out, str(tmp_path / "calls"), behaviour)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    over = threading.Event()

    def kill() -> None:
        while not over.wait(4.0):
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))

    killer = threading.Thread(target=kill)
    killer.start()
    queue = Queue(
        jobs, folder=tmp_path / "bench", results=tmp_path / "results.parquet", command=command, fresh=False
    )
    complete = queue.run(ray)
    over.set()
    killer.join()
    assert complete
    rows = read_results(tmp_path / "results.parquet")
    assert {(row.seed, row.status) for row in rows} == {(seed, "done") for seed in range(6)}
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[0] for call in calls].count("base") == 1
    assert sum("--resume" in call for call in calls) > 0
