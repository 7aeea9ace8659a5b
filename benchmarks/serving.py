"""Latency of `otpr serve`: `python -m benchmarks.serving POLICY` prints the table of docs/serving.md.

The server is a process of its own; each client is a thread of this one, asks without a pause between reply
and next request, and compares each reply with what the policy gives for the same seed here.
"""

from __future__ import annotations

import argparse
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from websockets.sync.client import connect

from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.units import in_units
from otpr.serving.messages import pack, unpack
from otpr.spec import zeros

SEEDS = 16
"""Different requests, in turn."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with one client and with several, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=1000, help="of each client")
    parser.add_argument("--budget-ms", type=float, help="of each request; the replies are not compared then")
    given = parser.parse_args(arguments)
    policy = load_policy(given.policy)
    alone = _alone(policy, given.requests)
    print(
        "| clients | requests/s | p50 ms | p99 ms | longest ms | lost or wrong |\n|---|---|---|---|---|---|"
    )
    print(f"| none: `Policy.act` in this process | {1e3 / alone.mean():.0f} | {_row(alone)} | |")
    with _Server(given.policy) as port:
        for clients in given.clients:
            started = time.perf_counter()
            times, wrong = _load(policy, port, clients, given.requests, given.budget_ms)
            rate = times.size / (time.perf_counter() - started)
            print(f"| {clients} | {rate:.0f} | {_row(times)} | {wrong} of {clients * given.requests} |")


def _row(times: np.ndarray) -> str:
    p50, p99 = np.percentile(times, [50, 99])
    return f"{p50:.2f} | {p99:.2f} | {times.max():.2f}"


def _alone(policy: Policy, requests: int) -> np.ndarray:
    """Milliseconds of each decision without a server."""
    rows = _rows(policy)
    policy.act(rows, 0)
    times = np.empty(requests)
    for i in range(requests):
        begun = time.perf_counter()
        policy.act(rows, i)
        times[i] = 1e3 * (time.perf_counter() - begun)
    return times


def _rows(policy: Policy) -> dict[str, np.ndarray]:
    leading = () if policy.spec.history == 1 else (policy.spec.history,)
    return zeros(policy.spec.observation, *leading)


class _Server:
    """`otpr serve` in a process of its own, on a free port."""

    def __init__(self, policy: Path):
        command = "from otpr.cli.main import entry; entry()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", str(policy), "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> int:
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith("Listening"):
            if not line:
                raise SystemExit("otpr serve ended.")
        return int(line.partition(";")[0].rpartition(":")[2])

    def __exit__(self, *exception: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()


def _load(
    policy: Policy, port: int, clients: int, requests: int, budget: float | None
) -> tuple[np.ndarray, int]:
    """Milliseconds of every request, and how many replies were lost or other than the policy's own."""
    rows = _rows(policy)
    expected = [in_units(policy.act(rows, seed), policy.spec) for seed in range(SEEDS)]
    found: queue.Queue[tuple[list[float], int]] = queue.Queue()
    barrier = threading.Barrier(clients)

    def talk(number: int) -> None:
        times: list[float] = []
        wrong = 0
        with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as connection:
            connection.recv()
            barrier.wait()
            for i in range(requests):
                seed = (number + i) % SEEDS
                begun = time.perf_counter()
                connection.send(pack({**rows, "seed": seed, "budget_ms": budget}))
                reply = connection.recv()
                times.append(1e3 * (time.perf_counter() - begun))
                assert isinstance(reply, bytes), reply
                same = np.array_equal(unpack(reply)["actions"], expected[seed])
                wrong += budget is None and not same
        found.put((times, wrong + requests - len(times)))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [found.get_nowait() for _ in threads]
    return np.concatenate([times for times, _ in results]), sum(wrong for _, wrong in results)


if __name__ == "__main__":
    main()
