"""The results in the docs are those of the runs kept under results/, and they show what is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNS = [
    json.loads(path.read_text()) for path in sorted((ROOT / "results" / "peg-insert-side").glob("*.json"))
]
DEFAULT = [run for run in RUNS if run["preset"] == "default"]


def mean(runs: list[dict], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


def test_three_seeds_of_100_episodes_within_60000_steps():
    assert len({run["seed"] for run in DEFAULT}) == len(DEFAULT) >= 3
    for run in RUNS:
        assert run["task"] == "metaworld/peg-insert-side-v3"
        assert run["eval_episodes"] == 100
        assert run["env_steps"] <= 60_000


def test_the_default_preset_gains_what_is_claimed():
    assert all(0.2 <= run["base_success"] <= 0.5 for run in DEFAULT)
    assert mean(DEFAULT, "final_success") - mean(DEFAULT, "base_success") >= 0.35
    assert mean(DEFAULT, "final_success_single") - mean(DEFAULT, "base_success") >= 0.15
    assert all(run["ot_marginal_error"] <= 0.15 for run in DEFAULT)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['preset']}-{run['seed']}")
def test_the_table_in_the_docs_is_of_these_runs(run):
    row = (
        f"| `{run['preset']}` | {run['seed']} | {run['base_success']:.0%} | {run['final_success']:.0%} "
        f"| {run['final_success_single']:.0%} | {run['env_steps']:,} | {run['wall_seconds'] / 60:.1f} "
        f"| {run['ot_marginal_error']:.3f} |"
    )
    assert row in (ROOT / "docs" / "results.md").read_text()


def test_the_readme_shows_the_quickstart_that_is_kept():
    run = json.loads((ROOT / "results" / "quickstart" / "two-cores-seed0.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for key in ("base_success", "final_success", "final_success_single"):
        assert f"| {run[key]:.0%} |" in readme
    for key in ("base_success", "final_success", "final_success_single"):
        assert f"{mean(DEFAULT, key):.0%}" in readme
