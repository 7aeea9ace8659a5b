"""Latency of an exported policy: `python -m benchmarks.onnx_latency POLICY ...` prints a table in Markdown.

Each decision is made twice, one after the other, by `Policy.act` in JAX and by the exported model in
onnxruntime, so that what else the machine does weighs on both alike. For one thread: `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.policies.convert.exported import write_files
from otpr.policies.convert.onnx_export import export_onnx
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.spec import zeros


def main(arguments: Sequence[str] | None = None) -> None:
    """Export each policy, time it, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", type=Path, nargs="+", help="folders of policies, or of runs")
    parser.add_argument("--decisions", type=int, default=200)
    given = parser.parse_args(arguments)
    print("| policy | JAX p50 ms | ONNX p50 ms | JAX p99 ms | ONNX p99 ms | MB | first JAX s | ONNX s |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in given.policies:
        print(f"| {folder.name} | {_row(load_policy(folder), given.decisions)} |", flush=True)


def _row(policy: Policy, decisions: int) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "exported"
        write_files(export_onnx(policy), out)
        size = (out / "policy.onnx").stat().st_size / 1e6
        begun = time.perf_counter()
        exported = _module(out / "act.py").Policy(threads=1)
        leading = () if policy.spec.history == 1 else (policy.spec.history,)
        ours = zeros(policy.spec.observation, *leading)
        theirs = zeros(policy.spec.observation, policy.spec.history)
        exported.act(theirs, 0)
        first_onnx = time.perf_counter() - begun
        begun = time.perf_counter()
        policy.act(ours, 0)
        first_jax = time.perf_counter() - begun
        times: NDArray[np.float64] = np.empty((2, decisions))
        for i in range(decisions):
            moments = [time.perf_counter()]
            policy.act(ours, i)
            moments.append(time.perf_counter())
            exported.act(theirs, i)
            moments.append(time.perf_counter())
            times[:, i] = 1e3 * np.diff(moments)
    p50, p99 = np.percentile(times, [50, 99], axis=1)
    cells = [*(f"{x:.2f}" for x in (*p50, *p99)), f"{size:.1f}", f"{first_jax:.1f}", f"{first_onnx:.1f}"]
    return " | ".join(cells)


def _module(file: Path) -> Any:
    """The example that was exported, as a user would import it."""
    spec = importlib.util.spec_from_file_location("act", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["act"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
