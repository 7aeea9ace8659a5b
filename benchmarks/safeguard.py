"""Runs of the arena with and without the safeguard, evaluated often: `python -m benchmarks.safeguard`.

    python -m benchmarks.safeguard --tasks robosuite/square --seeds 0 1   make these runs
    python -m benchmarks.safeguard --only-tables                          of the runs that are there

The bases are those of the suite `arena-6`. Each run has 20,000 steps and an evaluation every 2,000
over 100 episodes, each time from the same initial conditions. A run is made once: its evaluations are kept in
results/safeguard. The table goes into docs/safeguard.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from benchmarks.runs import run_to_end
from otpr.storage import read_json, write_json
from otpr.training.run_directory import read_rows
from otpr_bench.bases import Base, make_base
from otpr_bench.execution import found_base
from otpr_bench.jobs import Variant, make_jobs, plain_name
from otpr_bench.markdown import update_page
from otpr_bench.snapshots import Place
from otpr_bench.suites import BENCH_SUITES, BenchSuite, BenchTask, Budget

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "safeguard"
PAGE = ROOT / "docs" / "safeguard.md"
LEAST = 0.75
"""The probability of `--safeguard`."""

ENOUGH = 0.75
"""The success whose first evaluation is asked for."""

KEPT = ("env_steps", "eval/success_rate", "safeguard/learnt_better", "safeguard/single_better")


def make(task: BenchTask, seed: int, least: float, folder: Path) -> None:
    """Make a run and keep its evaluations, unless they are there.

    Args:
        task: a task of the arena.
        seed: of the run.
        least: as of `--safeguard`; 0 for a run without it.
        folder: where bases and runs are.
    """
    name = f"{plain_name(task.id.partition('/')[2])}-seed{seed}-{'safeguard' if least else 'without'}"
    if (RESULTS / f"{name}.json").exists():
        return
    base = base_of(task, folder)
    budget = Budget(20_000, 2_000, eval_episodes=100, final_eval_episodes=100, num_envs=task.budget.num_envs)
    suite = BenchSuite("safeguard", (dataclasses.replace(task, budget=budget),))
    (job,) = make_jobs(suite, [Variant("otpr")], [seed])
    run = folder / "safeguard" / name
    arguments = [*job.arguments(run, base), *(["--safeguard", str(least)] if least else [])]
    run_to_end(arguments, run)
    rows = [{key: row[key] for key in KEPT if key in row} for row in read_rows(run)]
    found = {
        "task": task.id,
        "seed": seed,
        "safeguard": least,
        "base": base.success,
        "base_hash": base.hash,
        "summary": read_json(run / "summary.json"),
        "rows": [row for row in rows if len(row) > 1],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{name}.json", found)
    print(json.dumps(found["rows"]), flush=True)


def base_of(task: BenchTask, folder: Path) -> Base:
    """The task's base of the arena, made here if it is not there."""
    place = Place(folder)
    base = found_base(task, place)
    if base is None:
        make_base(place.base(task.id), task.id, task.recipe)
        base = found_base(task, place)
    assert base is not None
    return base


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs' evaluations as a Markdown table, a row for each task with and without the safeguard."""
    lines = [
        "| task | safeguard | runs | base | lowest | below the base | mean over the run | at 20,000 steps | "
        f"first at {ENOUGH:.0%} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, least in sorted({(run["task"], run["safeguard"]) for run in runs}):
        some = [run for run in runs if (run["task"], run["safeguard"]) == (task, least)]
        curves = [evaluations(run) for run in some]
        below = sum(
            is_below(success, run["base"])
            for run, curve in zip(some, curves, strict=True)
            for _, success in curve
        )
        reached = [next((f"{at:,}" for at, success in curve if success >= ENOUGH), "-") for curve in curves]
        cells = [
            task,
            f"{least:g}" if least else "without",
            str(len(some)),
            f"{np.mean([run['base'] for run in some]):.0%}",
            f"{min(success for curve in curves for _, success in curve):.0%}",
            f"{below} of {sum(map(len, curves))}",
            f"{np.mean([success for curve in curves for _, success in curve]):.0%}",
            ", ".join(f"{curve[-1][1]:.0%}" for curve in curves),
            ", ".join(reached),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluations(run: dict[str, Any]) -> list[tuple[int, float]]:
    """(environment steps, success in [0, 1]) of each evaluation."""
    name = "eval/success_rate"
    return [(row["env_steps"], row[name]) for row in run["rows"] if name in row]


def is_below(success: float, base: float, episodes: int = 100) -> bool:
    """Whether a success rate is below the base's by more than noise: Fisher's exact test, one-sided, 5%."""
    wins, of_base = round(success * episodes), round(base * episodes)
    counts = [[wins, episodes - wins], [of_base, episodes - of_base]]
    result: Any = fisher_exact(counts, alternative="less")
    return bool(result.pvalue < 0.05)


def main() -> None:
    """Make the runs, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = {task.id: task for task in BENCH_SUITES["arena-6"]}
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs", "safeguard"), help="of bases and runs")
    parser.add_argument("--only-tables", action="store_true", help="make no run")
    options = parser.parse_args()
    if not options.only_tables:
        for seed, name, least in itertools.product(options.seeds, options.tasks, (LEAST, 0.0)):
            make(tasks[name], seed, least, options.folder)
    text = table([read_json(path) for path in sorted(RESULTS.glob("*.json"))])
    update_page(PAGE, {"safeguard:runs": text})
    print(text)


if __name__ == "__main__":
    main()
