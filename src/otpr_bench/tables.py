"""Tables of a study, as text."""

from __future__ import annotations

import dataclasses
import math
from statistics import fmean

from otpr_bench.spread import Estimate, success
from otpr_bench.statistics import (
    Reached,
    area_under_curve,
    interquartile_difference,
    interquartile_estimate,
    probability_of_improvement,
    steps_to,
    task_mean,
    time_to_reach,
)
from otpr_bench.study import OURS, Run, Study

THRESHOLDS = (0.5, 0.75, 0.9)
"""Success rates whose first reaching is counted in environment steps."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows under a header, each as long as the header, and what a reader must know beside it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def success_table(study: Study) -> Table:
    """Final success by method and task: mean over seeds, 95% interval, seeds, runs that are missing."""
    rows = [
        (method, *(_success_cell(study, method, task) for task in study.tasks)) for method in study.methods
    ]
    note = (
        "Success of the last evaluation at the fixed end of a run: mean over seeds [95% interval] (seeds). "
        "The interval knows the spread between seeds from all tasks of the method together, and is never "
        "narrower than Wilson's of one evaluation."
    )
    return Table(("method", *study.tasks), tuple(rows), note)


def choice_table(study: Study) -> Table:
    """What one sample of each method achieves at the end, and what choosing among several adds to it."""
    # who deploys one sample is evaluated once, so that both numbers are one
    chosen = [
        method
        for method in study.methods
        if any(run.single[-1] not in (None, run.final) for run in _ended(study, method))
    ]
    rows = [(method, *(_choice_cell(study, method, task) for task in study.tasks)) for method in chosen]
    note = (
        "Success of one sample of the policy at the end, without a choice among candidates: mean over seeds; "
        "in brackets what the choice adds, in percentage points. Both together are the success above. Those "
        "that deploy one sample are left out."
    )
    return Table(("method", *study.tasks), tuple(rows), note)


def aggregate_table(study: Study) -> Table:
    """Over all tasks: interquartile mean, area under the curve, steps to each threshold, minutes, runs."""
    header = ("method", "interquartile mean", "area under curve", *(f"steps to {t:.0%}" for t in THRESHOLDS))
    rows = [_aggregate_row(study, method) for method in study.methods]
    note = (
        "Interquartile mean of final success and area under the curve of success over steps, [95% interval], "
        "tasks weighing alike. Steps by which half of the runs had an evaluation at or above a rate, and how "
        "many of how many ever had; - where fewer than half did. Minutes of wall-clock time: mean over tasks "
        "of the mean of a run. Missing runs failed or are not done; no aggregate is given where a task has "
        "none, and no interval where nothing is known of the spread between seeds."
    )
    machines = sorted({run.row.machine for run in study.runs})
    if len(machines) > 1:
        note += f" Minutes were measured on several machines ({'; '.join(machines)}) and do not compare."
    return Table((*header, "minutes", "runs", "missing"), tuple(rows), note)


def improvement_table(study: Study) -> Table:
    """How our method compares with each other one over all tasks."""
    header = ("method", f"P({OURS} ends above it)", f"interquartile mean: {OURS} minus it", "missing runs")
    ours = study.groups(OURS)
    rows: list[tuple[str, ...]] = []
    for method in study.others:
        theirs = study.groups(method)
        missing = sum(study.missing(name, task) for name in (OURS, method) for task in study.tasks)
        if ours is None or theirs is None:
            rows.append((method, "-", "-", str(missing)))
            continue
        rows.append(
            (
                method,
                _number(probability_of_improvement(ours, theirs)),
                points(interquartile_difference(ours, theirs), signed=True),
                str(missing),
            )
        )
    note = (
        f"Probability that a run of {OURS} on a random task ends with higher success than one of the method, "
        "a tie counting half [95% stratified bootstrap interval]; difference in percentage points. Missing "
        "runs of either are left out."
    )
    return Table(header, tuple(rows), note)


def failure_table(study: Study) -> Table:
    """The runs that failed and why."""
    rows = tuple((run.method, run.task, str(run.seed), run.error or "unknown") for run in study.failures)
    return Table(
        ("method", "task", "seed", "error"), rows, "Counted as missing in every table, never as zero."
    )


def percent(estimate: Estimate) -> str:
    """A rate and its interval: `73% [44, 93]`."""
    interval = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return f"{estimate.value:.0%}{interval}"


def points(estimate: Estimate, *, signed: bool) -> str:
    """A difference in percentage points and its interval: `+7 [-2, 15]`."""
    value, low, high = (100 * number for number in estimate)
    shown = _whole(value, signed)
    return shown if math.isnan(low) else f"{shown} [{_whole(low, signed)}, {_whole(high, signed)}]"


def reached(found: Reached) -> str:
    """Steps by which half of the runs reached a threshold, and how many did: `20,000 (14 of 18)`."""
    return f"{'-' if found.half is None else f'{found.half:,}'} ({found.reached} of {found.runs})"


def _whole(value: float, signed: bool) -> str:
    rounded = round(value) or 0  # no "-0"
    return f"{rounded:+d}" if signed and rounded else str(rounded)


def _success_cell(study: Study, method: str, task: str) -> str:
    group = study.group(method, task)
    failed = sum((run.method, run.task) == (method, task) for run in study.failures)
    undone = study.missing(method, task) - failed
    gaps = [f"{failed} failed"] * bool(failed) + [f"{undone} not done"] * bool(undone)
    if group is None:
        return ", ".join(gaps)
    return f"{percent(success(group, study.spread(method)))} ({', '.join([str(len(group.rates)), *gaps])})"


def _ended(study: Study, method: str) -> list[Run]:
    return [run for task in study.tasks for run in study.finished(method, task)]


def _choice_cell(study: Study, method: str, task: str) -> str:
    pairs = [(one, run.final) for run in study.finished(method, task) if (one := run.single[-1]) is not None]
    if not pairs:
        return ""
    single, final = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return f"{single:.0%} ({_whole(100 * (final - single), signed=True)})"


def _aggregate_row(study: Study, method: str) -> tuple[str, ...]:
    runs = _ended(study, method)
    missing = str(sum(study.missing(method, task) for task in study.tasks))
    groups = study.groups(method)
    if groups is None:
        return (method, *["-"] * (3 + len(THRESHOLDS)), str(len(runs)), missing)
    by_task = [study.finished(method, task) for task in study.tasks]
    area = task_mean([[area_under_curve(run.steps, run.success) for run in task] for task in by_task])
    minutes = fmean(fmean(run.minutes[-1] for run in task) for task in by_task)
    waits = [
        time_to_reach([steps_to(run.steps, run.success, threshold) for run in runs])
        for threshold in THRESHOLDS
    ]
    return (
        method,
        percent(interquartile_estimate(groups)),
        _number(area),
        *(reached(wait) for wait in waits),
        f"{minutes:.1f}",
        str(len(runs)),
        missing,
    )


def _number(estimate: Estimate) -> str:
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"
