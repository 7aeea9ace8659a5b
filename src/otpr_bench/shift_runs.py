"""The policies of a benchmark's runs, and the experts of its tasks, under shifts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from otpr.envs.shifts import Shift
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.shifts import (
    EXPERT,
    CarriedOut,
    Cell,
    Subject,
    all_shifts,
    cells_of,
    in_order,
    measure,
    read_shift_rows,
    run_expert,
    runs_policy,
    solvable_shifts,
)
from otpr_bench.suites import BenchTask

EXPERT_EPISODES = 50

SINGLE_TOO = ("otpr",)
"""Algorithms of which one sample is measured beside the choice: those that train it for success too."""


def measure_experts(
    tasks: Iterable[BenchTask], levels: Sequence[int], path: Path, carried_out: CarriedOut = in_order
) -> bool:
    """Measure the scripted expert of each task under every shift; see `measure`."""
    experts = [
        Subject(task.id, EXPERT, "", 0, EXPERT, task.recipe.episode_limit, run_expert) for task in tasks
    ]
    cells = [cell for expert in experts for cell in cells_of(expert, all_shifts(levels), EXPERT_EPISODES)]
    return measure(cells, path, _say, carried_out)


def measure_runs(
    runs: Sequence[tuple[Job, Base, Path]],
    levels: Sequence[int],
    path: Path,
    carried_out: CarriedOut = in_order,
) -> bool:
    """Measure the experts of the runs' tasks, and then the runs' policies as deployed.

    Each policy has as many episodes as the last evaluation of its run, under the shifts that the expert can
    cope with. The base, which is the policy of each run of "bc", is measured once.

    Returns:
        Whether all was carried out; see `measure`.
    """
    tasks = {job.task.id: job.task for job, _, _ in runs}
    if not measure_experts(tasks.values(), levels, path, carried_out):
        return False
    rows = read_shift_rows(path) if tasks else []
    shifts = {task: solvable_shifts(rows, task, levels) for task in tasks}
    cells: list[Cell] = []
    bases: set[str] = set()
    for job, base, directory in runs:
        if job.variant.algorithm == "bc":
            if base.hash in bases:
                continue
            bases.add(base.hash)
        policy = load_policy(directory)
        policies = [policy]
        if policy.chooser is not None and job.variant.algorithm in SINGLE_TOO:
            policies.append(policy.single())
        cells += [cell for acting in policies for cell in policy_cells(job, acting, shifts[job.task.id])]
    return measure(cells, path, _say, carried_out)


def policy_cells(job: Job, policy: Policy, shifts: Sequence[Shift], trained: str = "") -> list[Cell]:
    """The cells of a policy of a run; `trained` as in `ShiftRow`."""
    task = job.task
    subject = Subject(
        task.id,
        job.variant.algorithm,
        job.variant.settings,
        job.seed,
        "one sample" if policy.chooser is None else "chosen",
        task.recipe.episode_limit,
        runs_policy(policy),
        trained,
    )
    return cells_of(subject, shifts, task.budget.final_eval_episodes)


def _say(text: str) -> None:
    print(text, flush=True)
