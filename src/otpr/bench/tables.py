"""Tables of a study, and where our method loses, in words."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from otpr.bench.statistics import (
    Estimate,
    Reached,
    area_under_curve,
    difference,
    interquartile_difference,
    interquartile_estimate,
    probability_of_improvement,
    steps_to,
    success,
    task_mean,
    time_to_reach,
)
from otpr.bench.study import OURS, Run, Study
from otpr.errors import OtprError
from otpr.storage import write_text

THRESHOLDS = (0.5, 0.75, 0.9)
"""Success rates whose first reaching is counted in environment steps."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows under a header, each as long as the header, and what a reader must know beside it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, without its note."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def success_table(study: Study) -> Table:
    """Final success by method and task: mean over seeds, 95% interval, seeds, runs that are missing."""
    rows = [
        (method, *(_success_cell(study, method, task) for task in study.tasks)) for method in study.methods
    ]
    note = (
        "Success of the last evaluation at the fixed end of a run: mean over seeds [95% interval] (seeds). "
        "Student's interval over seeds, never narrower than Wilson's of one evaluation; with one seed the "
        "latter, which says nothing about other seeds."
    )
    return Table(("method", *study.tasks), tuple(rows), note)


def aggregate_table(study: Study) -> Table:
    """Over all tasks: interquartile mean, area under the curve, steps to each threshold, minutes, runs."""
    header = ("method", "interquartile mean", "area under curve", *(f"steps to {t:.0%}" for t in THRESHOLDS))
    rows = [_aggregate_row(study, method) for method in study.methods]
    note = (
        "Interquartile mean of final success and area under the curve of success over steps, [95% stratified "
        "bootstrap interval], tasks weighing alike. Steps to the first evaluation at or above a rate: median "
        "(Kaplan-Meier) and how many runs of how many got there; runs that did not are counted as needing "
        "more than they had. Minutes of wall-clock time: mean over tasks of the mean of a run. Missing runs "
        "failed or are not done; no aggregate is given where a task has none, and no interval where all "
        "seeds agree."
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
    for method in _others(study):
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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours against another method on one task: how much higher our mean final success is."""

    task: str
    method: str
    ours: float
    theirs: float
    difference: Estimate

    @property
    def clear(self) -> bool:
        """Whether the 95% interval of the difference excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


def comparisons(study: Study) -> list[Comparison]:
    """Ours against every other method on every task on which both have runs, by task."""
    found: list[Comparison] = []
    for task in study.tasks:
        ours = study.finished(OURS, task)
        for method in _others(study):
            theirs = study.finished(method, task)
            if ours and theirs:
                estimate = difference(*_rates(ours), *_rates(theirs))
                means = success(*_rates(ours)).value, success(*_rates(theirs)).value
                found.append(Comparison(task, method, *means, estimate))
    return found


def where_ours_loses(study: Study) -> list[str]:
    """Sentences on where our method is behind and to whom, over all tasks and on each, with intervals."""
    if OURS not in study.methods:
        return [f"These results hold no runs of {OURS}."]
    compared = comparisons(study)
    behind = [one for one in compared if one.difference.value < 0]
    clearly = [one for one in behind if one.clear]
    ahead = [one for one in compared if one.difference.value > 0 and one.clear]
    lines = [
        f"On single tasks {OURS} is clearly behind in {len(clearly)} of {len(compared)} comparisons, clearly "
        f"ahead in {len(ahead)}, and {len(compared) - len(clearly) - len(ahead)} are undecided: the 95% "
        "interval of the difference holds zero. Where two methods are alike, one in twenty looks clear.",
        *_behind_over_all(study),
    ]
    for task in study.tasks:
        here = sorted((one for one in behind if one.task == task), key=lambda one: one.difference.value)
        missing = study.missing(OURS, task)
        lacking = f" ({missing} of our runs missing)" if missing else ""
        if here:
            ours = f"{here[0].ours:.0%}"
            lines.append(
                f"{task}{lacking}: {ours}, behind " + "; ".join(_behind(study, one) for one in here) + "."
            )
        elif not study.finished(OURS, task):
            lines.append(f"{task}: no finished run of {OURS}.")
        else:
            lines.append(f"{task}{lacking}: behind nobody.")
    return lines


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
    """Median steps to a threshold and who got there: `20,000 (14 of 18)`."""
    median = f"> {found.longest:,}" if found.median is None else f"{found.median:,.0f}"
    return f"{median} ({found.reached} of {found.runs})"


def blocks(study: Study) -> dict[str, str]:
    """The Markdown of every table and of the list of losses, by the name of its block in a page."""
    tables = {
        "tasks": success_table(study),
        "aggregate": aggregate_table(study),
        "improvement": improvement_table(study),
        "failures": failure_table(study),
    }
    texts = {name: f"{markdown(table)}\n\n{table.note}" for name, table in tables.items()}
    if not study.failures:
        texts["failures"] = "No run failed."
    texts["losses"] = "\n".join(f"- {line}" for line in where_ours_loses(study))
    return {f"{study.suite}:{name}": text for name, text in texts.items()}


def update_page(page: Path, texts: Mapping[str, str]) -> bool:
    """Put texts between their marks, `<!-- bench:NAME -->` and `<!-- /bench -->`, in a Markdown page.

    Args:
        page: the page; it is written whole or not at all, and only where something changes.
        texts: by NAME, e.g. "arena-6:tasks". A page need not have a mark for each.

    Returns:
        Whether the page changed.

    Raises:
        OtprError: a mark of the page is not closed, or names no text.
    """
    before = page.read_text(encoding="utf-8")
    after = filled(before, texts, page)
    if after != before:
        write_text(page, after)
    return after != before


def filled(text: str, texts: Mapping[str, str], page: Path) -> str:
    """`update_page` without the writing: the text with its blocks filled. `page` is named in errors."""
    if len(_OPEN.findall(text)) != len(_BLOCK.findall(text)) or len(_OPEN.findall(text)) != text.count(
        _CLOSE
    ):
        raise OtprError(f"{page}: every `<!-- bench:NAME -->` needs a `{_CLOSE}` after it, before the next.")
    for name in _OPEN.findall(text):
        if name not in texts and name.partition(":")[0] in {known.partition(":")[0] for known in texts}:
            raise OtprError(f"{page}: no block is called {name!r}; known are {', '.join(sorted(texts))}.")
    return _BLOCK.sub(lambda match: _block(match, texts), text)


_CLOSE = "<!-- /bench -->"
_OPEN = re.compile(r"<!-- bench:([\w:.-]+) -->")
_BLOCK = re.compile(r"<!-- bench:([\w:.-]+) -->(?:(?!<!-- bench:).)*?<!-- /bench -->", re.DOTALL)


def _block(match: re.Match[str], texts: Mapping[str, str]) -> str:
    name = match[1]
    return f"<!-- bench:{name} -->\n{texts[name]}\n{_CLOSE}" if name in texts else match[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _whole(value: float, signed: bool) -> str:
    rounded = round(value) or 0  # no "-0"
    return f"{rounded:+d}" if signed and rounded else str(rounded)


def _others(study: Study) -> Iterator[str]:
    return (method for method in study.methods if method != OURS)


def _rates(runs: Sequence[Run]) -> tuple[list[float], list[int]]:
    return [run.final for run in runs], [run.episodes[-1] for run in runs]


def _success_cell(study: Study, method: str, task: str) -> str:
    runs = study.finished(method, task)
    failed = sum((run.method, run.task) == (method, task) for run in study.failures)
    undone = study.missing(method, task) - failed
    gaps = [f"{failed} failed"] * bool(failed) + [f"{undone} not done"] * bool(undone)
    if not runs:
        return ", ".join(gaps)
    return f"{percent(success(*_rates(runs)))} ({', '.join([str(len(runs)), *gaps])})"


def _aggregate_row(study: Study, method: str) -> tuple[str, ...]:
    runs = [run for task in study.tasks for run in study.finished(method, task)]
    missing = str(sum(study.missing(method, task) for task in study.tasks))
    groups = study.groups(method)
    if groups is None:
        return (method, *["-"] * (3 + len(THRESHOLDS)), str(len(runs)), missing)
    by_task = [study.finished(method, task) for task in study.tasks]
    area = task_mean([[area_under_curve(run.steps, run.success) for run in task] for task in by_task])
    minutes = task_mean([[run.minutes[-1] for run in task] for task in by_task]).value
    waits = [
        time_to_reach(
            [steps_to(run.steps, run.success, threshold) for run in runs],
            [study.end(run.task) for run in runs],
        )
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


def _behind_over_all(study: Study) -> list[str]:
    ours = study.groups(OURS)
    if ours is None:
        return [f"No aggregate: {OURS} lacks finished runs on some task."]
    others = list(_others(study))
    differences: list[tuple[str, Estimate]] = []
    for method in others:
        theirs = study.groups(method)
        if theirs is not None:
            differences.append((method, interquartile_difference(theirs, ours)))
    behind = sorted((pair for pair in differences if pair[1].value > 0), key=lambda pair: -pair[1].value)
    mean = percent(interquartile_estimate(ours))
    lacking = len(others) - len(differences)
    left_out = (
        f" Left out: {lacking} of {len(others)} methods, without a finished run on some task."
        if lacking
        else ""
    )
    if not differences:
        return [f"Over all tasks ({mean}) there is nothing to compare.{left_out}"]
    if not behind:
        return [f"Over all tasks ({mean}) no method has a higher interquartile mean.{left_out}"]
    return [
        f"Over all tasks ({mean}) behind "
        + "; ".join(f"{name} by {points(gap, signed=False)} points{_doubt(gap)}" for name, gap in behind)
        + f" in interquartile mean.{left_out}"
    ]


def _behind(study: Study, one: Comparison) -> str:
    gap = Estimate(-one.difference.value, -one.difference.high, -one.difference.low)
    missing = study.missing(one.method, one.task)
    lacking = f", {missing} of its runs missing" if missing else ""
    return f"{one.method} ({one.theirs:.0%}) by {points(gap, signed=False)} points{_doubt(gap)}{lacking}"


def _doubt(gap: Estimate) -> str:
    if math.isnan(gap.low):
        return " (one seed: no interval)"
    return "" if gap.low > 0 else " (undecided)"
