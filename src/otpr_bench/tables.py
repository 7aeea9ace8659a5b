"""Tables of a study, as text, and sentences on where our method is behind."""

from __future__ import annotations

import math
from statistics import fmean
from typing import NamedTuple

from otpr_bench.estimates import (
    Estimate,
    area_under_curve,
    difference,
    interquartile_difference,
    interquartile_mean,
    probability_of_improvement,
    steps_to,
    success,
    task_mean,
    time_to_reach,
)
from otpr_bench.study import OURS, Study

THRESHOLDS = (0.5, 0.75, 0.9)  # success rates for which the steps until a run reaches them are counted


class Table(NamedTuple):
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


def return_table(study: Study) -> Table:
    """Mean returns on the tasks that pay for more than success; without rows where there is no such task."""
    told = [
        task
        for task in study.tasks
        if any(
            run.row.mean_return is not None and not math.isclose(run.row.mean_return, run.final)
            for method in study.methods
            for run in study.finished(method, task)
        )
    ]
    rows = [(method, *(_return_cell(study, method, task) for task in told)) for method in study.methods]
    note = (
        "Undiscounted sum of an episode's rewards at the end, for example subtasks completed: mean over "
        "episodes and seeds (each seed). Where a method chooses among candidates, that of one sample follows."
    )
    return Table(("method", *told), tuple(rows) if told else (), note)


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


def _return_cell(study: Study, method: str, task: str) -> str:
    runs = study.finished(method, task)
    chosen = [back for run in runs if (back := run.row.mean_return) is not None]
    if not chosen:
        return ""
    single = [back for run in runs if (back := run.row.mean_return_single) is not None]
    each = f"{fmean(chosen):.2f} ({', '.join(f'{back:.2f}' for back in chosen)})"
    return f"{each}; {fmean(single):.2f}" if single and single != chosen else each


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


class Comparison(NamedTuple):
    """Our method compared with another one on one task."""

    task: str
    method: str  # the other one
    ours: float  # mean final success of our method, in [0, 1]
    theirs: float  # mean final success of the other method
    difference: Estimate  # ours minus theirs
    # whether the other method is an opponent on the task: it ends above the pre-trained policy or above ours;
    # a win over a method that lost what it started from says nothing
    counts: bool

    @property
    def clear(self) -> bool:
        """Whether the 95% interval of the difference excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


def comparisons(study: Study) -> list[Comparison]:
    """Our method compared with every other one, on every task on which both have finished runs."""
    found: list[Comparison] = []
    for task in study.tasks:
        ours = study.rates(OURS, task)
        for method in study.others:
            theirs = study.rates(method, task)
            if ours and theirs:
                gap = difference(ours, study.spread(OURS), theirs, study.spread(method))
                counts = theirs.mean > min(study.pretrained(task), ours.mean)
                found.append(Comparison(task, method, ours.mean, theirs.mean, gap, counts))
    return found


def where_ours_loses(study: Study) -> list[str]:
    """Sentences that say where our method is behind and by how much, over all tasks and on each task."""
    if OURS not in study.methods:
        return [f"These results hold no runs of {OURS}."]
    compared = comparisons(study)
    lines = [_headline(compared), _over_all_tasks(study)]
    for task in study.tasks:
        behind = [one for one in compared if one.task == task and one.difference.value < 0]
        missing = study.missing(OURS, task)
        lacking = f" ({missing} of our runs missing)" if missing else ""
        if not study.finished(OURS, task):
            lines.append(f"{task}: no finished run of {OURS}.")
        elif not behind:
            lines.append(f"{task}{lacking}: behind nobody.")
        else:
            behind.sort(key=lambda one: one.difference.value)
            gaps = "; ".join(_behind(study, one) for one in behind)
            lines.append(f"{task}{lacking}: {behind[0].ours:.0%}, behind {gaps}.")
    return lines


def _headline(compared: list[Comparison]) -> str:
    counted = [one for one in compared if one.counts]
    ahead = sum(one.clear and one.difference.value > 0 for one in counted)
    behind = sum(one.clear and one.difference.value < 0 for one in counted)
    return (
        f"On single tasks {OURS} is clearly ahead in {ahead} of {len(counted)} comparisons, clearly behind "
        f"in {behind}, and {len(counted) - ahead - behind} are undecided: the 95% interval of the difference "
        "includes zero. A comparison counts if the other method ends above the task's pre-trained policy (or "
        f"above {OURS}); {len(compared) - len(counted)} others are left out. Where two methods are equal, "
        "one comparison in twenty looks clear."
    )


def _over_all_tasks(study: Study) -> str:
    ours = study.rates_by_task(OURS)
    if ours is None:
        return f"No aggregate: {OURS} lacks finished runs on some task."
    gaps = {
        method: interquartile_difference(theirs, ours)
        for method in study.others
        if (theirs := study.rates_by_task(method))
    }
    behind = sorted((item for item in gaps.items() if item[1].value > 0), key=lambda item: -item[1].value)
    names = "; ".join(f"{study.labels[method]} by {_gap(gap)}" for method, gap in behind)
    said = f"{OURS} is behind {names} in" if behind else "no method has a higher"
    said = f"{said} interquartile mean." if gaps else "there is nothing to compare."
    if lacking := len(study.others) - len(gaps):
        said += f" Left out: {lacking} of {len(study.others)} methods, without a finished run on some task."
    return f"Over all tasks ({percent(interquartile_mean(ours))}) {said}"


def _behind(study: Study, one: Comparison) -> str:
    gap = Estimate(-one.difference.value, -one.difference.high, -one.difference.low)
    missing = study.missing(one.method, one.task)
    lacking = f", {missing} of its runs missing" if missing else ""
    return f"{study.labels[one.method]} ({one.theirs:.0%}) by {_gap(gap)}{lacking}"


def _gap(gap: Estimate) -> str:
    shown = f"{points(gap, signed=False)} points"
    if math.isnan(gap.low):
        return f"{shown} (one seed: no interval)"
    return shown if gap.low > 0 else f"{shown} (undecided)"
