"""`otpr bench`: algorithms on the tasks of a suite, seed by seed, on one machine or many."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import rich
import tyro

from otpr.cluster import check_ray, connected
from otpr.envs.chunked import available_cores
from otpr.envs.shifts import LEVELS
from otpr.errors import OtprError, check_at_least
from otpr.storage import check_writable
from otpr_bench.jobs import make_jobs, parse_seeds, parse_variants
from otpr_bench.plan import Plan
from otpr_bench.queue import Queue
from otpr_bench.results import load_pyarrow
from otpr_bench.shift_runs import measure_runs
from otpr_bench.suites import OPEN, SHIFTED, BenchSuite, Budget, Recipe, named_suite, open_suite


@dataclasses.dataclass(frozen=True)
class Bench:
    """Run algorithms on a suite of tasks, from the same demonstrations and base policies, with several seeds.

    It needs Ray, pip install 'otpr[cluster]', and may be stopped at any time; the same command continues.
    """

    # smoke (2 tasks, minutes), arena-6 (6 tasks, hours), ablations (2 of these), shifts (3 of these, and then
    # their policies under every shift, see --shift-results), hard (Franka Kitchen), libero (tasks of
    # LIBERO-Long, in LIBERO's own environment) or open (those of --tasks)
    suite: str = "smoke"
    # algorithms separated by commas, each with a preset and changed fields of it if wanted:
    # otpr,otpr:paper,otpr:default:epsilon=0.1,fql
    algorithms: str = "otpr"
    # 0..4, both ends included, or 0,2,5
    seeds: str = "0..2"
    # where runs take place: local starts Ray on this machine; auto is the Ray cluster that it is part of;
    # ray://HOST:PORT or HOST:PORT another one (docs/scale.md)
    address: str = "local"
    # processor cores of a run; as many run side by side as there are cores for
    cpus_per_run: float = 1.0
    # GPUs of a run, a part of one if below 1
    gpus_per_run: float = 0.0
    # where machines that share no folder keep bases and runs: a folder, or a URI such as s3://BUCKET/PATH
    storage: str | None = None
    # stop after this many minutes; the same command continues
    budget_minutes: float | None = None
    # where bases, runs and logs go; by default runs/bench/SUITE
    out: Path | None = None
    # the table of results, Parquet; by default results/bench/SUITE.parquet
    results: Path | None = None
    # of the suite `shifts`: the table of success under shifts, Parquet
    shift_results: Path = Path("results", "shifts", "policies.parquet")
    # of the suite `shifts`: the levels that are measured
    levels: tuple[int, ...] = LEVELS
    # say what there is to do and how long it will take, and do nothing
    dry_run: bool = False
    # begin runs that failed anew
    retry_failed: bool = False
    # the tasks of the suite `open`, which takes the following options as well
    tasks: tuple[str, ...] = ()
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Recipe)
    budget: Annotated[Budget, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Budget)

    def run(self) -> None:
        """Print the plan, and carry it out unless `dry_run` is set."""
        check_at_least(0.01, self, "cpus_per_run")
        check_at_least(0, self, "gpus_per_run")
        if self.budget_minutes is not None:
            check_at_least(0, self, "budget_minutes")
        load_pyarrow()
        variants, seeds, suite = parse_variants(self.algorithms), parse_seeds(self.seeds), self._suite()
        results = self.results or Path("results", "bench", f"{suite.name}.parquet")
        folder = self.out or Path("runs", "bench", suite.name)
        queue = Queue(
            make_jobs(suite, variants, seeds),
            folder=folder,
            results=results,
            storage=self.storage,
            cpus=self.cpus_per_run,
            gpus=self.gpus_per_run,
            budget=math.inf if self.budget_minutes is None else 60 * self.budget_minutes,
            retry_failed=self.retry_failed,
        )
        if self.dry_run:
            here = available_cores() / self.cpus_per_run if self.address == "local" else 1
            queue.side_by_side = max(1, int(here))
            _show(queue.plan())
            return
        check_ray()
        check_writable(folder / "lock", "--out")
        check_writable(results, "--results")
        with connected(self.address) as ray:
            queue.side_by_side = max(1, int(self._side_by_side(ray)))
            _show(queue.plan())
            complete = queue.run(ray)
            if complete and suite.name == SHIFTED:
                of_all = functools.partial(queue.cells, ray)
                complete = measure_runs(queue.finished(), self.levels, self.shift_results, of_all)
        self._conclude(queue, complete, suite, results)

    def _side_by_side(self, ray: Any) -> float:
        """The number of parallel runs on the cluster."""
        there = ray.cluster_resources()
        by_cpus = there.get("CPU", 0) / self.cpus_per_run
        return min(by_cpus, there.get("GPU", 0) / self.gpus_per_run) if self.gpus_per_run else by_cpus

    def _conclude(self, queue: Queue, complete: bool, suite: BenchSuite, results: Path) -> None:
        """Print the results."""
        failed = queue.failures()
        print(f"Results: {results}")
        if failed:
            print(f"{len(failed)} runs failed; --retry-failed begins them anew:")
            for row in failed:
                print(f"  {row.algorithm}:{row.preset} on {row.task}, seed {row.seed}: {row.error}")
        if not complete:
            print(f"Something is left to do. Continue with:\n  {shlex.join(['otpr', *sys.argv[1:]])}")

    def _suite(self) -> BenchSuite:
        if self.suite == OPEN:
            return open_suite(self.tasks, self.recipe, self.budget)
        given = ["tasks"] if self.tasks else []
        for settings in (self.recipe, self.budget):
            usual = dataclasses.asdict(type(settings)())
            given += [name for name, value in dataclasses.asdict(settings).items() if value != usual[name]]
        if given:
            name = given[0].replace("_", "-")
            raise OtprError(
                f"--{name} belongs to the suite `{OPEN}`, because the fixed suites stay comparable. Leave it "
                f"out, or use --suite {OPEN} --tasks ..."
            )
        return named_suite(self.suite)


def _show(plan: Plan) -> None:
    rich.print(plan.table())
    print(plan.forecast())
