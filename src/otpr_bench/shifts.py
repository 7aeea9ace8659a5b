"""Success under distribution shifts: of experts, of base policies and of fine-tuned policies.

Every episode is paired with an unshifted one with the same start. A shift at a level counts as solvable on a
task if the scripted expert retains four fifths of its nominal success; policies are measured under these
shifts alone. docs/shifts.md defines the shifts, docs/robustness.md has the results.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otpr.agents.otpr.compatibility import ZERO
from otpr.data.seeds import evaluation_seed
from otpr.envs import ChunkedVectorEnv, Setup, make_env, make_expert
from otpr.envs.shifts import LEVELS, SHIFTS, Shift
from otpr.errors import OtprError
from otpr.policies.packed import pack, unpack
from otpr.policies.policy import Policy
from otpr.storage import write_bytes, writing
from otpr.training.evaluate import evaluate
from otpr.training.workers import Lockstep
from otpr_bench.results import load_pyarrow
from otpr_bench.watching import SPREAD, watched

EXPERT = "expert"
SOLVABLE = 0.8
"""Share of nominal success that the expert must retain for a shift to count."""


@dataclasses.dataclass(frozen=True)
class ShiftRow:
    """One cell: a policy on a task under a shift at a level. Level 0 without a shift is the nominal task."""

    task: str
    algorithm: str  # "expert" and "bc" (the base policy) among them
    preset: str
    seed: int  # of the run; 0 for an expert
    policy: str  # "one sample" or "chosen"; "expert"
    shift: str
    level: int
    episodes: int
    success: float  # share of the episodes that succeeded
    nominal_success: float  # of the paired unshifted episodes
    outcomes: str  # "1" for each episode that succeeded, "0" for others, in the order of the conditions
    zero_compatibility: float | None = None  # OTPR's choice: share of decisions at which every H was zero
    spread: float | None = None  # OTPR's choice: see `otpr_bench.watching`
    trained: str = ""  # the shift in which it was fine-tuned, and from what, if not nominally

    @property
    def cell(self) -> tuple[str, str, str, int, str, str, str, int, int]:
        """The identity of the row's cell."""
        who = (self.task, self.algorithm, self.preset, self.seed, self.policy, self.trained)
        return (*who, self.shift, self.level, self.episodes)


class Measured(NamedTuple):
    """The outcomes of episodes in the order of the conditions, and metrics of the choice by name."""

    outcomes: Sequence[bool]
    metrics: Mapping[str, float] = {}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A measured policy or expert; `run` runs a number of episodes of a setup."""

    task: str
    algorithm: str
    preset: str
    seed: int
    policy: str
    episode_limit: int | None
    run: Callable[[Setup, int], Measured]
    trained: str = ""  # as in `ShiftRow`


def run_expert(setup: Setup, episodes: int) -> Measured:
    """Run the scripted expert from each of the first held-out initial conditions."""
    env = make_env(setup)
    expert = make_expert(setup.task, env)
    outcomes: list[bool] = []
    for index in range(episodes):
        env.reset(seed=evaluation_seed(index))
        expert.reset()
        while True:
            _, _, terminated, truncated, info = env.step(expert.act(env.whole_observation))
            if terminated or truncated:
                break
        outcomes.append(bool(info["success"]))
    env.close()
    return Measured(outcomes)


def runs_policy(policy: Policy) -> Callable[[Setup, int], Measured]:
    """A function that runs episodes of a policy, in this or another process; OTPR's choice is watched."""
    packed = pack(policy)

    def run(setup: Setup, episodes: int) -> Measured:
        acting = watched(unpack(packed))
        execute, history = acting.spec.execute, acting.spec.history
        with ChunkedVectorEnv(setup, min(8, episodes), execute, processes=True, history=history) as env:
            evaluation = evaluate(acting, Lockstep(env), episodes)
        return Measured(evaluation.outcomes, evaluation.metrics)

    return run


def all_shifts(levels: Iterable[int] = LEVELS) -> list[Shift]:
    """The shifts to measure, without those of images."""
    return [Shift(name, level) for name in SHIFTS if not SHIFTS[name].images for level in levels]


class Cell(NamedTuple):
    """Episodes of a subject under a shift; None is the nominal task."""

    subject: Subject
    shift: Shift | None
    episodes: int  # >= 1


def cells_of(subject: Subject, shifts: Sequence[Shift], episodes: int) -> list[Cell]:
    """The cells of a subject, the nominal one first."""
    return [Cell(subject, shift, episodes) for shift in (None, *shifts)]


Carried = Measured | str
"""What came out of a cell, or why nothing did."""


