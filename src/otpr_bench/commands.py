"""`otpr bench`: algorithms on the tasks of a suite, seed by seed, as a queue that survives being stopped."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import rich

from otpr.errors import OtprError, check_at_least
from otpr_bench.jobs import make_jobs, parse_methods, parse_seeds
from otpr_bench.queue import Queue
from otpr_bench.results import load_pyarrow
from otpr_bench.suites import OPEN, Budget, Recipe, Suite, named_suite, open_suite
from otpr_bench.version import code_version


@dataclasses.dataclass(frozen=True)
class Bench:
    """Run algorithms on a suite of tasks, from the same demonstrations and base policies, with several seeds.

    A queue that may be stopped at any time: the same command goes on.
    """

    # smoke (2 tasks, minutes), arena-6 (6 tasks, hours), ablations (2 of these), or open (those of --tasks)
    suite: str = "smoke"
    # algorithms with commas between, each with a preset and changed fields of it where wanted:
    # otpr,otpr:paper,otpr:default:epsilon=0.1,fql
    algorithms: str = "otpr"
    # 0..4, both ends included, or 0,2,5
    seeds: str = "0..2"
    # runs side by side, each on one core
    workers: int = 1
    # stop after so many minutes; what is left is gone on with another time
    budget_minutes: float | None = None
    # where bases, runs and logs go; left out, runs/bench/SUITE
    out: Path | None = None
    # the table of results, Parquet; left out, results/bench/SUITE.parquet
    results: Path | None = None
    # say what there is to do and how long it will take, and do nothing
    dry_run: bool = False
    # begin runs that failed anew
    retry_failed: bool = False
    # of the suite `open`: its tasks
    tasks: tuple[str, ...] = ()
    # of the suite `open`: successful episodes of the scripted expert; left out, 10
    demonstrations: int | None = None
    # of the suite `open`: standard deviation of the noise on the expert's actions; left out, 0.5
    noise: float | None = None
    # of the suite `open`: actions in a chunk; left out, 4
    chunk_length: int | None = None
    # of the suite `open`: gradient steps of imitation; left out, 3000
    updates: int | None = None
    # of the suite `open`: environment steps of a run; left out, 50000
    env_steps: int | None = None
    # of the suite `open`: environment steps between evaluations; left out, a fifth of a run
    eval_every: int | None = None
    # of the suite `open`: episodes of an evaluation on the way; left out, 30
    eval_episodes: int | None = None
    # of the suite `open`: episodes of the last evaluation; left out, 100
    final_eval_episodes: int | None = None

    def run(self) -> None:
        """Say what there is to do; do it, unless only that was asked for."""
        check_at_least(1, self, "workers")
        if self.budget_minutes is not None:
            check_at_least(0, self, "budget_minutes")
        load_pyarrow()
        methods, seeds, suite = parse_methods(self.algorithms), parse_seeds(self.seeds), self._suite()
        results = self.results or Path("results", "bench", f"{suite.name}.parquet")
        queue = Queue(
            make_jobs(suite, methods, seeds, code_version),
            folder=self.out or Path("runs", "bench", suite.name),
            results=results,
            version=code_version,
            workers=self.workers,
            budget=None if self.budget_minutes is None else 60 * self.budget_minutes,
            retry_failed=self.retry_failed,
        )
        plan = queue.plan()
        rich.print(plan.table())
        print(plan.forecast())
        if self.dry_run:
            return
        complete = queue.run()
        failed = queue.failures()
        print(f"Results: {results}")
        if failed:
            print(f"{len(failed)} runs failed; --retry-failed begins them anew:")
            for row in failed:
                print(f"  {row.algorithm}:{row.preset} on {row.task}, seed {row.seed}: {row.error}")
        if not complete:
            print(f"Not all is done. Go on with:\n  {shlex.join(['otpr', *sys.argv[1:]])}")

    def _suite(self) -> Suite:
        own = {
            field.name: value
            for settings in (Recipe, Budget)
            for field in dataclasses.fields(settings)
            if (value := getattr(self, field.name, None)) is not None
        }
        if self.suite != OPEN:
            if own or self.tasks:
                name = next(iter(own), "tasks").replace("_", "-")
                raise OtprError(
                    f"--{name} belongs to the suite `{OPEN}`: what is fixed in a suite makes it comparable. "
                    f"Leave it out, or use --suite {OPEN} --tasks ..."
                )
            return named_suite(self.suite)
        if "env_steps" in own:
            own.setdefault("eval_every", max(1, own["env_steps"] // 5))
        names = {field.name for field in dataclasses.fields(Recipe)}
        return open_suite(
            self.tasks,
            Recipe(**{name: value for name, value in own.items() if name in names}),
            Budget(**{name: value for name, value in own.items() if name not in names}),
        )
