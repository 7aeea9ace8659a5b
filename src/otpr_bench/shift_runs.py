"""The policies of a benchmark's runs, and the experts of its tasks, under shifts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from otpr.policies.loading import load_policy
from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.shifts import EXPERT, Subject, cells, expert_outcomes, measure, policy_outcomes
from otpr_bench.suites import BenchTask

EXPERT_EPISODES = 50


def measure_experts(tasks: Iterable[BenchTask], levels: Sequence[int], path: Path) -> None:
    """Measure the scripted expert of each task under every shift; see `measure`."""
    experts = [
        Subject(task.id, EXPERT, "", 0, EXPERT, task.recipe.episode_limit, expert_outcomes) for task in tasks
    ]
    measure(experts, cells(levels=levels), EXPERT_EPISODES, path, _say)


def measure_runs(runs: Sequence[tuple[Job, Base, Path]], levels: Sequence[int], path: Path) -> None:
    """Measure the experts of the runs' tasks, and the runs' policies with and without a choice.

    Each policy has as many episodes as the last evaluation of its run; the experts come first.
    """
    tasks = {job.task.id: job.task for job, _, _ in runs}
    measure_experts(tasks.values(), levels, path)
    for job, _, directory in runs:
        policy = load_policy(directory)
        kinds = [("one sample", policy.single())]
        if policy.chooser is not None:
            kinds.append(("chosen", policy))
        subjects = [
            Subject(
                job.task.id,
                job.variant.algorithm,
                job.variant.settings,
                job.seed,
                kind,
                job.task.recipe.episode_limit,
                policy_outcomes(variant),
            )
            for kind, variant in kinds
        ]
        measure(subjects, cells(levels=levels), job.task.budget.final_eval_episodes, path, _say)


def _say(text: str) -> None:
    print(text, flush=True)
