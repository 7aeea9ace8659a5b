"""Experts under every shift, and the tables of what was measured: `python -m benchmarks.shifts`.

    python -m benchmarks.shifts                 measure the experts of the suite `shifts`, write the tables
    python -m benchmarks.shifts TASK ...        of these tasks
    python -m benchmarks.shifts --only-tables   of the rows that are there

Rows are kept in results/shifts/policies.parquet, with those that `otpr bench --suite shifts` and
`python -m benchmarks.adaptation` measure of policies. What is there is not measured again. The experts'
table goes into docs/shifts.md with its heat map, docs/shifts.png; the tables of policies go into
docs/robustness.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from otpr.envs.shifts import LEVELS, SHIFTS
from otpr_bench.markdown import markdown, update_page
from otpr_bench.shift_runs import measure_experts
from otpr_bench.shift_tables import (
    adaptation_table,
    cell_table,
    expert_table,
    knowledge_table,
    policy_table,
)
from otpr_bench.shifts import EXPERT, ShiftRow, read_shift_rows, solvable
from otpr_bench.suites import BENCH_SUITES, SHIFTED, BenchTask, Budget, Recipe
from otpr_bench.tables import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "shifts" / "policies.parquet"
PAGE = ROOT / "docs" / "shifts.md"
RESULTS_PAGE = ROOT / "docs" / "robustness.md"
PICTURE = ROOT / "docs" / "shifts.png"


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
    draw_experts(rows, PICTURE)
    print(markdown(experts))
    texts = {f"shifts:{name}": text for name, text in tables_of_policies(rows).items()}
    update_page(RESULTS_PAGE, texts)
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")


def tables_of_policies(rows: Sequence[ShiftRow]) -> dict[str, str]:
    """The Markdown of the tables of docs/robustness.md by name, such as `peg-insert-side-v3:level-2`."""
    found: dict[str, Table] = {}
    for task in sorted({row.task for row in rows if row.algorithm != EXPERT}):
        short = task.partition("/")[2]
        found |= {f"{short}:level-{level}": policy_table(rows, task, level) for level in (1, 2)}
        found[f"{short}:cells"] = cell_table(rows, task)
        found[f"{short}:knowledge"] = knowledge_table(rows, task)
        found[f"{short}:adaptation"] = adaptation_table(rows, task)
    return {name: f"{markdown(table)}\n\n{table.note}" for name, table in found.items() if table.rows}


def draw_experts(rows: Sequence[ShiftRow], path: Path) -> None:
    """Success of the experts as a PNG: a panel for each task, with shifts in rows and levels in columns.

    A cell that does not count as solvable has an asterisk, as in the table. Cells that were not measured are
    blank.

    Args:
        rows: the measured cells; those of policies are ignored.
        path: the picture's path.
    """
    experts = {(row.task, row.shift, row.level): row for row in rows if row.algorithm == EXPERT}
    tasks = sorted({task for task, _, _ in experts})
    names = [name for name in SHIFTS if any(name == shift for _, shift, _ in experts)]
    left = solvable(rows)
    figure = Figure(figsize=(1.9 + 1.9 * len(tasks), 0.9 + 0.3 * len(names)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    colours = ScalarMappable(Normalize(0.0, 1.0), "cividis")
    for axes, task in zip(panels, tasks, strict=True):
        found = [[experts.get((task, name, level)) for level in LEVELS] for name in names]
        success = [[float("nan") if row is None else row.success for row in line] for line in found]
        axes.imshow(success, cmap=colours.cmap, norm=colours.norm, aspect="auto")
        for height, line in enumerate(found):
            for place, row in enumerate(line):
                if row is not None:
                    mark = "" if (task, row.shift, row.level) in left else "*"
                    colour = "black" if row.success > 0.5 else "white"
                    text = f"{row.success:.0%}{mark}"
                    axes.text(place, height, text, color=colour, ha="center", va="center", fontsize=7)
        nominal = experts[task, "", 0].success
        axes.set_title(f"{task.partition('/')[2]}\nnominal {nominal:.0%}", fontsize=9)
        axes.set_xticks(range(len(LEVELS)), [str(level) for level in LEVELS])
        axes.set_xlabel("level", fontsize=8)
        axes.tick_params(length=0, labelsize=8)
    panels[0].set_yticks(range(len(names)), names)
    bar = figure.colorbar(colours, ax=list(panels), format=PercentFormatter(1.0), pad=0.02)
    bar.set_label("success of the expert", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    canvas.draw()
    # a palette takes a third of the bytes
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
