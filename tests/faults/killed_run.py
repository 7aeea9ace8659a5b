"""A small fine-tuning run in a process of its own, which says what it does, so that it can be killed there.

    python -m tests.faults.killed_run FOLDER [--resume] [--metaworld]

It prints a line as each phase begins: collect, learn, end_round, evaluate, save, and at last done.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from otpr.envs import ChunkedVectorEnv
from otpr.training.finetune import FineTuning, LoopConfig
from tests.faults import small

PHASES = ("collect", "learn", "end_round", "evaluate", "save")

# 12 rounds of 4 episodes of 6 steps
LOOP: dict[str, Any] = {
    "env_steps": 288,
    "num_envs": 4,
    "update_ratio": 5.0,
    "warmup_steps": 48,
    "warmup_updates": 250,
    "eval_every": 100,
    "eval_episodes": 4,
    "final_eval_episodes": 6,
    "checkpoint_every": 60,
}


def announce(name: str) -> None:
    """Have a method of `FineTuning` say that it begins."""
    attribute = name if name == "save" else f"_{name}"
    method = getattr(FineTuning, attribute)

    def announced(*arguments: Any) -> Any:
        os.write(1, f"{name}\n".encode())
        return method(*arguments)

    setattr(FineTuning, attribute, announced)


def run_metaworld(path: Path, resume: bool) -> None:
    """The run of tests/training/test_finetune.py, with simulator processes."""
    import tiny
    from otpr.agents import agent_config

    base, loop = tiny.policy(), LoopConfig(**tiny.LOOP)
    agent = agent_config("otpr", "default", tiny.AGENT)
    with ChunkedVectorEnv(tiny.TASK, loop.num_envs, base.spec.execute, processes=True) as env:
        tiny.sitting(path, base, tiny.demonstrations(), env, agent=agent, loop=loop, resume=resume)


def main() -> None:
    """As the module says."""
    path, options = Path(sys.argv[1]), sys.argv[2:]
    for name in PHASES:
        announce(name)
    if "--metaworld" in options:
        run_metaworld(path, "--resume" in options)
    else:
        with ChunkedVectorEnv(small.TASK, LOOP["num_envs"], small.CHUNK, processes=False) as env:
            small.fine_tune(path, env, resume="--resume" in options, **LOOP)
    os.write(1, b"done\n")


if __name__ == "__main__":
    main()
