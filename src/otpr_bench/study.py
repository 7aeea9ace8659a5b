"""The runs behind a results file: rows of evaluations grouped into runs that are checked to be comparable."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from otpr.errors import OtprError
from otpr_bench.estimates import FinalRates, Spread, spread_over_seeds
from otpr_bench.results import Row

OURS = "otpr"  # the method that the others are compared with
IMITATION = "bc"  # the method that leaves the pre-trained policy as it is
ORDER = ("otpr", "bc", "idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc")  # as algorithms are listed


class Run(NamedTuple):
    """One run: its evaluations in the order of their steps, or the single row of a run that failed."""

    method: str  # the algorithm, and its preset unless that is "default": "otpr", "otpr:paper"
    task: str
    seed: int
    row: Row  # the last one
    failed: bool  # a failed run has no success rate, which is not the same as a rate of 0
    steps: tuple[int, ...]  # nominal environment steps of the evaluations; empty if the run failed
    success: tuple[float, ...]  # success rate of the policy as deployed at each of `steps`, in [0, 1]
    minutes: tuple[float, ...]  # wall-clock minutes of the run at the end of each evaluation

    @property
    def final(self) -> float:
        """Success rate of the last evaluation, at the fixed end of the run."""
        return self.success[-1]


@dataclasses.dataclass(frozen=True)
class Study:
    """Comparable runs of several methods on several tasks."""

    suite: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    runs: tuple[Run, ...]

    def finished(self, method: str, task: str) -> list[Run]:
        """The runs of a method on a task that did not fail, by seed."""
        return [run for run in self.runs if (run.method, run.task) == (method, task) and not run.failed]

    @property
    def failures(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.failed]

    @property
    def others(self) -> list[str]:
        """The methods that ours is compared with."""
        return [method for method in self.methods if method != OURS]

    @property
    def labels(self) -> dict[str, str]:
        """A short name of each method for figures and sentences: "otpr epsilon=0.1".

        Of more than two changed fields the first and the last are shown, unless methods would share a label.
        """
        words = {method: re.split(r":(?:default:)?(?=\w+=)", method) for method in self.methods}
        short = {m: " ".join(w if len(w) <= 3 else (*w[:2], "...", w[-1])) for m, w in words.items()}
        uses = Counter(short.values())
        return {method: label if uses[label] == 1 else method for method, label in short.items()}

    def end(self, task: str) -> int:
        """The step at which the runs on a task end."""
        return max((run.steps[-1] for run in self.runs if run.task == task and not run.failed), default=0)

    def missing(self, method: str, task: str) -> int:
        """The number of runs that some method has on the task and this one lacks: failed or not yet done."""
        seeds = {run.seed for run in self.runs if run.task == task}
        return len(seeds - {run.seed for run in self.finished(method, task)})

    def pretrained(self, task: str) -> float:
        """Success of the pre-trained policy on a task, in [0, 1]; 0 if nothing says it.

        Our runs and those of imitation alone begin with it. If they measured it over different episodes, this
        is the highest rate.
        """
        starts = [run for method in (OURS, IMITATION) for run in self.finished(method, task)]
        return max((run.success[0] for run in starts), default=0.0)

    def rates(self, method: str, task: str) -> FinalRates | None:
        """Final success rates of a method on a task; None if it has no finished run there."""
        runs = self.finished(method, task)
        return FinalRates([run.final for run in runs], runs[0].row.episodes) if runs else None

    def rates_by_task(self, method: str) -> list[FinalRates] | None:
        """Final success rates of a method on every task; None if it lacks a finished run on one of them."""
        rates = [found for task in self.tasks if (found := self.rates(method, task))]
        return rates if len(rates) == len(self.tasks) else None

    def spread(self, method: str) -> Spread:
        """The spread of a method between seeds, over the tasks on which it has finished runs."""
        return spread_over_seeds([rates for task in self.tasks if (rates := self.rates(method, task))])


def method_name(algorithm: str, preset: str) -> str:
    """The name of a method in tables."""
    return algorithm if preset == "default" else f"{algorithm}:{preset}"


def newest(rows: Iterable[Row]) -> list[Row]:
    """The rows that belong together, out of those of a results file.

    For each task these are the rows of the newest base policy, among them those of the newest result version
    of each algorithm, and among them those of the newest settings of each preset. Newest is what was started
    last.
    """
    rows = sorted(rows, key=lambda row: row.started)
    base = {row.task: row.base for row in rows}
    rows = [row for row in rows if row.base == base[row.task]]
    version = {(row.task, row.algorithm): row.result_version for row in rows}
    rows = [row for row in rows if row.result_version == version[row.task, row.algorithm]]
    settings = {(row.task, row.algorithm, row.preset): row.settings for row in rows}
    return [row for row in rows if row.settings == settings[row.task, row.algorithm, row.preset]]


def gather(rows: Iterable[Row]) -> Study:
    """Group rows into runs, and check that these may share a table.

    Raises:
        OtprError: there is no row; an evaluation occurs twice; a run does not start at step 0; or runs on one
            task differ in base policy or final step, runs of one algorithm in result version, or runs of one
            preset in settings.
    """
    rows = sorted(rows, key=lambda row: row.eval_at)
    if not rows:
        raise OtprError("There are no results yet: run `otpr bench` first.")
    by_run: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        by_run.setdefault((method_name(row.algorithm, row.preset), row.task, row.seed), []).append(row)
    runs = [_run(found) for found in by_run.values()]
    runs.sort(key=lambda run: (_rank(run.method), run.task, run.seed))
    _check_alike(run for run in runs if not run.failed)
    suite = ", ".join(dict.fromkeys(row.suite for row in rows))
    methods = tuple(dict.fromkeys(run.method for run in runs))
    return Study(suite, tuple(sorted({row.task for row in rows})), methods, tuple(runs))


def _rank(method: str) -> tuple[int, str]:
    algorithm, _, preset = method.partition(":")
    return (ORDER.index(algorithm) if algorithm in ORDER else len(ORDER), f"{algorithm}:{preset}")


def _run(rows: list[Row]) -> Run:
    """The run of these rows, which are ordered by step."""
    last = rows[-1]
    which = method_name(last.algorithm, last.preset), last.task, last.seed
    if failures := [row for row in rows if row.success is None]:
        return Run(*which, failures[-1], failed=True, steps=(), success=(), minutes=())
    steps, minutes = [row.eval_at for row in rows], [row.wall_seconds / 60 for row in rows]
    rates = tuple(row.success for row in rows if row.success is not None)
    what = "{} on {}, seed {}".format(*which)
    if len(set(steps)) < len(rows):
        raise OtprError(f"The results hold an evaluation of {what} twice. Keep one of them.")
    if steps[0] != 0:
        raise OtprError(f"The results lack the evaluation of {what} at step 0; the first is at {steps[0]:,}.")
    return Run(*which, last, False, tuple(steps), rates, tuple(minutes))


def _check_alike(runs: Iterable[Run]) -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        row = run.row
        found.setdefault((f"{row.algorithm} on {run.task}", "versions"), set()).add(row.result_version)
        found.setdefault((f"{run.method} on {run.task}", "settings"), set()).add(row.settings)
        found.setdefault((run.task, "base policies"), set()).add(row.base)
        if len(run.steps) > 1:  # imitation alone has a single evaluation
            found.setdefault((run.task, "final steps"), set()).add(f"{run.steps[-1]:,}")
    for (of, what), values in found.items():
        if len(values) > 1:
            raise OtprError(
                f"Runs of {of} have different {what} ({', '.join(sorted(values))}), which one table must not "
                "mix. Select the rows of one of them, or complete the runs of the other."
            )
