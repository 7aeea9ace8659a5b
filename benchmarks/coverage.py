"""How often the intervals of docs/statistics.md cover the truth, for made-up studies with a known truth.

    .venv/bin/python -m benchmarks.coverage

A study consists of a method's runs on six tasks, with two or three seeds each and 50 episodes a run. The true
mean of every task is known, and so is the spread of true success between seeds. The tables give the share of
95% intervals that hold the truth and, in brackets, their mean width in percentage points, for our intervals
and for usual ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from otpr.training.intervals import score_interval
from otpr_bench import estimates
from otpr_bench.estimates import Array, FinalRates, difference, spread_over_seeds, success

EPISODES = 50
STUDIES = 1000


@dataclasses.dataclass(frozen=True)
class Truth:
    """A method: its mean success on each task, and the spread of its runs there, as in `Spread.share`."""

    name: str
    means: Sequence[float]
    spreads: Sequence[float]

    def rates(self, task: int, runs: int, rng: np.random.Generator) -> Array:
        """Success rates of runs on a task."""
        scale = 1 / max(self.spreads[task], 1e-6) - 1
        mean = self.means[task]
        true = rng.beta(max(mean * scale, 1e-9), max((1 - mean) * scale, 1e-9), runs)
        return rng.binomial(EPISODES, true) / EPISODES

    def study(self, seeds: int, rng: np.random.Generator) -> list[FinalRates]:
        """What a study of so many seeds would find."""
        return [FinalRates(list(self.rates(task, seeds, rng)), EPISODES) for task in range(len(self.means))]


UNLIKE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
NEAR_THE_END = (0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
HARD = (0.0, 0.01, 0.02, 0.05, 0.2, 0.5)
TRUTHS = (
    Truth("unlike tasks, seeds alike", UNLIKE, [0.0] * 6),
    Truth("unlike tasks, spread 0.02", UNLIKE, [0.02] * 6),
    Truth("unlike tasks, spread 0.1", UNLIKE, [0.1] * 6),
    Truth("spread 0.3 on one task, 0.01 on others", UNLIKE, [0.01, 0.01, 0.3, 0.01, 0.01, 0.01]),
    Truth("80% to 100%, spread 0.05", NEAR_THE_END, [0.05] * 6),
    Truth("0% to 50%, spread 0.05", HARD, [0.05] * 6),
)


class Tally:
    """Counts how often intervals hold the truth, by column, and how wide they are."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.found: dict[str, list[tuple[bool, float]]] = {}

    def add(self, column: str, low: float, high: float, truth: float) -> None:
        """Count an interval."""
        # rates are multiples of 1/50, and an end on the truth holds it
        self.found.setdefault(column, []).append((low - 1e-9 <= truth <= high + 1e-9, high - low))

    def cells(self) -> dict[str, str]:
        """By column the share that hold the truth, and the mean width."""
        return {
            column: f"{np.mean([held for held, _ in found]):.0%} "
            f"({100 * np.mean([width for _, width in found]):.0f})"
            for column, found in self.found.items()
        }


def bootstrap(
    groups: Sequence[FinalRates], statistic: Callable[[Array], Array], drawn: int
) -> tuple[float, float]:
    """Percentiles of a statistic of (resamples, runs) where of each task so many seeds are drawn."""
    rng = np.random.default_rng(0)
    picked = [np.asarray(group.rates)[rng.integers(0, len(group.rates), (1000, drawn))] for group in groups]
    low, high = np.quantile(statistic(np.concatenate(picked, axis=1)), [0.025, 0.975])
    return float(low), float(high)


