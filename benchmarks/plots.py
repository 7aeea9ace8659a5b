"""`python -m benchmarks.plots`: the figures of tables of single runs, in docs.

keypoints.png, suites.png, pixels.png and compatibility.png show the raw summaries in results/, with Wilson's
interval of each evaluation; throughput.png shows results/scale/workers.json, and safeguard.png the
evaluations in results/safeguard. The figures of benchmarks are drawn by `make results`, those of shifts by
`python -m benchmarks.shifts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from benchmarks.safeguard import RESULTS as SAFEGUARD_RESULTS
from benchmarks.safeguard import evaluations
from benchmarks.slow_env import SECONDS
from otpr.storage import read_json
from otpr.training.intervals import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    ("base_success", "before", "#6B6B6B", "s"),
    ("final_success_single", "after, one sample", "#D55E00", "D"),
    ("final_success", "after, as deployed", "#0072B2", "o"),
)
"""What is drawn of a summary: its entry, words, colour and marker."""

CURVES = {
    ("local", "collecting"): ("workers, collecting", "#0072B2", "o-"),
    ("local", "async"): ("workers, learner meanwhile", "#0072B2", "s--"),
    ("local", "sync"): ("workers, learner after each round", "#0072B2", "D:"),
    ("ray", "collecting"): ("Ray's actors, collecting", "#D55E00", "o-"),
    ("ray", "async"): ("Ray's actors, learner meanwhile", "#D55E00", "s--"),
}
"""What is drawn of a row of throughput: words, colour and line by kind of workers and mode."""


def main() -> None:
    """Draw all."""
    docs = ROOT / "docs"
    runs = {
        "keypoints": keypoints(),
        "suites": suites(),
        "pixels": pixels(),
        "compatibility": compatibility(),
    }
    for name, some in runs.items():
        draw(some, docs / f"{name}.png")
    draw_throughput(throughput(), docs / "throughput.png")
    draw_safeguard(safeguarded(), docs / "safeguard.png")
    for file in [docs / f"{name}.png" for name in (*runs, "throughput", "safeguard")]:
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


def pixels() -> dict[str, Mapping[str, Any]]:
    """The runs from images, with 3 and 30 demonstrations, of docs/results.md, by task and seed."""
    files = sorted((ROOT / "results" / "pixels").glob("*-3*-seed*.json"))
    runs = [json.loads(file.read_text()) for file in files]
    return {f"{run['task'].partition('/')[2]}, seed {run['seed']}": run for run in runs}


def compatibility() -> dict[str, Mapping[str, Any]]:
    """The runs with and without compatibility, of docs/results.md, by seed."""
    folders = {"": "peg-insert-side/default-", ", without": "without-compatibility/"}
    return {
        f"seed {seed}{words}": read_json(ROOT / "results" / f"{folder}seed{seed}.json")
        for seed in range(3)
        for words, folder in folders.items()
    }


def safeguarded() -> list[dict[str, Any]]:
    """The runs of `python -m benchmarks.safeguard`."""
    return [read_json(file) for file in sorted(SAFEGUARD_RESULTS.glob("*.json"))]


def throughput() -> list[dict[str, Any]]:
    """The rows of `python -m benchmarks.scale`."""
    return json.loads((ROOT / "results" / "scale" / "workers.json").read_text())["rows"]


def draw_throughput(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Steps a second over the number of workers, beside what waiting alone would allow, as a PNG file.

    Args:
        rows: as `python -m benchmarks.scale` writes them.
        path: of the picture.
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    counts = sorted({row["workers"] for row in rows})
    axes.plot(counts, [count / SECONDS for count in counts], color="#6B6B6B", ls=":", label="decisions free")
    for (kind, mode), (words, colour, line) in CURVES.items():
        some = [row for row in rows if (row["kind"], row["mode"]) == (kind, mode)]
        places = [row["workers"] for row in some]
        axes.plot(places, [row["steps_per_second"] for row in some], line, color=colour, label=words, ms=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("workers")
    axes.set_ylabel("steps a second")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.savefig(path)


def draw_safeguard(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Success of what was deployed over steps, with and without the safeguard, a panel for each task, as PNG.

    Args:
        runs: as `python -m benchmarks.safeguard` keeps them.
        path: of the picture.
    """
    tasks = sorted({run["task"] for run in runs})
    figure = Figure(figsize=(3.0 * len(tasks), 3.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        mine = [run for run in runs if run["task"] == task]
        axes.axhline(np.mean([run["base"] for run in mine]), color="#6B6B6B", ls=":", label="pre-trained")
        for least, colour, words in ((0, "#D55E00", "without"), (1, "#0072B2", "with the safeguard")):
            some = [evaluations(run) for run in mine if bool(run["safeguard"]) == bool(least)]
            for i, curve in enumerate(some):
                axes.plot(*zip(*curve, strict=True), color=colour, lw=1.2, label="" if i else words)
        axes.set_title(task.partition("/")[2], fontsize=9)
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("success of 100 episodes")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path)


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
