"""Machines of a Ray cluster, all of them on this one, in a process that takes orders from standard input.

    python -m tests.faults.ray_machines COUNT

The cluster has a head without processors and COUNT machines of one processor each. It prints its address. An
order is a line with the number of a machine: that one is killed without a warning, another takes its place,
and a line says so. The end of the input ends the cluster.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
STORE = 80 * 1024 * 1024


def environment() -> dict[str, str]:
    """Of the cluster's processes, and of those that use it: no passwords, and the modules of this one."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    places = [ROOT / name for name in ("src", "tests", "tests/bench", ".")]
    return {
        **env,
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # not below all else on this machine: a kill waits for progress
    }


class Machines:
    """The process, started; end it by leaving the `with` statement."""

    def __init__(self, count: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.ray_machines", str(count)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._line()
        assert self.address, "the cluster does not start; Ray gives up where a machine is too busy"

    def kill(self, number: int) -> None:
        """Kill a machine; return once another has taken its place."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        assert self._line() == "replaced"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=60)
        self._process.kill()


def main() -> None:
    from ray.cluster_utils import Cluster

    def machine() -> Any:
        return cluster.add_node(num_cpus=1, object_store_memory=STORE)

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    machines = [machine() for _ in range(int(sys.argv[1]))]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(machines[int(line)], allow_graceful=False)
        machines[int(line)] = machine()
        print("replaced", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
