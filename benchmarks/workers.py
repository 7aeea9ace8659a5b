"""Collecting with workers that have the policy within, against its parts alone, spread over the cores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.rollout import CHUNK_LENGTH, TASK, chunks_of, replay
from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import default_agent
from benchmarks.timing import in_turns, medians
from otpr.data.seeds import training_seed
from otpr.envs import ChunkedVectorEnv, Setup
from otpr.envs.chunked import available_cores
from otpr.envs.served import ServedProcess
from otpr.policies.packed import PackedPolicy, pack, unpack
from otpr.policies.policy import Policy
from otpr.training.episode_runner import worker_env
from otpr.training.local_workers import LocalCrew
from otpr.training.rollout import compile_acting, run_episodes
from otpr.training.workers import Lockstep, WorkerPool


class Alone:
    """In a process like a worker's: the simulation of a wave, its decisions, and both by turns."""

    def __init__(self, num_envs: int):
        self._num_envs = num_envs
        self._env = ChunkedVectorEnv(TASK, num_envs, CHUNK_LENGTH, processes=False)

    def parts(self, packed: PackedPolicy, seeds: list[int], turns: int) -> tuple[float, float, float]:
        """Median seconds of the environments replaying what the policy does, of its decisions, and of both.

        The last takes longer than the sum, because each evicts what the other has in the core's caches.
        """
        env, policy = self._env, unpack(packed)
        compile_acting(policy, env)
        recorded = run_episodes(env, policy, seeds, action_seed=0).episodes
        idle: list[Any] = [None] * (self._num_envs - len(seeds))
        chunks = chunks_of(recorded, CHUNK_LENGTH)
        chunks = np.pad(chunks, [(0, 0), (0, len(idle)), (0, 0), (0, 0)])

        def decide() -> None:
            for _ in range(len(chunks)):
                compile_acting(policy, env)  # which makes one decision, and waits for it

        def simulate() -> None:
            replay(env, [*seeds, *idle], chunks)

        def alternate() -> None:
            env.reset([*seeds, *idle])
            for chunk in chunks:
                compile_acting(policy, env)
                env.step(chunk)

        times = medians(in_turns({"simulation": simulate, "decisions": decide, "by turns": alternate}, turns))
        return times["simulation"], times["decisions"], times["by turns"]


def workers(sizes: Sizes) -> list[Row]:
    """How near collecting comes to its parts alone, before and after learning began; lockstep beside it."""
    agent = default_agent(sizes, CHUNK_LENGTH, levels=10)
    cores = available_cores()
    count = min(cores, sizes.num_envs)
    each = math.ceil(sizes.num_envs / count)
    seeds = [training_seed(0, i) for i in range(sizes.num_envs)]
    policies: dict[str, Policy] = {
        "rollout_workers": agent.actor.policy,
        "rollout_workers_choosing": agent.deployed(),
    }
    parts = {name: _parts(policy, seeds, each, sizes.rollout_turns) for name, policy in policies.items()}
    rows: list[Row] = []
    with (
        WorkerPool(TASK, LocalCrew(Setup(TASK), each, CHUNK_LENGTH, 1, 60.0), count, each) as pool,
        Lockstep(ChunkedVectorEnv(TASK, sizes.num_envs, CHUNK_LENGTH, processes=True)) as lockstep,
    ):
        for name, policy in policies.items():

            def collect(kind: Any, acting: Policy = policy) -> int:
                return sum(map(len, kind.start(acting, seeds, action_seed=0).result().episodes))

            steps = collect(pool)
            both = {"workers": lambda: collect(pool), "lockstep": lambda: collect(lockstep)}
            times = medians(in_turns(both, sizes.rollout_turns))
            simulation, decisions, by_turns = parts[name]
            rows.append(
                Row(
                    name,
                    (simulation + decisions) / cores / times["workers"],
                    "of the speed",
                    "(simulation + decisions, each alone, over the cores) / time taken by workers with the "
                    "policy within",
                    {**times, "simulation": simulation, "decisions": decisions, "by turns": by_turns},
                    at_least=0.85,
                    note=f"{count} workers of {each} environments, {policy.candidates} candidates, "
                    f"{steps / times['workers']:,.0f} steps/s, in lockstep {steps / times['lockstep']:,.0f}; "
                    f"{by_turns / cores / times['workers']:.2f} of the speed of one process that "
                    "simulates and decides by turns",
                    details={"environment steps": steps, "cores": cores},
                )
            )
    return rows


def _parts(policy: Policy, seeds: list[int], each: int, turns: int) -> tuple[float, float, float]:
    """Seconds on one core of the simulation, of the decisions, and of both by turns, of all episodes."""
    alone = ServedProcess(
        "benchmarks.workers:Alone", (each,), task_id=TASK, who="the benchmark's process", env=worker_env()
    )
    sums = [0.0, 0.0, 0.0]
    try:
        for start in range(0, len(seeds), each):
            alone.send("parts", pack(policy), seeds[start : start + each], turns)
            for part, seconds in enumerate(alone.receive()):
                sums[part] += seconds
    finally:
        alone.close()
    return sums[0], sums[1], sums[2]
