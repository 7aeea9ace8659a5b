"""Processes with a limited number of threads, in an environment as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from otpr.envs.env_process import threads
from otpr.training.episode_runner import worker_env
from otpr_bench.ray_tasks import task_options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="XLA's threads are counted in /proc")

COUNTING = """
import os
import jax

jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64))).block_until_ready()
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum(name.startswith("tf_XLAEigen") for name in names))
"""


def of_xla(env: dict[str, str]) -> int:
    """Threads of XLA for computation in a process with these variables, and none of XLA's own."""
    base = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", COUNTING], env=base | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_xla_computes_with_so_many_threads() -> None:
    assert [of_xla(threads(number)) for number in (1, 3)] == [1, 3]


def test_workers_and_runs_of_one_core_compute_with_one_thread() -> None:
    assert of_xla(worker_env()) == 1
    assert of_xla(task_options(1.5, 0.0, True)["runtime_env"]["env_vars"]) == 1
    assert of_xla(task_options(2.0, 0.0, True)["runtime_env"]["env_vars"]) == 2
