"""Comparisons of our method with the others, and where it is behind, in sentences."""

from __future__ import annotations

import math
from typing import NamedTuple

from otpr_bench.aggregates import interquartile_difference, interquartile_mean
from otpr_bench.spread import Estimate, difference
from otpr_bench.study import OURS, Study
from otpr_bench.tables import percent, points


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
