"""The runs behind a results file: rows of evaluations grouped into runs that are checked to be comparable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

from otpr.errors import OtprError
from otpr_bench.results import Row
from otpr_bench.spread import FinalRates, Spread, spread_over_seeds

OURS = "otpr"
"""The method that the others are compared with."""

IMITATION = "bc"
"""The method that leaves the pre-trained policy as it is."""

ORDER = ("otpr", "bc", "idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc")
"""The order in which algorithms are listed."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its evaluations in the order of their steps, or the single row of a run that failed."""

    rows: tuple[Row, ...]

    @property
    def row(self) -> Row:
        """The last row."""
        return self.rows[-1]

    @property
    def method(self) -> str:
        """The algorithm, and its preset unless that is "default": "otpr", "otpr:paper"."""
        return method_name(self.row.algorithm, self.row.preset)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.row.task

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.row.seed

    @property
    def failed(self) -> bool:
        """Whether the run failed. A failed run has no success rate, which is not the same as a rate of 0."""
        return self.row.status == "failed"

    @property
    def steps(self) -> tuple[int, ...]:
        """Nominal environment steps of the evaluations; empty if the run failed."""
        return tuple(row.eval_at for row in self.rows if row.success is not None)

    @property
    def success(self) -> tuple[float, ...]:
        """Success rates of the policy as deployed, one for each of `steps`, in [0, 1]."""
        return tuple(row.success for row in self.rows if row.success is not None)

    @property
    def minutes(self) -> tuple[float, ...]:
        """Wall-clock minutes of the run at the end of each evaluation."""
        return tuple(row.wall_seconds / 60 for row in self.rows)

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
        """A short name of each method for figures and sentences.

        Of changed fields, more than two are shortened to the first and the last one. Methods that would then
        share a label keep their full names.
        """
        short = {method: _short(method) for method in self.methods}
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
    runs = [_checked_run(found) for found in by_run.values()]
    runs.sort(key=lambda run: (_rank(run.method), run.task, run.seed))
    _check_alike(
        runs, lambda run: (run.row.algorithm, run.task), lambda run: run.row.result_version, "versions"
    )
    _check_alike(runs, lambda run: (run.method, run.task), lambda run: run.row.settings, "settings")
    _check_alike(runs, lambda run: (run.task,), lambda run: run.row.base, "base policies")
    trained = [run for run in runs if len(run.steps) > 1]  # imitation alone has a single evaluation
    _check_alike(trained, lambda run: (run.task,), lambda run: f"{run.steps[-1]:,}", "final steps")
    suite = ", ".join(dict.fromkeys(row.suite for row in rows))
    methods = tuple(dict.fromkeys(run.method for run in runs))
    return Study(suite, tuple(sorted({row.task for row in rows})), methods, tuple(runs))


def _short(method: str) -> str:
    algorithm, preset, *changes = method.split(":") if ":" in method else (method, "default")
    shown = changes if len(changes) <= 2 else [changes[0], "...", changes[-1]]
    return " ".join([algorithm if preset == "default" else f"{algorithm}:{preset}", *shown])


def _rank(method: str) -> tuple[int, str]:
    algorithm, _, preset = method.partition(":")
    return (ORDER.index(algorithm) if algorithm in ORDER else len(ORDER), f"{algorithm}:{preset}")


def _checked_run(rows: list[Row]) -> Run:
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        return Run((failed[-1],))
    run = Run(tuple(rows))
    what = f"{run.method} on {run.task}, seed {run.seed}"
    if len(set(run.steps)) < len(rows):
        raise OtprError(f"The results hold an evaluation of {what} twice. Keep one of them.")
    if run.steps[0] != 0:
        raise OtprError(
            f"The results lack the evaluation of {what} at step 0; the first is at {run.steps[0]:,}."
        )
    return run


def _check_alike(
    runs: Iterable[Run], group: Callable[[Run], tuple[str, ...]], value: Callable[[Run], str], what: str
) -> None:
    found: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        if not run.failed:
            found.setdefault(group(run), set()).add(value(run))
    for names, values in found.items():
        if len(values) > 1:
            raise OtprError(
                f"Runs of {' on '.join(names)} have different {what} ({', '.join(sorted(values))}), which "
                "one table must not mix. Select the rows of one of them, or complete the runs of the other."
            )
