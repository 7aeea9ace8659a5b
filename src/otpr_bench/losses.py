"""Where our method is behind, and to whom, in words."""

from __future__ import annotations

import dataclasses
import math

from otpr_bench.spread import Estimate, difference
from otpr_bench.statistics import interquartile_difference, interquartile_estimate
from otpr_bench.study import OURS, Study
from otpr_bench.tables import percent, points


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
        ours = study.group(OURS, task)
        for method in study.others:
            theirs = study.group(method, task)
            if ours and theirs:
                estimate = difference(ours, study.spread(OURS), theirs, study.spread(method))
                found.append(Comparison(task, method, ours.mean, theirs.mean, estimate))
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


def _behind_over_all(study: Study) -> list[str]:
    ours = study.groups(OURS)
    if ours is None:
        return [f"No aggregate: {OURS} lacks finished runs on some task."]
    differences: list[tuple[str, Estimate]] = []
    for method in study.others:
        theirs = study.groups(method)
        if theirs is not None:
            differences.append((method, interquartile_difference(theirs, ours)))
    behind = sorted((pair for pair in differences if pair[1].value > 0), key=lambda pair: -pair[1].value)
    mean = percent(interquartile_estimate(ours))
    lacking = len(study.others) - len(differences)
    left_out = (
        f" Left out: {lacking} of {len(study.others)} methods, without a finished run on some task."
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
