"""Tables of a study, as text."""

from __future__ import annotations

import dataclasses
import math
from statistics import fmean

from otpr_bench.aggregates import (
    area_under_curve,
    interquartile_difference,
    interquartile_mean,
    probability_of_improvement,
    steps_to,
    task_mean,
    time_to_reach,
)
from otpr_bench.spread import Estimate, success
from otpr_bench.study import OURS, Study

THRESHOLDS = (0.5, 0.75, 0.9)
"""Success rates for which the steps until a run reaches them are counted."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows under a header, all of equal length, and a note on how to read them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def success_table(study: Study) -> Table:
    """Final success by method and task: mean over seeds, 95% interval, seeds, missing runs."""
    rows = [
        (method, *(_success_cell(study, method, task) for task in study.tasks)) for method in study.methods
    ]
    note = (
        "Success of the last evaluation, at the fixed end of a run: mean over seeds [95% interval] (seeds). "
        "The interval includes the spread between seeds, estimated from all tasks of the method together, "
        "and is never narrower than Wilson's interval of one evaluation."
    )
    return Table(("method", *study.tasks), tuple(rows), note)


def choice_table(study: Study) -> Table:
    """What one sample of each method achieves at the end, and what choosing among several adds to it."""
    rows = [
        (method, *(_choice_cell(study, method, task) for task in study.tasks))
        for method in study.methods
        # a method that deploys one sample is evaluated once, so both numbers are the same
        if any(
            run.row.success_single not in (None, run.final)
            for task in study.tasks
            for run in study.finished(method, task)
        )
    ]
    note = (
        "Success of one sample of the policy at the end, without a choice among candidates: mean over seeds. "
        "The brackets give what the choice adds, in percentage points. Methods that deploy one sample are "
        "left out."
    )
    return Table(("method", *study.tasks), tuple(rows), note)


def aggregate_table(study: Study) -> Table:
    """Over all tasks: interquartile mean, area under the curve, steps to each threshold, minutes, runs."""
    header = ("method", "interquartile mean", "area under curve", *(f"steps to {t:.0%}" for t in THRESHOLDS))
    rows = [_aggregate_row(study, method) for method in study.methods]
    note = (
        "Interquartile mean of final success, and area under the curve of success over steps, with [95% "
        "intervals]; tasks weigh alike. Steps by which half of the runs had an evaluation at or above a "
        "rate, and how many of the runs ever had one; - where fewer than half did. Minutes are wall-clock "
        "time: the mean over tasks of the mean over runs. Missing runs failed or are not done. A method "
        "without a finished run on some task has no aggregate, and there is no interval where the spread "
        "between seeds is unknown."
    )
    machines = sorted({run.row.machine for run in study.runs})
    if len(machines) > 1:
        note += f" The minutes were measured on several machines ({'; '.join(machines)}) and do not compare."
    mixed = [
        task
        for task in study.tasks
        if len({run.row.packages for run in study.runs if run.task == task} - {""}) > 1
    ]
    if mixed:
        note += f" The versions of packages differ between the runs on {', '.join(mixed)}."
    return Table((*header, "minutes", "runs", "missing"), tuple(rows), note)


def improvement_table(study: Study) -> Table:
    """How our method compares with each other one over all tasks."""
    header = ("method", f"P({OURS} ends above it)", f"interquartile mean: {OURS} minus it", "missing runs")
    ours = study.rates_by_task(OURS)
    rows: list[tuple[str, ...]] = []
    for method in study.others:
        theirs = study.rates_by_task(method)
        missing = sum(study.missing(name, task) for name in (OURS, method) for task in study.tasks)
        cells = ("-", "-")
        if ours and theirs:
            gap = interquartile_difference(ours, theirs)
            cells = (_number(probability_of_improvement(ours, theirs)), points(gap, signed=True))
        rows.append((method, *cells, str(missing)))
    note = (
        f"Probability that a run of {OURS} on a random task ends with higher success than a run of the "
        "method, a tie counting one half [95% bootstrap interval], and the difference of the interquartile "
        "means in percentage points. Missing runs of either method are left out."
    )
    return Table(header, tuple(rows), note)


def failure_table(study: Study) -> Table:
    """The runs that failed and why."""
    rows = tuple((run.method, run.task, str(run.seed), run.row.error or "unknown") for run in study.failures)
    note = "Every table counts them as missing, not as runs with success 0."
    return Table(("method", "task", "seed", "error"), rows, note)


def percent(estimate: Estimate) -> str:
    """A rate and its interval, as in `73% [44, 93]`."""
    interval = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return f"{estimate.value:.0%}{interval}"


def points(estimate: Estimate, *, signed: bool) -> str:
    """A difference in percentage points and its interval, as in `+7 [-2, +15]` if signed."""
    value, low, high = estimate
    shown = _whole(value, signed)
    return shown if math.isnan(low) else f"{shown} [{_whole(low, signed)}, {_whole(high, signed)}]"


def _whole(share: float, signed: bool) -> str:
    rounded = round(100 * share) or 0  # no "-0"
    return f"{rounded:+d}" if signed and rounded else str(rounded)


def _number(estimate: Estimate) -> str:
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"


def _success_cell(study: Study, method: str, task: str) -> str:
    rates = study.rates(method, task)
    failed = sum((run.method, run.task) == (method, task) for run in study.failures)
    undone = study.missing(method, task) - failed
    gaps = [f"{failed} failed"] * bool(failed) + [f"{undone} not done"] * bool(undone)
    if rates is None:
        return ", ".join(gaps)
    return f"{percent(success(rates, study.spread(method)))} ({', '.join([str(len(rates.rates)), *gaps])})"


def _choice_cell(study: Study, method: str, task: str) -> str:
    runs = study.finished(method, task)
    pairs = [(one, run.final) for run in runs if (one := run.row.success_single) is not None]
    if not pairs:
        return ""
    single, final = map(fmean, zip(*pairs, strict=True))
    return f"{single:.0%} ({_whole(final - single, signed=True)})"


def _aggregate_row(study: Study, method: str) -> tuple[str, ...]:
    by_task = [study.finished(method, task) for task in study.tasks]
    runs = [run for task in by_task for run in task]
    counts = (str(len(runs)), str(sum(study.missing(method, task) for task in study.tasks)))
    rates = study.rates_by_task(method)
    if rates is None:
        return (method, *["-"] * (3 + len(THRESHOLDS)), *counts)
    area = task_mean([[area_under_curve(run.steps, run.success) for run in task] for task in by_task])
    waits: list[str] = []
    for threshold in THRESHOLDS:
        half, arrived = time_to_reach([steps_to(run.steps, run.success, threshold) for run in runs])
        waits.append(f"{'-' if half is None else f'{half:,}'} ({arrived} of {len(runs)})")
    minutes = fmean(fmean(run.minutes[-1] for run in task) for task in by_task)
    return (method, percent(interquartile_mean(rates)), _number(area), *waits, f"{minutes:.1f}", *counts)
