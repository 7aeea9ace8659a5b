"""`python -m benchmarks.plots`: docs/keypoints.png and docs/suites.png, of tables of single runs.

They show the raw summaries in results/, with Wilson's interval of each evaluation. The figures of benchmarks
are drawn by `make results`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from otpr.training.intervals import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    ("base_success", "before", "#6B6B6B", "s"),
    ("final_success_single", "after, one sample", "#D55E00", "D"),
    ("final_success", "after, as deployed", "#0072B2", "o"),
)
"""What is drawn of a summary: its entry, words, colour and marker."""


def main() -> None:
    """Draw both."""
    for name, runs in {"keypoints": keypoints(), "suites": suites()}.items():
        file = ROOT / "docs" / f"{name}.png"
        draw(runs, file)
        print(f"{file.relative_to(ROOT)} ({file.stat().st_size / 1000:.0f} kB)")


def keypoints() -> dict[str, Mapping[str, Any]]:
    """The runs of seed 0 of docs/keypoints.md."""
    files = sorted((ROOT / "results" / "keypoints").glob("*.json"))
    runs = {file.stem: json.loads(file.read_text()) for file in files if "-seed" not in file.stem}
    return {"no mask": runs.pop("no-mask"), **runs}


def suites() -> dict[str, Mapping[str, Any]]:
    """The runs of one task of each of several simulators, of docs/results.md."""
    runs = [json.loads(file.read_text()) for file in sorted((ROOT / "results" / "suites").glob("*.json"))]
    return {run["task"]: run for run in runs}


def draw(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A row for each run, with success before and after, as a PNG file.

    Args:
        runs: summaries of runs by their labels.
        path: of the picture.
    """
    figure = Figure(figsize=(7.0, 0.6 + 0.55 * len(runs)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels: Sequence[str] = list(runs)
    for place, (entry, words, colour, marker) in enumerate(SHOWN):
        rates = [float(run[entry]) for run in runs.values()]
        ends = [
            wilson_interval(round(rate * run["eval_episodes"]), run["eval_episodes"])
            for rate, run in zip(rates, runs.values(), strict=True)
        ]
        below = [rate - low for rate, (low, _) in zip(rates, ends, strict=True)]
        above = [high - rate for rate, (_, high) in zip(rates, ends, strict=True)]
        heights = [row + 0.22 * (place - 1) for row in range(len(labels))]
        axes.errorbar(
            rates,
            heights,
            xerr=[below, above],
            fmt=marker,
            color=colour,
            label=words,
            capsize=2,
            markersize=5,
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("success of 100 held-out episodes, 95% interval")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
