"""What benchmarks say of their own runs: tables of the safeguard, and the runs with shifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.adaptation import ADAPTED, runs_of
from benchmarks.safeguard import evaluations, is_below, table
from benchmarks.shifts import RESULTS
from otpr.errors import OtprError
from otpr_bench import bases
from otpr_bench.shifts import read_shift_rows, solvable
from otpr_bench.suites import BENCH_SUITES, SHIFTED


def run(least: float, *success: float, seed: int = 0) -> dict[str, Any]:
    rows: list[dict[str, float]] = [{"env_steps": 10, "safeguard/learnt_better": 0.3}]
    rows += [{"env_steps": 2000 * (i + 1), "eval/success_rate": rate} for i, rate in enumerate(success)]
    return {"task": "metaworld/reach-v3", "safeguard": least, "seed": seed, "base": 0.4, "rows": rows}


def test_evaluations_below_the_base_by_more_than_noise_are_counted():
    assert evaluations(run(0.9, 0.5)) == [(2000, 0.5)]
    # p = 0.28 and 0.002 by Fisher's exact test
    assert not is_below(0.35, 0.4) and is_below(0.2, 0.4)
    text = table([run(0.9, 0.4, 0.8), run(0.9, 0.38, 0.5, seed=1), run(0.0, 0.1, 0.76)])
    without, guarded = text.splitlines()[2:]
    assert without == "| metaworld/reach-v3 | without | 1 | 40% | 10% | 1 of 2 | 43% | 76% | 4,000 |"
    assert guarded == "| metaworld/reach-v3 | 0.9 | 2 | 40% | 38% | 0 of 4 | 52% | 80%, 50% | 4,000, - |"


def test_policies_adapt_to_shifts_at_the_hardest_level_that_the_expert_copes_with():
    left = solvable(read_shift_rows(RESULTS))
    for task, shifts in ADAPTED.items():
        assert len(set(shifts)) == 5
        for text in shifts:
            name, _, level = text.partition(":")
            levels = [known for each, shift, known in left if (each, shift) == (task, name)]
            assert max(levels) == int(level), (task, text)


def test_runs_with_shifts_need_the_base_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = BENCH_SUITES[SHIFTED][0]
    with pytest.raises(OtprError, match="otpr bench --suite shifts"):
        list(runs_of(task.id, "otpr", [0], ["gain:2"], tmp_path))
    base = bases.Base(task.id, tmp_path / "data", tmp_path / "policy", 0.3, 100, 4, 0.3, "0" * 12)
    monkeypatch.setattr("benchmarks.adaptation.found_base", lambda *_: base)
    first, second = runs_of(task.id, "otpr,idql", [0], ["gain:2"], tmp_path)
    assert (first.trained, first.job.variant.algorithm) == ("gain:2", "otpr")
    assert first.directory != second.directory
    # the nominal run is there: OTPR starts from its policy as well
    monkeypatch.setattr("benchmarks.adaptation.is_finished", lambda _: True)
    runs = list(runs_of(task.id, "otpr,idql", [0], ["gain:2", "random:2"], tmp_path))
    assert [run.trained for run in runs] == [
        "gain:2",
        "gain:2 from fine-tuned",
        "random:2",
        "gain:2",
        "random:2",
    ]
    assert len({run.directory for run in runs}) == 5
    arguments = runs[1].job.arguments(runs[1].directory, runs[1].base)
    assert arguments[arguments.index("--policy") + 1] != str(base.policy)
