"""The pictures of the tables of single runs are of the runs that are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.plots import (
    compatibility,
    draw,
    draw_safeguard,
    draw_throughput,
    keypoints,
    pixels,
    safeguarded,
    suites,
    throughput,
)
from benchmarks.shifts import RESULTS, draw_experts, draw_policies
from otpr_bench.shifts import EXPERT, read_shift_rows

ROOT = Path(__file__).resolve().parents[1]


def test_the_runs_are_those_of_the_tables() -> None:
    assert list(keypoints()) == ["no mask", "all", "change-points", "diverse", "every-kth", "top-q"]
    assert len(suites()) >= 3
    assert len(compatibility()) == 6
    runs = [*keypoints().values(), *suites().values(), *pixels().values(), *compatibility().values()]
    assert {run["eval_episodes"] for run in runs} == {100}
    assert {row["workers"] for row in throughput()} >= {1, 2, 4, 8, 16, 32, 64}


def test_the_pictures_are_drawn_and_shown(tmp_path: Path) -> None:
    draw(suites(), tmp_path / "suites.png")
    draw_throughput(throughput(), tmp_path / "throughput.png")
    draw_safeguard(safeguarded(), tmp_path / "safeguard.png")
    shown = {
        "suites": "results",
        "pixels": "results",
        "compatibility": "results",
        "keypoints": "keypoints",
        "throughput": "scale",
        "safeguard": "safeguard",
    }
    for file in (*tmp_path.glob("*.png"), *(ROOT / "docs" / f"{name}.png" for name in shown)):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < file.stat().st_size < 100_000
    for name, page in shown.items():
        assert f"]({name}.png)" in (ROOT / "docs" / f"{page}.md").read_text()


def test_the_experts_success_under_shifts_is_drawn_and_shown(tmp_path: Path) -> None:
    rows = [row for row in read_shift_rows(RESULTS) if row.algorithm == EXPERT]
    draw_experts(rows, tmp_path / "shifts.png")
    draw_experts([row for row in rows if row.level != 3], tmp_path / "incomplete.png")
    for file in (tmp_path / "shifts.png", tmp_path / "incomplete.png", ROOT / "docs" / "shifts.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < file.stat().st_size < 60_000
    assert "](shifts.png)" in (ROOT / "docs" / "shifts.md").read_text()


def test_what_policies_keep_under_shifts_is_drawn(tmp_path: Path) -> None:
    experts = [row for row in read_shift_rows(RESULTS) if row.algorithm == EXPERT]
    policies = [
        dataclasses.replace(row, algorithm=name, policy=policy, success=row.success / 2)
        for row in experts
        for name, policy in (("bc", "one sample"), ("otpr", "one sample"), ("otpr", "chosen"))
        if row.level < 3 and (name, row.shift) != ("bc", "gain")
    ]
    draw_policies([*experts, *policies], tmp_path / "robustness.png")
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert 5_000 < (tmp_path / "robustness.png").stat().st_size < 80_000
    assert "](robustness.png)" in (ROOT / "docs" / "robustness.md").read_text()
