"""Tasks by name: simulators behind one interface, scripted experts, and vectorised environments.

Nothing here imports JAX, so that a simulator process stays small.
"""

from __future__ import annotations

from otpr.envs.chunked import ChunkedVectorEnv
from otpr.envs.env_group import ChunkStep
from otpr.envs.registry import (
    Expert,
    TaskSpec,
    cameras_of,
    check_filming,
    list_tasks,
    make_env,
    make_expert,
    task_spec,
)
from otpr.envs.served import BrokenEnvironmentError
from otpr.envs.setup import Setup

__all__ = [
    "BrokenEnvironmentError",
    "ChunkStep",
    "ChunkedVectorEnv",
    "Expert",
    "Setup",
    "TaskSpec",
    "cameras_of",
    "check_filming",
    "list_tasks",
    "make_env",
    "make_expert",
    "task_spec",
]