def carry_out_cell(cell: Cell) -> Carried:
    """Run the episodes of a cell, unless its task does not support the shift."""
    subject = cell.subject
    shifts = () if cell.shift is None else (cell.shift,)
    try:
        return subject.run(Setup(subject.task, subject.episode_limit, shifts=shifts), cell.episodes)
    except OtprError as error:
        if cell.shift is None:
            raise
        return str(error)


CarriedOut = Callable[[Sequence[Cell]], Iterable[tuple[Cell, Carried]]]
"""Carries out cells, in any order; it may end before all are done."""


def in_order(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Carried]]:
    """Carry out cells one after the other in this process."""
    for cell in cells:
        yield cell, carry_out_cell(cell)


def measure(
    cells: Sequence[Cell],
    path: Path,
    say: Callable[[str], None],
    carried_out: CarriedOut = in_order,
) -> bool:
    """Measure the missing cells. Each is written when it is finished, so that a stop loses at most one.

    Args:
        cells: of each subject the nominal cell, which the others are compared with, and others.
        path: the Parquet file.
        say: called with a message for each cell.
        carried_out: see `CarriedOut`.

    Returns:
        Whether all cells were carried out.
    """
    done = {row.cell: row for row in read_shift_rows(path)} if path.exists() else {}
    nominal: dict[Subject, float] = {}
    left: list[Cell] = []
    for cell in cells:
        known = done.get(_row(cell, Measured(()), 0.0).cell)
        if known is None:
            left.append(cell)
        elif cell.shift is None:
            nominal[cell.subject] = known.success
    waiting: list[tuple[Cell, Measured]] = []  # for the nominal success
    count = 0
    for cell, came in carried_out(left):
        count += 1
        if isinstance(came, str):
            say(f"{cell.shift or 'nominal'} on {cell.subject.task} is left out. {came}")
            continue
        if cell.shift is None:
            nominal[cell.subject] = sum(came.outcomes) / cell.episodes
        waiting.append((cell, came))
        rows = [_row(*each, nominal[each[0].subject]) for each in waiting if each[0].subject in nominal]
        waiting = [each for each in waiting if each[0].subject not in nominal]
        if rows:
            add_shift_rows(path, rows)
        for row in rows:
            who = f"{row.algorithm} ({row.policy}), seed {row.seed}"
            shift = f"{row.shift}:{row.level}" if row.shift else "nominal"
            say(f"{row.task}, {shift}, {who}: {row.success:.0%} of {row.episodes}")
    return count == len(left)


def _row(cell: Cell, measured: Measured, nominal: float) -> ShiftRow:
    subject, shift = cell.subject, cell.shift
    return ShiftRow(
        task=subject.task,
        algorithm=subject.algorithm,
        preset=subject.preset,
        seed=subject.seed,
        policy=subject.policy,
        shift="" if shift is None else shift.name,
        level=0 if shift is None else shift.level,
        episodes=cell.episodes,
        success=sum(measured.outcomes) / cell.episodes,
        nominal_success=nominal,
        outcomes="".join("1" if outcome else "0" for outcome in measured.outcomes),
        zero_compatibility=measured.metrics.get(ZERO),
        spread=measured.metrics.get(SPREAD),
        trained=subject.trained,
    )


def solvable(rows: Iterable[ShiftRow]) -> set[tuple[str, str, int]]:
    """The (task, shift, level) that count as solvable by the expert's success."""
    return {
        (row.task, row.shift, row.level)
        for row in rows
        if row.algorithm == EXPERT and row.shift and row.success >= SOLVABLE * row.nominal_success
    }


def solvable_shifts(rows: Iterable[ShiftRow], task: str, levels: Sequence[int]) -> list[Shift]:
    """The shifts of a task at some levels that count as solvable, in the order of `all_shifts`."""
    left = solvable(rows)
    return [shift for shift in all_shifts(levels) if (task, shift.name, shift.level) in left]


def read_shift_rows(path: Path) -> list[ShiftRow]:
    """Read the rows of a file.

    Raises:
        OtprError: the file is missing or not valid.
    """
    pa, pq = load_pyarrow()
    if not path.is_file():
        raise OtprError(f"There are no results in {path}: `otpr bench --suite shifts` writes them.")
    try:
        return [ShiftRow(**values) for values in pq.ParquetFile(path).read().to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise OtprError(f"{path} holds no results under shifts ({str(error)[:200]}).") from error


def add_shift_rows(path: Path, rows: Sequence[ShiftRow]) -> None:
    """Add rows to a file, which is created if missing, replacing rows of the same cells."""
    pa, pq = load_pyarrow()
    new = {row.cell for row in rows}
    kept = [row for row in read_shift_rows(path) if row.cell not in new] if path.exists() else []
    ordered = sorted([*kept, *rows], key=lambda row: row.cell)
    content: Any = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(row) for row in ordered]), content)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content.getvalue())
