"""Success under shifts: what is measured, kept and left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from otpr.agents.otpr.compatibility import ZERO
from otpr.envs import Setup
from otpr.envs.shifts import Shift
from otpr.errors import OtprError
from otpr_bench import shift_runs
from otpr_bench.bases import Base
from otpr_bench.jobs import Job, Variant
from otpr_bench.shift_tables import (
    adaptation_table,
    cell_table,
    expert_table,
    kept,
    knowledge_table,
    policies_of,
    policy_table,
)
from otpr_bench.shifts import (
    EXPERT,
    Carried,
    Cell,
    Measured,
    ShiftRow,
    Subject,
    add_shift_rows,
    all_shifts,
    carry_out_cell,
    cells_of,
    measure,
    read_shift_rows,
    run_expert,
    solvable,
)
from otpr_bench.suites import BENCH_SUITES
from tiny import policy

TASK = "metaworld/reach-v3"


class Fake:
    """Succeeds in so many of ten episodes, by shift; counts how often it is asked."""

    def __init__(self, **successes: int):
        self.successes, self.asked = successes, []

    def __call__(self, setup: Setup, episodes: int) -> Measured:
        name = str(setup.shifts[0]) if setup.shifts else "nominal"
        self.asked.append(name)
        if name == "mass:1":
            raise OtprError("reach has no object.")
        count = self.successes.get(name.replace(":", "_"), 10)
        return Measured([index < count for index in range(episodes)], {ZERO: 0.25} if count < 10 else {})


def subject(run: Callable[[Setup, int], Measured], algorithm: str = EXPERT) -> Subject:
    return Subject(TASK, algorithm, "", 0, EXPERT, None, run)


def test_each_cell_is_measured_once_beside_the_nominal_one(tmp_path: Path) -> None:
    told: list[str] = []
    path, run = tmp_path / "deep" / "results.parquet", Fake(gain_1=6, latency_2=8)
    shifts = [Shift("gain", 1), Shift("mass", 1), Shift("latency", 2)]
    assert measure(cells_of(subject(run), shifts[:2], 10), path, told.append)
    assert measure(cells_of(subject(run), shifts, 10), path, told.append)
    assert run.asked == ["nominal", "gain:1", "mass:1", "mass:1", "latency:2"]
    rows = {(row.shift, row.level): row for row in read_shift_rows(path)}
    assert rows.keys() == {("", 0), ("gain", 1), ("latency", 2)}
    assert rows["gain", 1].outcomes == "1111110000"
    assert (rows["gain", 1].success, rows["gain", 1].nominal_success) == (0.6, 1.0)
    assert (rows["gain", 1].zero_compatibility, rows["", 0].zero_compatibility) == (0.25, None)
    assert any("mass:1 on metaworld/reach-v3 is left out. reach has no object." in line for line in told)


def test_a_stop_in_the_middle_loses_one_cell(tmp_path: Path) -> None:
    path, run = tmp_path / "results.parquet", Fake()

    def stopping(setup: Setup, episodes: int) -> Measured:
        if setup.shifts and setup.shifts[0].name == "latency":
            raise KeyboardInterrupt
        return run(setup, episodes)

    shifts = [Shift("gain", 1), Shift("latency", 2)]
    with pytest.raises(KeyboardInterrupt):
        measure(cells_of(subject(stopping), shifts, 10), path, print)
    measure(cells_of(subject(run), shifts, 10), path, print)
    assert run.asked == ["nominal", "gain:1", "latency:2"]
    assert [row.nominal_success for row in read_shift_rows(path)] == [1.0] * 3


def test_cells_may_end_in_any_order_and_wait_for_the_nominal_one(tmp_path: Path) -> None:
    path, run = tmp_path / "results.parquet", Fake(nominal=8, gain_1=4)
    both = [cells_of(subject(run, name), [Shift("gain", 1)], 10) for name in ("idql", "qc")]
    counts: list[int] = []

    def backwards(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Carried]]:
        for cell in reversed(cells):
            yield cell, carry_out_cell(cell)
            counts.append(len(read_shift_rows(path)) if path.exists() else 0)

    assert measure([*both[0], *both[1]], path, print, backwards)
    assert counts == [0, 2, 2, 4]
    assert {(row.success, row.nominal_success) for row in read_shift_rows(path)} == {(0.4, 0.8), (0.8, 0.8)}


def test_what_was_not_carried_out_is_left_for_the_next_time(tmp_path: Path) -> None:
    path, run = tmp_path / "results.parquet", Fake()
    cells = cells_of(subject(run), [Shift("gain", 1), Shift("gain", 2)], 10)
    assert not measure(cells, path, print, lambda left: ((cell, carry_out_cell(cell)) for cell in left[:2]))
    told: list[str] = []
    assert measure(cells, path, told.append, lambda left: ((cell, "it died") for cell in left))
    assert told == [f"gain:2 on {TASK} is left out. it died"]
    assert measure(cells, path, print)
    assert run.asked == ["nominal", "gain:1", "gain:2"]


def test_solvable_is_where_the_expert_keeps_four_fifths() -> None:
    def row(algorithm: str, shift: str, success: float) -> ShiftRow:
        return ShiftRow(TASK, algorithm, "", 0, EXPERT, shift, 1, 10, success, 0.5, "")

    rows = [
        row(EXPERT, "gain", 0.4),
        row(EXPERT, "mass", 0.39),
        row("otpr", "push", 1.0),
        row(EXPERT, "", 0.5),
    ]
    assert solvable(rows) == {(TASK, "gain", 1)}


def test_shifts_of_images_are_no_cells_of_the_state() -> None:
    assert len(all_shifts()) == 30
    two = all_shifts([2])
    assert len(two) == 10
    assert Shift("push", 2) in two
    assert Shift("light", 2) not in two


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OtprError, match="holds no results under shifts"):
        read_shift_rows(tmp_path / "file")
    with pytest.raises(OtprError, match="There are no results"):
        read_shift_rows(tmp_path / "none")


def test_the_expert_reaches_with_a_smaller_gain_and_not_within_three_steps() -> None:
    assert run_expert(Setup(TASK, shifts=(Shift("gain", 1),)), 2).outcomes == [True, True]
    assert run_expert(Setup(TASK, 3), 2).outcomes == [False, False]


def made(algorithm: str, policy: str, seed: int, shift: str, outcomes: str, level: int = 2) -> ShiftRow:
    share = outcomes.count("1") / len(outcomes)
    level = level if shift else 0
    return ShiftRow(
        TASK, algorithm, "default", seed, policy, shift, level, len(outcomes), share, 0.9, outcomes
    )


ROWS = [
    made(EXPERT, EXPERT, 0, "", "1" * 9 + "0"),
    made(EXPERT, EXPERT, 0, "gain", "1" * 9 + "0"),
    made(EXPERT, EXPERT, 0, "push", "1" * 8 + "00"),
    made(EXPERT, EXPERT, 0, "mass", "1" * 4 + "0" * 6),
    made("otpr", "chosen", 0, "", "1111111100"),
    made("otpr", "chosen", 0, "gain", "1111000000"),
    made("otpr", "chosen", 0, "push", "1111111100"),
    made("otpr", "chosen", 0, "mass", "0000000000"),
    made("otpr", "chosen", 1, "", "1111000000"),
    made("otpr", "chosen", 1, "gain", "1100000000"),
    made("otpr", "chosen", 1, "push", "1111000000"),
]


def test_retention_is_over_solvable_shifts_with_its_worst() -> None:
    mine = [row for row in ROWS if row.algorithm == "otpr"]
    found = kept(mine, solvable(ROWS), 2)
    assert found is not None
    assert found.shifts == 2  # mass is too heavy for the expert
    # gain: (4 + 2) of (8 + 4); push: all of them
    assert found.retention == pytest.approx((6 / 12 + 12 / 12) / 2)
    assert found.success == pytest.approx((0.4 + 0.2 + 0.8 + 0.4) / 4)
    assert (found.worst, found.worst_retention) == ("gain", pytest.approx(0.5))
    assert found.interval.low < found.retention <= found.interval.high <= 1.0001


def test_nothing_is_kept_of_nothing() -> None:
    never = [made("otpr", "chosen", 0, "", "0" * 10), made("otpr", "chosen", 0, "gain", "0" * 10)]
    assert kept(never, solvable(ROWS), 2) is None
    assert policy_table([*ROWS[:4], *never], TASK, 2).rows == (("otpr, chosen", "1", "0%", "-", "-", "-"),)


def test_tables_of_experts_mark_what_is_too_hard_and_what_is_not_there() -> None:
    table = expert_table(ROWS)
    lines = {line[0]: line[1] for line in table.rows}
    assert table.header == ("shift", "reach-v3")
    assert lines["nominal"] == "90%"
    assert (lines["gain"], lines["mass"]) == ("-, 90%, -", "-, 40%*, -")
    assert "latency" not in lines


def test_tables_of_policies_name_the_worst_shift() -> None:
    (line,) = policy_table(ROWS, TASK, 2).rows
    assert line[:4] == ("otpr, chosen", "2", "60%", "45%")
    assert line[4].startswith("75% [") and line[5] == "gain (50%)"


def test_cells_are_means_over_seeds_with_the_base_first() -> None:
    base = [made("bc", "one sample", 0, "", "1" * 3 + "0" * 7), made("bc", "one sample", 0, "gain", "0" * 10)]
    rows = [*ROWS, *base, dataclasses.replace(ROWS[5], trained="gain:2")]
    table = cell_table(rows, TASK)
    assert table.header == ("shift", "base", "otpr, chosen")
    lines = {line[0]: line[1:] for line in table.rows}
    assert lines["nominal"] == ("30%", "60%")
    assert lines["gain:2"] == ("0%", "30%")
    assert lines["push:2"] == ("-", "60%")
    assert list(policies_of(rows, TASK)) == ["base", "otpr, chosen", "otpr, chosen, trained with gain:2"]


def test_other_settings_have_a_name_of_their_own_and_are_not_mixed_in() -> None:
    central = [dataclasses.replace(row, preset="default:rule=central", success=1.0) for row in ROWS]
    both = [*ROWS, *(row for row in central if row.algorithm == "otpr")]
    assert "otpr rule=central, chosen" in policies_of(both, TASK)
    assert knowledge_table(both, TASK) == knowledge_table(ROWS, TASK)
    assert cell_table(both, TASK).header != cell_table(ROWS, TASK).header


def test_what_choosing_adds_is_beside_what_it_knows() -> None:
    def known(row: ShiftRow, zero: float) -> ShiftRow:
        return dataclasses.replace(row, zero_compatibility=zero, spread=10 * zero)

    rows = [known(row, 0.1 * (1 + row.seed)) for row in ROWS if row.algorithm == "otpr"]
    single = [made("otpr", "one sample", seed, "gain", "1" * 5 + "0" * 5) for seed in (0, 1)]
    (line,) = knowledge_table([*rows, *single], TASK).rows
    assert line == ("gain:2", "30%", "-20", "15.0%", "1.50")


def test_regained_is_over_what_the_shift_took() -> None:
    adapted = [
        dataclasses.replace(made("otpr", "chosen", 0, "gain", "1" * 5 + "0" * 5), trained="gain:2"),
        dataclasses.replace(made("otpr", "chosen", 0, "", "1" * 7 + "0" * 3), trained="gain:2"),
        dataclasses.replace(made("idql", "chosen", 0, "push", "1" * 10), trained="push:2 from fine-tuned"),
        dataclasses.replace(made("idql", "chosen", 0, "", "1" * 10), trained="push:2 from fine-tuned"),
        dataclasses.replace(made("idql", "chosen", 0, "", "1" * 10), trained="mass:2"),  # half measured
    ]
    # trained nominally: 60% without the shift, 30% with gain:2, 60% with push:2, which takes nothing
    first, second = adaptation_table([*ROWS, *adapted], TASK).rows
    assert first == ("gain:2", "otpr", "base", "1", "30%", "50%", "67%", "70%")
    assert second[:3] == ("push:2", "idql", "fine-tuned") and second[5:7] == ("100%", "-")


def test_the_base_is_measured_once_and_other_policies_with_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, task = tmp_path / "shifts.parquet", BENCH_SUITES["shifts"][0]
    add_shift_rows(path, [dataclasses.replace(made(EXPERT, EXPERT, 0, "gain", "1" * 10), task=task.id)])
    base = Base(task.id, tmp_path / "data", tmp_path / "policy", 0.3, 100, 4, 0.3, "0" * 12)
    asked: list[tuple[str, int, str, int]] = []

    def measured(cells: list[Cell], *_: object) -> bool:
        for cell in cells:
            one = cell.subject
            if one.algorithm != EXPERT and cell.shift is not None:
                assert cell.shift == Shift("gain", 2)
                asked.append((one.algorithm, one.seed, one.policy, cell.episodes))
        return True

    monkeypatch.setattr(shift_runs, "measure", measured)
    monkeypatch.setattr(shift_runs, "load_policy", lambda _: policy())
    jobs = [Job("shifts", task, Variant(name), seed, "1") for name in ("bc", "idql") for seed in (0, 1)]
    shift_runs.measure_runs([(job, base, tmp_path) for job in jobs], [2], path)
    who = [("bc", 0), ("idql", 0), ("idql", 1)]
    assert asked == [(*each, "one sample", task.budget.final_eval_episodes) for each in who]
