"""Fine-tuning in shifted environments: `python -m benchmarks.adaptation TASK`.

    python -m benchmarks.adaptation metaworld/peg-insert-side-v3 --algorithms otpr idql --seeds 0
    python -m benchmarks.adaptation metaworld/peg-insert-side-v3 --random      domain randomisation instead

Each run starts from the base policy of the suite `shifts`, and OTPR's also from the policy that
`otpr bench --suite shifts` has fine-tuned without a shift. It has 20,000 environment steps with the shift.
The final policy is then measured with the shift and without, as all policies in
results/shifts/policies.parquet are. The evaluations of the runs are kept in results/shifts/adaptation.json.
A run is made once.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import run_to_end
from benchmarks.shifts import RESULTS
from otpr.envs.shifts import Shift
from otpr.errors import OtprError
from otpr.policies.loading import load_policy
from otpr.storage import read_json, write_json
from otpr.training.run_directory import read_rows
from otpr_bench.bases import Base
from otpr_bench.execution import found_base
from otpr_bench.jobs import Job, make_jobs, parse_variants
from otpr_bench.records import is_finished
from otpr_bench.shift_runs import policy_cells
from otpr_bench.shifts import measure, read_shift_rows, solvable_shifts
from otpr_bench.snapshots import Place
from otpr_bench.suites import SHIFTED, named_suite

CURVES = RESULTS.with_name("adaptation.json")

ADAPTED = {
    "metaworld/peg-insert-side-v3": ("robot-start:3", "push:1", "action-noise:2", "gain:2", "latency:2"),
    "metaworld/assembly-v3": (
        "robot-start:3",
        "object-start:1",
        "action-noise:2",
        "latency:2",
        "sensor-noise:2",
    ),
}
"""Five shifts of each task, each at its hardest level that the expert can cope with (docs/shifts.md). They
were chosen by the expert's table, before any policy was measured."""

RANDOM = "random:2"
"""Domain randomisation: an episode has no shift or one that the task can have, up to level 2."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with a shift.

    Attributes:
        job: the run without it.
        shift: as of `--shift`.
        base: where it starts: the base, or one whose policy is the fine-tuned one.
        trained: its name, as in `ShiftRow`.
        directory: where it is.
    """

    job: Job
    shift: str
    base: Base
    trained: str
    directory: Path

    def make(self) -> None:
        """Run it, or go on with it, and keep its evaluations."""
        arguments = self.job.arguments(self.directory, self.base)
        arguments.remove("--no-base-evaluation")
        run_to_end([*arguments, "--shift", self.shift], self.directory)
        name = "eval/success_rate"
        kept: list[dict[str, Any]] = read_json(CURVES)["runs"] if CURVES.exists() else []
        mine = {
            "task": self.job.task.id,
            "algorithm": self.job.variant.algorithm,
            "seed": self.job.seed,
            "trained": self.trained,
        }
        rows = [[row["env_steps"], row[name]] for row in read_rows(self.directory) if name in row]
        others = [run for run in kept if any(run[key] != value for key, value in mine.items())]
        write_json(CURVES, {"runs": [*others, {**mine, "success": rows}]})

    def measure(self, shifts: Sequence[Shift]) -> None:
        """Measure the final policy as deployed, with these shifts and without one."""
        cells = policy_cells(self.job, load_policy(self.directory), shifts, self.trained)
        measure(cells, RESULTS, lambda text: print(text, flush=True))


def runs_of(
    task: str, algorithms: str, seeds: Sequence[int], shifts: Sequence[str], folder: Path
) -> Iterator[Run]:
    """The runs, seed by seed."""
    suite = named_suite(SHIFTED)
    suite = dataclasses.replace(suite, tasks=tuple(each for each in suite.tasks if each.id == task))
    place = Place(folder.resolve())
    for job in make_jobs(suite, parse_variants(algorithms), seeds):
        if (base := found_base(job.task, place)) is None:
            raise OtprError(f"{place.base(task)} is not there: `otpr bench --suite shifts` makes it.")
        budget = dataclasses.replace(job.task.budget, eval_every=5_000, eval_episodes=50)
        often = dataclasses.replace(job, task=dataclasses.replace(job.task, budget=budget))
        where = folder / "adaptation" / f"{task.partition('/')[2]}-{job.variant.algorithm}-seed{job.seed}"
        for shift in shifts:
            plain = shift.replace(":", "-")
            yield Run(often, shift, base, shift, where.with_name(f"{where.name}-{plain}"))
            nominal = job.directory(place.folder, base)
            if job.variant.algorithm == "otpr" and shift != RANDOM and is_finished(nominal):
                tuned = dataclasses.replace(base, policy=nominal)
                name = f"{shift} from fine-tuned"
                yield Run(often, shift, tuned, name, where.with_name(f"{where.name}-{plain}-from-fine-tuned"))


def main() -> None:
    """Make the runs, measure their policies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=ADAPTED)
    parser.add_argument("--algorithms", default="otpr", help="separated by commas")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--shifts", nargs="+", help="others than the five of the task")
    parser.add_argument("--random", action="store_true", help=f"train with {RANDOM} instead")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs", "bench", SHIFTED), help="of the benchmark"
    )
    options = parser.parse_args()
    shifts = (RANDOM,) if options.random else options.shifts or ADAPTED[options.task]
    for run in runs_of(options.task, options.algorithms, options.seeds, shifts, options.folder):
        run.make()
        if options.random:
            run.measure(solvable_shifts(read_shift_rows(RESULTS), options.task, (1, 2)))
        else:
            run.measure([Shift.parse(run.shift)])


if __name__ == "__main__":
    main()
