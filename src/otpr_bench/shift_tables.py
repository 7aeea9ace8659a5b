"""Tables of success under shifts: of experts, and of policies where the task stays solvable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otpr.envs.shifts import LEVELS, RANDOM, SHIFTS
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


def policies_of(rows: Iterable[ShiftRow], task: str) -> dict[str, list[ShiftRow]]:
    """The cells of each policy on a task by its name, such as `otpr, chosen`; the base (`bc`) comes first."""
    found: dict[str, list[ShiftRow]] = {}
    for row in rows:
        if row.task == task and row.algorithm != EXPERT:
            name = "base" if row.algorithm == "bc" else row.algorithm
            name += "" if row.preset == "default" else f" {row.preset.removeprefix('default:')}"
            # the others have one kind of policy each
            name += f", {row.policy}" if row.algorithm == "otpr" else ""
            name += f", trained with {row.trained}" if row.trained else ""
            found.setdefault(name, []).append(row)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "base", item[0])))


def policy_table(rows: Sequence[ShiftRow], task: str, level: int) -> Table:
    """Retention of each policy on a task at a level."""
    left = solvable(rows)
    lines: list[tuple[str, ...]] = []
    whole = [row for row in rows if not row.trained or row.trained.startswith(RANDOM)]
    for name, mine in policies_of(whole, task).items():
        nominal = [row.success for row in mine if not row.shift]
        measured = kept(mine, left, level)
        seeds = str(len(nominal))
        if measured is None:
            lines.append((name, seeds, f"{np.mean(nominal):.0%}", "-", "-", "-"))
            continue
        low, high = measured.interval
        lines.append(
            (
                name,
                seeds,
                f"{np.mean(nominal):.0%}",
                f"{measured.success:.0%}",
                f"{measured.retention:.0%} [{low:.0%}, {high:.0%}]",
                f"{measured.worst} ({measured.worst_retention:.0%})",
            )
        )
    return Table(
        ("policy", "seeds", "nominal", "shifted", "retention", "worst shift (kept)"),
        tuple(lines),
        f"{task}, level {level}: means over the shifts that the expert can cope with.",
    )


def cell_table(rows: Sequence[ShiftRow], task: str) -> Table:
    """Success of each policy under each shift that the expert can cope with: means over seeds."""
    policies = policies_of([row for row in rows if not row.trained], task)
    means = {name: mean_success(mine) for name, mine in policies.items()}
    keys = [("", 0), *((name, level) for name in SHIFTS for level in LEVELS)]
    lines = [
        (
            f"{name}:{level}" if name else "nominal",
            *(f"{of[name, level]:.0%}" if (name, level) in of else "-" for of in means.values()),
        )
        for name, level in keys
        if any((name, level) in of for of in means.values())
    ]
    return Table(("shift", *means), tuple(lines), "Mean success over seeds, 100 episodes of each.")


def knowledge_table(rows: Sequence[ShiftRow], task: str) -> Table:
    """What OTPR's choosing adds under each shift, and whether H and the critics tell that it is one."""
    who = (task, "otpr", "default", "")
    mine = [row for row in rows if (row.task, row.algorithm, row.preset, row.trained) == who]
    chosen = _by_shift(row for row in mine if row.policy == "chosen")
    single = _by_shift(row for row in mine if row.policy == "one sample")
    lines = [
        (
            f"{name}:{level}" if name else "nominal",
            f"{_mean(found):.0%}",
            _gain(found, single[name, level]),
            f"{np.mean([row.zero_compatibility or 0.0 for row in found]):.1%}",
            f"{np.mean([row.spread or 0.0 for row in found]):.2f}",
        )
        for (name, level), found in sorted(chosen.items(), key=lambda item: (item[0][0] != "", item[0]))
        if (name, level) in single
    ]
    header = ("shift", "chosen", "more than one sample", "decisions without a positive H", "spread of Q")
    return Table(header, tuple(lines), "Means over seeds. The spread is in deviations of Q over the replay.")


def adaptation_table(rows: Sequence[ShiftRow], task: str) -> Table:
    """Success under a shift before and after fine-tuning with it, and how much of the loss is regained."""
    mine = [row for row in rows if (row.task, row.preset) == (task, "default") and row.algorithm != EXPERT]
    deployed = [row for row in mine if row.algorithm != "otpr" or row.policy == "chosen"]
    nominal = [row for row in deployed if row.algorithm == "otpr" and not row.trained]
    before = _by_shift(nominal)
    lines: list[tuple[str, ...]] = []
    for (algorithm, trained), found in _by_training(deployed).items():
        shift, _, start = trained.partition(" from ")
        name, _, level = shift.partition(":")
        own, key = _by_shift(found), (name, int(level))
        if key not in before or key not in own:  # not all is measured yet
            continue
        shifted, after, usual = _mean(before[key]), _mean(own[key]), _mean(own["", 0])
        lost = _mean(before["", 0]) - shifted
        regained = f"{(after - shifted) / lost:.0%}" if lost >= 0.05 else "-"
        seeds = str(len({row.seed for row in found}))
        cells = (f"{shifted:.0%}", f"{after:.0%}", regained, f"{usual:.0%}")
        lines.append((shift, algorithm, start or "base", seeds, *cells))
    header = ("shift", "algorithm", "from", "seeds", "otpr, trained nominally", "trained with it", "regained")
    note = (
        "Success under the shift, as deployed. Regained: what training with the shift adds, over what the "
        "shift takes from OTPR's policy that was trained nominally; -: it takes less than 5 points."
    )
    return Table((*header, "nominal success"), tuple(sorted(lines)), note)


def mean_success(rows: Iterable[ShiftRow]) -> dict[tuple[str, int], float]:
    """Mean success over seeds by shift and level; ("", 0) is the nominal task."""
    return {key: _mean(found) for key, found in _by_shift(rows).items()}


def _by_shift(rows: Iterable[ShiftRow]) -> dict[tuple[str, int], list[ShiftRow]]:
    found: dict[tuple[str, int], list[ShiftRow]] = {}
    for row in rows:
        found.setdefault((row.shift, row.level), []).append(row)
    return found


def _by_training(rows: Iterable[ShiftRow]) -> dict[tuple[str, str], list[ShiftRow]]:
    """The cells of policies that were trained with one shift, by algorithm and training."""
    found: dict[tuple[str, str], list[ShiftRow]] = {}
    for row in rows:
        if row.trained and not row.trained.startswith(RANDOM):
            found.setdefault((row.algorithm, row.trained), []).append(row)
    return found


def _gain(chosen: Sequence[ShiftRow], single: Sequence[ShiftRow]) -> str:
    """The difference of the mean success rates in points."""
    return f"{100 * (_mean(chosen) - _mean(single)):+.0f}"


def _mean(rows: Sequence[ShiftRow]) -> float:
    return float(np.mean([row.success for row in rows]))
