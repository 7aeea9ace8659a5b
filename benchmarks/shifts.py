"""Experts under every shift, and the tables of what was measured: `python -m benchmarks.shifts`.

    python -m benchmarks.shifts                 measure the experts of the suite `shifts`, write the tables
    python -m benchmarks.shifts TASK ...        of these tasks
    python -m benchmarks.shifts --only-tables   of the rows that are there

Rows are kept in results/shifts/policies.parquet, with those that `otpr bench --suite shifts` measures of
policies. What is there is not measured again. The experts' table goes into docs/shifts.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from otpr_bench.markdown import markdown, update_page
from otpr_bench.shift_runs import measure_experts
from otpr_bench.shift_tables import expert_table, policy_table
from otpr_bench.shifts import EXPERT, read_shift_rows
from otpr_bench.suites import BENCH_SUITES, SHIFTED, BenchTask, Budget, Recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "shifts" / "policies.parquet"
PAGE = ROOT / "docs" / "shifts.md"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks with a scripted expert")
    parser.add_argument("--only-tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.only_tables:
        named = [BenchTask(task, Recipe(), Budget()) for task in options.tasks]
        measure_experts(named or BENCH_SUITES[SHIFTED], (1, 2, 3), RESULTS)
    rows = read_shift_rows(RESULTS)
    experts = expert_table(rows)
    update_page(PAGE, {"shifts:experts": f"{markdown(experts)}\n\n{experts.note}"})
    print(markdown(experts))
    for task in sorted({row.task for row in rows if row.algorithm != EXPERT}):
        for level in (1, 2, 3):
            print(f"\n{task}, level {level}\n\n{markdown(policy_table(rows, task, level))}")


if __name__ == "__main__":
    main()
