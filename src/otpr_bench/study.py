"""The runs behind a results file: rows of evaluations gathered into runs, and checked to be comparable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from otpr.errors import OtprError
from otpr_bench.results import Row
from otpr_bench.spread import Group, Spread, spread_over_seeds

OURS = "otpr"
"""The method that the others are compared with."""

ORDER = ("otpr", "bc", "idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc")
"""How methods are listed: ours, imitation, those of the paper's comparison, the stronger ones, others."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its settings and its evaluations, oldest first. Tuples of evaluations have equal lengths.

    Attributes:
        method: the algorithm, and its preset where that is not "default": "otpr", "otpr:paper".
        task: its id.
        seed: of the run.
        steps: nominal environment steps of the evaluations; none where the run failed.
        success: success rates of the policy as deployed, in [0, 1].
        single: of one sample of it without choice among candidates; None where not measured.
        episodes: episodes of each evaluation.
        minutes: wall-clock minutes of the run when each evaluation ended.
        error: why the run failed; empty where it did not.
        row: the last row of the run, for what all of them share.
    """

    method: str
    task: str
    seed: int
    steps: tuple[int, ...]
    success: tuple[float, ...]
    single: tuple[float | None, ...]
    episodes: tuple[int, ...]
    minutes: tuple[float, ...]
    error: str
    row: Row

    @property
    def failed(self) -> bool:
        """Whether the run ended with an error; then it has no success rate, which is not the same as zero."""
        return self.row.status == "failed"

    @property
    def final(self) -> float:
        """Success rate of the last evaluation, at the fixed end of the run; never the best one."""
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
        """Runs that failed."""
        return [run for run in self.runs if run.failed]

    @property
    def others(self) -> list[str]:
        """The methods that ours is compared with."""
        return [method for method in self.methods if method != OURS]

    def end(self, task: str) -> int:
        """The step at which runs on a task end. That of imitation alone, one evaluation, holds until then."""
        return max((run.steps[-1] for run in self.runs if run.task == task and not run.failed), default=0)

    def missing(self, method: str, task: str) -> int:
        """Runs that some method has on the task and this one lacks: failed, or not done yet."""
        seeds = {run.seed for run in self.runs if run.task == task}
        return len(seeds - {run.seed for run in self.finished(method, task)})

    def group(self, method: str, task: str) -> Group | None:
        """Final success rates of a method on a task; None if it has no run there."""
        runs = self.finished(method, task)
        # settings are alike, and so are the episodes
        return Group([run.final for run in runs], runs[0].episodes[-1]) if runs else None

    def groups(self, method: str) -> list[Group] | None:
        """Final success rates by task; None if a task has no run."""
        groups = [group for task in self.tasks if (group := self.group(method, task))]
        return groups if len(groups) == len(self.tasks) else None

    def spread(self, method: str) -> Spread:
        """The spread of a method between seeds, over the tasks on which it has runs."""
        return spread_over_seeds([group for task in self.tasks if (group := self.group(method, task))])


def method_name(algorithm: str, preset: str) -> str:
    """What a method is called in tables."""
    return algorithm if preset == "default" else f"{algorithm}:{preset}"


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of a results file those that belong together.

    These are, on each task, of the newest base policy, with that of the newest code version of each
    algorithm, and with that of the newest settings of each preset. Newest is what was started last.
    """
    rows = sorted(rows, key=lambda row: row.started)
    base = {row.task: row.base for row in rows}
    rows = [row for row in rows if row.base == base[row.task]]
    code = {(row.task, row.algorithm): row.code_version for row in rows}
    rows = [row for row in rows if row.code_version == code[row.task, row.algorithm]]
    settings = {(row.task, row.algorithm, row.preset): row.settings for row in rows}
    return [row for row in rows if row.settings == settings[row.task, row.algorithm, row.preset]]


def gather(rows: Iterable[Row]) -> Study:
    """Put rows together into runs, and check that these may stand in one table.

    Raises:
        OtprError: there is no row; an evaluation is there twice; a run does not start at step 0; runs on one
            task differ in their base policy or the step they end at, in the code version of one algorithm,
            or in the settings of one preset.
    """
    rows = list(rows)
    if not rows:
        raise OtprError("There are no results yet: run `otpr bench` first.")
    tasks = tuple(sorted({row.task for row in rows}))
    by_run: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        by_run.setdefault((method_name(row.algorithm, row.preset), row.task, row.seed), []).append(row)
    methods = tuple(sorted({method for method, _, _ in by_run}, key=_rank))
    runs = [_run(*key, sorted(group, key=lambda row: row.eval_at)) for key, group in by_run.items()]
    runs.sort(key=lambda run: (methods.index(run.method), tasks.index(run.task), run.seed))
    _check_alike(
        runs, lambda run: (run.row.algorithm, run.task), lambda run: run.row.code_version, "versions"
    )
    _check_alike(runs, lambda run: (run.method, run.task), lambda run: run.row.settings, "settings")
    _check_alike(runs, lambda run: (run.task,), lambda run: run.row.base, "base policies")
    trained = [run for run in runs if len(run.steps) > 1]  # imitation alone is one evaluation
    _check_alike(trained, lambda run: (run.task,), lambda run: f"{run.steps[-1]:,}", "final steps")
    suite = ", ".join(dict.fromkeys(row.suite for row in rows))
    return Study(suite, tasks, methods, tuple(runs))


def _rank(method: str) -> tuple[int, str]:
    algorithm, _, preset = method.partition(":")
    return (ORDER.index(algorithm) if algorithm in ORDER else len(ORDER), f"{algorithm}:{preset}")


def _run(method: str, task: str, seed: int, rows: Sequence[Row]) -> Run:
    what = f"{method} on {task}, seed {seed}"
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        return Run(method, task, seed, (), (), (), (), (), failed[-1].error, failed[-1])
    steps = tuple(row.eval_at for row in rows)
    if len(set(steps)) < len(steps):
        raise OtprError(f"The results hold an evaluation of {what} twice. Keep one of them.")
    if steps[0] != 0:
        raise OtprError(f"The results lack the evaluation of {what} at step 0; its first is at {steps[0]:,}.")
    return Run(
        method,
        task,
        seed,
        steps,
        tuple(row.success for row in rows if row.success is not None),  # it is None in failed rows only
        tuple(row.success_single for row in rows),
        tuple(row.episodes for row in rows),
        tuple(row.wall_seconds / 60 for row in rows),
        "",
        rows[-1],
    )


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
                "one table must not mix. Choose the rows of one, or finish the runs of the other."
            )
