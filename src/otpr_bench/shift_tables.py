"""Tables of success under shifts: of experts, and of policies where the task stays solvable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otpr.envs.shifts import LEVELS, SHIFTS
from otpr.training.intervals import Interval
from otpr_bench.shifts import EXPERT, ShiftRow, solvable
from otpr_bench.tables import Table

RESAMPLES = 2_000


class Kept(NamedTuple):
    """A policy on a task at a level, over the shifts under which the task stays solvable."""

    success: float  # mean over shifts and seeds
    retention: float  # mean over shifts of shifted success over nominal success, seeds together
    interval: Interval  # 95%, of the retention: bootstrap over seeds, and over pairs of episodes within each
    worst: str  # the shift with the lowest retention
    worst_retention: float
    shifts: int


def expert_table(rows: Sequence[ShiftRow]) -> Table:
    """Success of the scripted experts, with marks on shifts that do not count as solvable."""
    experts = {(row.task, row.shift, row.level): row for row in rows if row.algorithm == EXPERT}
    tasks = sorted({task for task, _, _ in experts})
    left = solvable(rows)

    def cell(task: str, name: str) -> str:
        found = [experts.get((task, name, level)) for level in LEVELS]
        texts = [
            "-" if row is None else f"{row.success:.0%}" + ("" if (task, name, row.level) in left else "*")
            for row in found
        ]
        return ", ".join(texts)

    nominal = ("nominal", *(f"{experts[task, '', 0].success:.0%}" for task in tasks))
    names = [name for name in SHIFTS if any(name == shift for _, shift, _ in experts)]
    return Table(
        ("shift", *(task.partition("/")[2] for task in tasks)),
        (nominal, *((name, *(cell(task, name) for task in tasks)) for name in names)),
        "Levels 1, 2, 3. * less than four fifths of the nominal success: not counted as solvable.\n"
        "-: the task cannot have the shift.",
    )


def kept(rows: Iterable[ShiftRow], left: set[tuple[str, str, int]], level: int) -> Kept | None:
    """Retention of a policy on one task over all its seeds; None if no shift counts."""
    mine = list(rows)
    nominal = {row.seed: row for row in mine if not row.shift}
    by_shift: dict[str, list[tuple[ShiftRow, ShiftRow]]] = {}
    for row in mine:
        if row.level == level and (row.task, row.shift, level) in left and row.seed in nominal:
            by_shift.setdefault(row.shift, []).append((row, nominal[row.seed]))
    if not by_shift or not any(row.success for row in nominal.values()):
        return None
    pairs = {name: [(_bits(a), _bits(b)) for a, b in found] for name, found in by_shift.items()}
    ratios = {name: _ratio(found) for name, found in pairs.items()}
    rng = np.random.default_rng(0)
    drawn = [np.mean([_ratio(_drawn(found, rng)) for found in pairs.values()]) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    worst = min(ratios, key=lambda name: ratios[name])
    return Kept(
        success=float(np.mean([row.success for found in by_shift.values() for row, _ in found])),
        retention=float(np.mean(list(ratios.values()))),
        interval=Interval(float(low), float(high)),
        worst=worst,
        worst_retention=ratios[worst],
        shifts=len(ratios),
    )


_Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Outcomes of a run's episodes, shifted and nominal."""


def _bits(row: ShiftRow) -> NDArray[np.int64]:
    return np.array([int(outcome) for outcome in row.outcomes])


def _ratio(found: Sequence[_Pair]) -> float:
    whole = sum(int(nominal.sum()) for _, nominal in found)
    return sum(int(shifted.sum()) for shifted, _ in found) / whole if whole else float("nan")


def _drawn(found: Sequence[_Pair], rng: np.random.Generator) -> list[_Pair]:
    """Seeds with replacement, and pairs of episodes within each."""
    picked = [found[index] for index in rng.integers(len(found), size=len(found))]
    again: list[_Pair] = []
    for shifted, nominal in picked:
        episodes = rng.integers(len(shifted), size=len(shifted))
        again.append((shifted[episodes], nominal[episodes]))
    return again


def policy_table(rows: Sequence[ShiftRow], task: str, level: int) -> Table:
    """Retention of each policy on a task at a level."""
    left = solvable(rows)
    groups: dict[tuple[str, str, str], list[ShiftRow]] = {}
    for row in rows:
        if row.task == task and row.algorithm != EXPERT:
            groups.setdefault((row.algorithm, row.preset, row.policy), []).append(row)
    lines: list[tuple[str, ...]] = []
    for (algorithm, preset, policy), mine in sorted(groups.items()):
        nominal = [row.success for row in mine if not row.shift]
        name = algorithm if preset == "default" else f"{algorithm}:{preset}"
        measured = kept(mine, left, level)
        seeds = str(len(nominal))
        if measured is None:
            lines.append((name, policy, seeds, f"{np.mean(nominal):.0%}", "-", "-", "-"))
            continue
        low, high = measured.interval
        lines.append(
            (
                name,
                policy,
                seeds,
                f"{np.mean(nominal):.0%}",
                f"{measured.success:.0%}",
                f"{measured.retention:.0%} [{low:.0%}, {high:.0%}]",
                f"{measured.worst} ({measured.worst_retention:.0%})",
            )
        )
    return Table(
        ("algorithm", "policy", "seeds", "nominal", "shifted", "retention", "worst shift (kept)"),
        tuple(lines),
        f"{task}, level {level}: means over the shifts that the expert can cope with.",
    )
