"""Experts under every shift, and the tables of what was measured: `python -m benchmarks.shifts`.

    python -m benchmarks.shifts                 measure the experts of the suite `shifts`, write the tables
    python -m benchmarks.shifts TASK ...        of these tasks
    python -m benchmarks.shifts --only-tables   of the rows that are there

Rows are kept in results/shifts/policies.parquet, with those that `otpr bench --suite shifts` and
`python -m benchmarks.adaptation` measure of policies. What is there is not measured again. The experts'
table goes into docs/shifts.md with its heat map, docs/shifts.png; the tables of policies go into
docs/robustness.md with theirs, docs/robustness.png.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
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
    mean_success,
    policies_of,
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
RESULTS_PICTURE = ROOT / "docs" / "robustness.png"


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
    if texts:
        draw_policies(rows, RESULTS_PICTURE)
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
    _finish(canvas, bar, "success of the expert", path)


def draw_policies(rows: Sequence[ShiftRow], path: Path) -> None:
    """What each nominally trained policy keeps of its success, as a PNG: a panel for each task.

    Shifts and levels are in rows, as far as the expert can cope with them, and policies in columns. The
    colour is the success under the shift over the nominal one, as means over seeds. Cells that were not
    measured are blank.

    Args:
        rows: the measured cells of experts and policies.
        path: the picture's path.
    """
    nominally = [row for row in rows if row.algorithm != EXPERT and not row.trained]
    left = solvable(rows)
    policies = {
        task: {name: mean_success(mine) for name, mine in policies_of(nominally, task).items()}
        for task in sorted({row.task for row in nominally})
    }
    keys = {
        task: [
            (name, level)
            for name in SHIFTS
            for level in LEVELS
            if (task, name, level) in left and any((name, level) in of for of in found.values())
        ]
        for task, found in policies.items()
    }
    heights = [1.2 + 0.25 * len(keys[task]) for task in policies]
    width = max(len(found) for found in policies.values())
    figure = Figure(figsize=(2.4 + 0.95 * width, sum(heights)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(policies), 1, squeeze=False, height_ratios=heights)[:, 0]
    colours = ScalarMappable(Normalize(0.0, 1.0), "cividis")
    for axes, (task, found) in zip(panels, policies.items(), strict=True):
        kept = [[of.get(key, np.nan) / (of["", 0] or np.nan) for of in found.values()] for key in keys[task]]
        axes.imshow(kept, cmap=colours.cmap, norm=colours.norm, aspect="auto")
        for height, key in enumerate(keys[task]):
            for place, of in enumerate(found.values()):
                if key in of:
                    colour = "white" if kept[height][place] < 0.5 else "black"
                    axes.text(
                        place, height, f"{of[key]:.0%}", color=colour, ha="center", va="center", fontsize=7
                    )
        axes.set_title(task.partition("/")[2], fontsize=9)
        words = [f"{textwrap.fill(name, 14)}\nnominal {of['', 0]:.0%}" for name, of in found.items()]
        axes.set_xticks(range(len(words)), words)
        axes.set_yticks(range(len(keys[task])), [f"{name}:{level}" for name, level in keys[task]])
        axes.tick_params(length=0, labelsize=7)
    bar = figure.colorbar(colours, ax=list(panels), format=PercentFormatter(1.0), pad=0.02)
    _finish(canvas, bar, "share of the nominal success", path)


def _finish(canvas: FigureCanvasAgg, bar: Colorbar, label: str, path: Path) -> None:
    """Label the scale of colours, and write the picture."""
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    canvas.draw()
    # a palette takes a third of the bytes
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
