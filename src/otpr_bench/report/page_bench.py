"""The page of many runs: where ours loses, curves of every task, tables, profiles, what failed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr_bench.comparisons import where_ours_loses
from otpr_bench.figures import (
    curve,
    interquartile_means,
    learning_curves,
    over_time,
    profiles,
    success_over_time,
    whole,
)
from otpr_bench.report.charts import Chart, look, svg, table
from otpr_bench.report.page import render
from otpr_bench.report.style import styles
from otpr_bench.results import Row, read_results
from otpr_bench.study import OURS, Study, gather, newest
from otpr_bench.tables import (
    Table,
    aggregate_table,
    choice_table,
    failure_table,
    improvement_table,
    success_table,
)

_SIZE = (5.0, 3.4)
"""Inches of a chart."""

_LEVELS = tuple(number / 10 for number in range(10))
"""Thresholds of the performance profiles' table."""


def find_results(path: Path) -> tuple[Path, Path | None]:
    """The results file that `otpr report` is asked for, and the bench directory if it was given one.

    A bench directory keeps runs; its results are a Parquet file in it, or, as `otpr bench` writes them, in
    `results/bench/` under the name of the directory.

    Raises:
        OtprError: there is no such file, or several.
    """
    if path.is_file():
        return path, None
    beside = Path("results", "bench", f"{path.resolve().name}.parquet")
    found = sorted(path.glob("*.parquet")) or [file for file in (beside,) if file.is_file()]
    if len(found) == 1:
        return found[0], path
    raise OtprError(
        f"{path} is no run directory (it has no config.json), and as a bench directory it has "
        f"{len(found) or 'no'} Parquet files, {beside} counted. Name the results file itself."
    )


def bench_page(results: Path, directory: Path | None, out: Path) -> str:
    """The report of a results file as HTML.

    Args:
        results: the Parquet file.
        directory: where the runs are kept, for their films; None where that is not known.
        out: where the page will be, for links to the films.

    Raises:
        OtprError: the file cannot be read, or its newest runs do not compare.
    """
    rows = read_results(results)
    kept = newest(rows)
    study = gather(kept)
    looks = styles(study.methods)
    everywhere = whole(study)
    return render(
        "bench.html",
        title=f"{study.suite}: {len(study.methods)} methods on {len(study.tasks)} tasks",
        ours=OURS,
        numbers=_summary(study, kept),
        left_out=len(rows) - len(kept),
        losses=where_ours_loses(study),
        key_of_methods=[look(study.labels[method], looks[method], "curves") for method in study.methods],
        curves=dict(_curves(study)),
        success=success_table(study),
        choices=choice_table(study),
        key_of_whole=[look(study.labels[method], looks[method], "all tasks") for method in everywhere],
        everywhere=list(_over_all_tasks(study)) if everywhere else [],
        elsewhere=[method for method in study.methods if method not in everywhere],
        aggregates=aggregate_table(study),
        improvements=improvement_table(study),
        failures=failure_table(study),
        films=dict(_films(directory, out)),
        machines=sorted({run.row.machine for run in study.runs}),
        provenance=_provenance(study),
        source=results.name,
    )


def _summary(study: Study, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    finished = [run for run in study.runs if not run.failed]
    missing = sum(study.missing(method, task) for method in study.methods for task in study.tasks)
    hours = sum(run.minutes[-1] for run in finished) / 60
    episodes = sum(row.episodes for row in rows if row.success is not None)
    return [
        ("finished runs", str(len(finished)), f"{hours:.1f} hours in all"),
        ("failed runs", str(len(study.failures)), "shown as failed, never as zero"),
        ("missing runs", str(missing), "failed, or other methods have them"),
        ("evaluated episodes", f"{episodes:,}", "of all evaluations"),
    ]


def _curves(study: Study) -> Iterator[tuple[str, Chart | None]]:
    """The chart of each task; None where no run on it is finished."""
    for task in study.tasks:
        cells: dict[str, dict[float, str]] = {}
        for method in study.methods:
            if found := curve(study, method, task):
                cells[study.labels[method]] = {
                    step: _of_seeds(rates) for step, rates in zip(found[0], found[1].T, strict=True)
                }
        figure = learning_curves(dataclasses.replace(study, tasks=(task,)))
        picture = svg(figure, f"task {task}", size=_SIZE, label=f"Learning curves of {task}")
        yield task, Chart(task, picture, table("environment steps", cells)) if cells else None


def _of_seeds(rates: NDArray[np.float64]) -> str:
    seeds = f" ({', '.join(f'{rate:.0%}' for rate in rates)})" if len(rates) > 1 else ""
    return f"{rates.mean():.1%}{seeds}"


def _over_all_tasks(study: Study) -> Iterator[Chart]:
    methods = whole(study)
    means = interquartile_means(study)
    size = (_SIZE[0], means.get_figheight())
    note = "of final success over tasks and seeds, with 95% intervals"
    means.axes[0].set_xlabel("")
    means.axes[0].set_xticks([0, 0.5, 1])  # beside long names there is no room for more
    yield Chart("Interquartile mean", svg(means, "interquartile", size=size, label=note), note=note)

    note = f"share of runs that end above a threshold of success; {OURS} with a 95% band"
    cells: dict[str, dict[float, str]] = {}
    for method in methods:
        ends = [[run.final for run in study.finished(method, task)] for task in study.tasks]
        cells[study.labels[method]] = {
            level: f"{fmean(fmean(end > level for end in of_task) for of_task in ends):.1%}"
            for level in _LEVELS
        }
    picture = svg(profiles(study), "profiles", size=_SIZE, label=note)
    yield Chart("Performance profiles", picture, table("threshold", cells, "{:.0%}"), note)

    note = "mean success over tasks and seeds at equal shares of a run"
    for method in methods:
        minutes, success = over_time(study, method)
        shares = np.linspace(0, 1, len(minutes)).tolist()
        read = [f"{at:.1f} min: {rate:.1%}" for at, rate in zip(minutes, success, strict=True)]
        cells[study.labels[method]] = dict(zip(shares, read, strict=True))
    picture = svg(success_over_time(study), "time", size=_SIZE, label=note)
    yield Chart("Success over time", picture, table("share of the run", cells, "{:.0%}"), note)


def _films(directory: Path | None, out: Path) -> Iterator[tuple[str, str]]:
    """Names of the films of runs, with links by way of the folder the page is in."""
    for film in sorted(directory.glob("runs/*/*/*/videos/*.mp4")) if directory else []:
        where = quote(os.path.relpath(film.resolve(), out.resolve().parent))
        yield " ".join(film.parts[-5:-2]) + f" {film.stem}", where


def _provenance(study: Study) -> Table:
    rows: dict[tuple[str, ...], list[Row]] = {}
    for run in study.runs:
        row = run.row
        rows.setdefault((run.method, run.task, row.result_version, row.settings, row.base), []).append(row)
    lines = [
        (*key, f"{len(alike)}, from {min(row.started for row in alike)[:10]}") for key, alike in rows.items()
    ]
    return Table(("method", "task", "result version", "settings", "base policy", "runs"), tuple(lines))
