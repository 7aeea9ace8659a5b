"""The report of many runs: where OTPR loses, curves of every task, tables, and failures."""

from __future__ import annotations

from pathlib import Path

from otpr.errors import OtprError
from otpr_bench import tables
from otpr_bench.figures import interquartile_means, learning_curves, whole
from otpr_bench.plots import Chart, chart, svg
from otpr_bench.report.page import render
from otpr_bench.results import Row, read_results
from otpr_bench.study import OURS, Study, gather, newest


def find_results(path: Path) -> Path:
    """The results file for `otpr report`: the given file, or that of a benchmark directory.

    In a directory it is a Parquet file, or the one that `otpr bench` wrote under its name.

    Raises:
        OtprError: there is no such file, or several.
    """
    if path.is_file():
        return path
    beside = Path("results", "bench", f"{path.resolve().name}.parquet")
    found = sorted(path.glob("*.parquet")) or [file for file in (beside,) if file.is_file()]
    if len(found) == 1:
        return found[0]
    raise OtprError(
        f"{path} is no run directory (it has no config.json), and as a bench directory it has "
        f"{len(found) or 'no'} Parquet files, {beside} counted. Name the results file itself."
    )


def bench_page(results: Path) -> str:
    """The report of a results file as HTML.

    Raises:
        OtprError: the file cannot be read, or its newest runs are not comparable.
    """
    rows = read_results(results)
    kept = newest(rows)
    study = gather(kept)
    curves, everywhere = learning_curves(study), whole(study)
    drawn = {plot.title for plot in curves}
    return render(
        "bench.html",
        title=f"{study.suite}: {len(study.methods)} methods on {len(study.tasks)} tasks",
        ours=OURS,
        left_out=len(rows) - len(kept),
        losses=tables.where_ours_loses(study),
        curves=[chart(plot, f"task {plot.title}") for plot in curves],
        unfinished=[task for task in study.tasks if task not in drawn],
        success=tables.success_table(study),
        choices=tables.choice_table(study),
        returns=tables.return_table(study),
        means=_means(study) if everywhere else None,
        elsewhere=[method for method in study.methods if method not in everywhere],
        aggregates=tables.aggregate_table(study),
        improvements=tables.improvement_table(study),
        failures=tables.failure_table(study),
        machines=sorted({run.row.machine for run in study.runs}),
        provenance=_provenance(study),
        source=results.name,
    )


def _means(study: Study) -> Chart:
    note = "of final success over tasks and seeds, with 95% intervals"
    return Chart("Interquartile mean", note, svg(interquartile_means(study), "interquartile"))


def _provenance(study: Study) -> tables.Table:
    rows: dict[tuple[str, ...], list[Row]] = {}
    for run in study.runs:
        row = run.row
        rows.setdefault((run.method, run.task, row.result_version, row.settings, row.base), []).append(row)
    lines = [
        (*key, f"{len(alike)}, from {min(row.started for row in alike)[:10]}") for key, alike in rows.items()
    ]
    return tables.Table(("method", "task", "result version", "settings", "base policy", "runs"), tuple(lines))
