"""Results that nobody measured, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from otpr_bench.results import Row

TASKS = (
    "metaworld/assembly-v3",
    "metaworld/box-close-v3",
    "metaworld/peg-insert-side-v3",
    "ogbench/cube-double-task2",
    "robosuite/can",
    "robosuite/square",
)
METHODS = {
    "otpr": 0.8,
    "otpr:paper": 0.3,
    "bc": 0.35,
    "idql": 0.5,
    "dql": 0.45,
    "dawr": 0.55,
    "qsm": 0.2,
    "dppo": 0.6,
    "rlpd": 0.7,
    "fql": 0.85,
    "qc": 0.75,
}
"""Where each method would end on a task of middling difficulty."""


def row(**changes: Any) -> Row:
    """An evaluation of a run, with some of its fields as wanted."""
    fields = {
        "suite": "arena-6",
        "task": "metaworld/assembly-v3",
        "algorithm": "otpr",
        "preset": "default",
        "seed": 0,
        "env_steps": 50_123,
        "eval_at": 50_000,
        "wall_seconds": 420.0,
        "success": 0.5,
        "success_single": None,
        "episodes": 100,
        "base": "0123456789ab",
        "settings": "ba9876543210",
        "result_version": "1.1",
        "machine": "Made-up CPU, 2 cores",
        "status": "done",
        "error": "",
        "started": "2026-11-22T10:00:00+00:00",
        "packages": "jax 0.0.1, numpy 0.0.2",
        "execute": 4,
        "mean_return": None,
        "mean_return_single": None,
    }
    return Row(**{**fields, **changes})


def run(method: str, rates: list[float], *, end: int = 50_000, **changes: Any) -> list[Row]:
    """The rows of one run that is evaluated at equal distances up to its end."""
    algorithm, _, preset = method.partition(":")
    distance = end // max(1, len(rates) - 1)
    return [
        row(
            algorithm=algorithm,
            preset=preset or "default",
            eval_at=number * distance,
            env_steps=number * distance + 37 * bool(number),
            wall_seconds=30.0 + 80.0 * number,
            success=rate,
            **{"settings": f"{method:.^12}", **changes},
        )
        for number, rate in enumerate(rates)
    ]


def failed(method: str, error: str, **changes: Any) -> Row:
    """The row of a run that failed."""
    algorithm, _, preset = method.partition(":")
    return row(
        algorithm=algorithm,
        preset=preset or "default",
        status="failed",
        success=None,
        episodes=0,
        execute=None,
        error=error,
        **{"settings": f"{method:.^12}", **changes},
    )


def arena(methods: dict[str, float] | None = None, seeds: int = 3) -> list[Row]:
    """Every method on six tasks; robosuite's have a seed less and shorter runs, and two runs failed."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for number, task in enumerate(TASKS):
        short = task.startswith("robosuite")
        for method, level in (methods or METHODS).items():
            for seed in range(seeds - short):
                where = {"task": task, "seed": seed}
                if (method, number, seed) in (("qsm", 1, 2), ("dppo", 3, 0)):
                    text = "FloatingPointError: the loss of Q is nan <b>at</b> step 17,250 | seed"
                    rows.append(failed(method, text, env_steps=17_250, **where))
                    continue
                end = np.clip(level + 0.08 * (number - 2.5) + rng.normal(0, 0.1), 0, 1)
                base = 0.25 + 0.04 * number
                ways = [0.0] if method == "bc" else [0.0, 0.3, 0.6, 0.85, 0.95, 1.0]
                rates = [
                    round(
                        float(np.clip(base + (end - base) * way + rng.normal(0, 0.03) * bool(way), 0, 1)), 2
                    )
                    for way in ways
                ]
                rows += run(method, rates, end=20_000 if short else 50_000, **where)
    return rows
