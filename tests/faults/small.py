"""A fine-tuning run of a second, in the environment of `faulty_envs`, that faults are injected into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.agents import agent_config
from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv, make_env
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.run_directory import read_rows
from otpr.training.workers import Workers
from tiny import AGENT, policy, sitting

TASK = "tests.faults.faulty_envs:Point"
CHUNK = 8  # longer than an episode of 6 steps: one decision each
BASE = policy(observation_dim=3, action_dim=2)
# 5 rounds of 4 episodes of 6 steps; one evaluation before and one after them
LOOP: dict[str, Any] = {
    "env_steps": 120,
    "num_envs": 4,
    "update_ratio": 0.0,
    "warmup_steps": 119,
    "warmup_updates": 0,
    "eval_every": 10_000,
    "eval_episodes": 4,
    "final_eval_episodes": 6,
    "checkpoint_every": 10_000,
}


def demonstrations() -> list[Episode]:
    """Two episodes that end in success, of made-up numbers."""
    generator = np.random.default_rng(0)
    return [
        Episode(
            observations={"state": generator.normal(size=(7, 3)).astype(np.float32)},
            actions=generator.uniform(-1, 1, (6, 2)).astype(np.float32),
            rewards=np.array([0, 0, 0, 0, 0, 1], np.float32),
            terminated=True,
            truncated=False,
            success=True,
            seed=seed,
        )
        for seed in range(2)
    ]


def inject(monkeypatch: pytest.MonkeyPatch, folder: Path, *faults: dict[str, Any]) -> None:
    """Have the environments made from now on go wrong; see `faulty_envs`."""
    requests = []
    for number, fault in enumerate(faults):
        count = folder / f"fault-{number}"
        count.mkdir(parents=True)
        requests.append({"times": 1, **fault, "folder": str(count)})
    monkeypatch.setenv("OTPR_TEST_FAULTS", json.dumps(requests))


def fine_tune(
    path: Path,
    env: ChunkedVectorEnv | Workers,
    *,
    resume: bool = False,
    devices: int = 1,
    agent: tuple[str, ...] = (),
    **loop: Any,
) -> FineTuning:
    """A run in `path`, from its start or its checkpoint to its end."""
    config = {**LOOP, **loop}
    learning = {name: value for name, value in config.items() if name in ("update_ratio", "warmup_updates")}
    settings = tuple(f"{name}={value}" for name, value in learning.items())
    return sitting(
        path,
        BASE,
        demonstrations(),
        env,
        agent=agent_config("otpr", "default", (*AGENT, *settings, *agent)),
        loop=LoopConfig(**{name: config[name] for name in config if name not in learning}),
        resume=resume,
        devices=devices,
    )


def processes(monkeypatch: pytest.MonkeyPatch, count: int, timeout: float = 60.0) -> ChunkedVectorEnv:
    """Four environments in so many processes."""
    monkeypatch.setattr("otpr.envs.chunked.available_cores", lambda: count)
    return ChunkedVectorEnv(TASK, LOOP["num_envs"], CHUNK, processes=True, timeout=timeout)


def rows(path: Path) -> list[dict[str, Any]]:
    """The metrics, without times."""
    times = ("seconds", "eval/seconds")
    return [{name: value for name, value in row.items() if name not in times} for row in read_rows(path)]


def episode_starts(seeds: list[int]) -> np.ndarray:
    """The first observation of each seed's episode."""
    env = make_env(TASK)
    return np.stack([env.reset(seed=seed)[0] for seed in seeds])