def one_task(truth: Truth, seeds: int, rng: np.random.Generator) -> dict[str, str]:
    """Success on one task, each of the six counting."""
    tally = Tally()
    for _ in range(STUDIES):
        groups = truth.study(seeds, rng)
        spread = spread_over_seeds(groups)
        worst = truth.means[int(np.argmax(truth.spreads))]
        for group, mean in zip(groups, truth.means, strict=True):
            pooled = score_interval(group.mean, seeds * EPISODES, 1.96)
            tally.add("Wilson, episodes pooled", *pooled, mean)
            tally.add("bootstrap over seeds", *bootstrap([group], _mean, seeds), mean)
            reach = float(stats.t.ppf(0.975, seeds - 1) * np.std(group.rates, ddof=1)) / math.sqrt(seeds)
            alone = score_interval(group.mean, EPISODES, 1.96)
            low, high = min(alone.low, group.mean - reach), max(alone.high, group.mean + reach)
            tally.add("Student, at least Wilson", max(0.0, low), min(1.0, high), mean)
            low, high = success(group, spread)[1:]
            tally.add("ours", low, high, mean)
            if mean == worst:
                tally.add("ours, task of the most spread", low, high, mean)
    return tally.cells()


def differences(truth: Truth, seeds: int, rng: np.random.Generator) -> dict[str, str]:
    """The same method against a steady one of 50%."""
    other = Truth("", [0.5] * 6, [0.02] * 6)
    tally = Tally()
    for _ in range(STUDIES):
        ours, theirs = truth.study(seeds, rng), other.study(seeds, rng)
        spreads = spread_over_seeds(ours), spread_over_seeds(theirs)
        for one, two, mean in zip(ours, theirs, truth.means, strict=True):
            parts = np.array([np.var(group.rates, ddof=1) / seeds for group in (one, two)])
            freedom = parts.sum() ** 2 / max((parts**2).sum() / (seeds - 1), 1e-12)
            reach = float(stats.t.ppf(0.975, max(1.0, freedom)) * math.sqrt(parts.sum()))
            found = one.mean - two.mean
            tally.add("Welch", max(-1.0, found - reach), min(1.0, found + reach), mean - 0.5)
            tally.add("ours", *difference(one, spreads[0], two, spreads[1])[1:], mean - 0.5)
    return tally.cells()


def all_tasks(truth: Truth, seeds: int, rng: np.random.Generator) -> dict[str, str]:
    """Interquartile mean, mean over tasks, and the probability of improvement on a steady one of 50%."""
    other = Truth("", [0.5] * 6, [0.02] * 6)
    many, others = (
        [FinalRates(list(one.rates(task, 4000, rng)), EPISODES) for task in range(6)]
        for one in (truth, other)
    )
    middle = float(_trimmed(np.concatenate([group.rates for group in many])[None])[0])
    mean = float(np.mean([group.mean for group in many]))
    wins = [
        stats.mannwhitneyu(one.rates, two.rates).statistic / 4000**2
        for one, two in zip(many, others, strict=True)
    ]
    tally = Tally()
    for _ in range(STUDIES):
        groups = truth.study(seeds, rng)
        tally.add("bootstrap over seeds", *bootstrap(groups, _trimmed, seeds), middle)
        tally.add("one seed less drawn", *bootstrap(groups, _trimmed, seeds - 1), middle)
        tally.add("ours", *estimates.interquartile_mean(groups)[1:], middle)
        tally.add("mean over tasks", *estimates.task_mean([group.rates for group in groups])[1:], mean)
        improvement = estimates.probability_of_improvement(groups, other.study(seeds, rng))
        tally.add("P(improvement)", *improvement[1:], float(np.mean(wins)))
    return tally.cells()


def _mean(runs: Array) -> Array:
    return runs.mean(axis=1)


def _trimmed(runs: Array) -> Array:
    return stats.trim_mean(runs, 0.25, axis=1)


def main() -> None:
    """Print the tables."""
    estimates.RESAMPLES = 1000
    rng = np.random.default_rng(0)
    for title, table in (("One task", one_task), ("Difference", differences), ("All tasks", all_tasks)):
        print(f"\n{title}\n")
        for place, (truth, seeds) in enumerate(itertools.product(TRUTHS, (2, 3))):
            cells = table(truth, seeds, rng)
            if place == 0:
                print("| made-up method | seeds |", " | ".join(cells), "|")
                print("|---|---|" + "---|" * len(cells))
            print(f"| {truth.name} | {seeds} |", " | ".join(cells.values()), "|", flush=True)


if __name__ == "__main__":
    main()
