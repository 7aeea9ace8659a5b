"""A task that is seen, and small policies that see, for the tests of frozen and of trained encoders.

A picture of 32 x 40 pixels shows a point and, alone, its goal.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from otpr.agents import agent_config
from otpr.agents.parts.agent import AgentConfig
from otpr.data.collect import collect
from otpr.data.episodes import Episode
from otpr.envs import Setup, task_spec
from otpr.policies.policy import Policy
from otpr.training.finetune import LoopConfig
from otpr.training.pretrain import PretrainConfig, pretrain
from otpr.training.run_directory import RunDirectory

HERE = "tests.envs.user_envs"
TASK = f"{HERE}:seeing"
CONFIG = PretrainConfig(
    horizon=3, width=32, depth=1, denoising_steps=4, updates=20, batch_size=16, random_shift=2
)
SETTINGS = (
    "critic_width=16",
    "batch_size=16",
    "update_ratio=0.5",
    "warmup_updates=10",
    "candidates=4",
)
LOOP = LoopConfig(
    env_steps=120,
    num_envs=2,
    warmup_steps=40,
    eval_every=1000,
    eval_episodes=2,
    final_eval_episodes=3,
    checkpoint_every=50,
    update_block=10,
)


@functools.cache
def demonstrations(episodes: int = 6, noise: float = 0.1) -> list[Episode]:
    return collect(TASK, episodes=episodes, noise=noise, seed=0, user_expert=f"{HERE}:SeeingExpert")


def imitated(path: Path, config: PretrainConfig, episodes: list[Episode], **options: Any) -> Policy:
    resume = options.pop("resume", False)
    with RunDirectory.open(path, command="pretrain", config={}, resume=resume) as directory:
        return pretrain(
            [episodes], config, directory, setup=Setup(TASK), spec=task_spec(TASK).spec, seed=0, resume=resume
        )


def settings(algorithm: str) -> AgentConfig:
    config = agent_config(algorithm)
    names = {field.name for field in dataclasses.fields(config)}
    known = tuple(text for text in SETTINGS if text.partition("=")[0] in names)
    more = ("potentials_width=16", "ot_batch=16", "ot_block=32", "ot_blocks=1", "potentials_steps=5")
    dppo = ("decisions=8", "batch_size=4", "epochs=1", "value_iterations=1", "width=16")
    if algorithm == "dppo":  # it learns from rounds
        known = ()
    known += {"otpr": more, "dppo": dppo}.get(algorithm, ())
    return agent_config(algorithm, "default", tuple(t for t in known if t.partition("=")[0] in names))
