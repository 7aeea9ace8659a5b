"""The results in the docs are those of the runs kept under results/, and they show what is claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from bench_rows import run as made_up
from benchmarks.arena import PAGE, balanced, studies, texts
from benchmarks.tasks import page, picture_path, read_results
from otpr.agents.otpr.keypoint_strategies import KeypointStrategy
from otpr.envs import list_tasks
from otpr_bench.markdown import filled
from otpr_bench.results import read_results as read_arena
from otpr_bench.study import ORDER

ROOT = Path(__file__).resolve().parents[1]


def kept(folder: str) -> list[dict]:
    """The summaries of the runs in a folder of results/, by name."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "results" / folder).glob("*.json"))]


RUNS = kept("peg-insert-side")
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
    assert row in PAGE.read_text()


def test_the_table_before_and_after_the_redesign_is_of_the_runs_that_are_kept():
    after, text = kept("boundaries"), (ROOT / "docs" / "devlog" / "boundaries.md").read_text()
    keys = ("base_success", "final_success", "final_success_single")
    for old, new in zip(DEFAULT, after, strict=True):
        assert old["seed"] == new["seed"]
        cells = [f"{run[key]:.0%}" for run in (old, new) for key in keys]
        assert f"| {old['seed']} | {' | '.join(cells)} |" in text
    means = [f"{mean(runs, key):.0%}" for runs in (DEFAULT, after) for key in keys]
    assert f"| mean | {' | '.join(means)} |" in text


WITHOUT = kept("without-compatibility")


def test_what_the_compatibility_adds_is_of_the_runs_that_are_kept():
    assert [run["seed"] for run in WITHOUT] == [run["seed"] for run in DEFAULT] == [0, 1, 2]
    text = PAGE.read_text()
    for run, without in zip(DEFAULT, WITHOUT, strict=True):
        assert run["code_version"] == without["code_version"]
        row = (
            f"| {run['seed']} | {run['base_success']:.0%} | {run['final_success']:.0%} "
            f"| {run['final_success_single']:.0%} | {without['final_success_single']:.0%} |"
        )
        assert row in text
    means = (mean(DEFAULT, "final_success"), mean(DEFAULT, "final_success_single"))
    assert f"{means[0]:.0%} with it ({means[1]:.0%} with one sample)" in text
    assert f"{mean(WITHOUT, 'final_success_single'):.0%} without" in text


def test_the_readme_shows_the_quickstart_that_is_kept():
    run = json.loads((ROOT / "results" / "quickstart" / "two-cores-seed0.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for key in ("base_success", "final_success", "final_success_single"):
        assert f"| {run[key]:.0%} |" in readme
    for key in ("base_success", "final_success", "final_success_single"):
        assert f"{mean(DEFAULT, key):.0%}" in readme


KEYPOINTS = {
    path.stem: json.loads(path.read_text()) for path in (ROOT / "results" / "keypoints").glob("*.json")
}
ONE_SEED = {"no-mask", *get_args(KeypointStrategy)}


@pytest.mark.parametrize("name", sorted(ONE_SEED))
def test_the_table_of_keypoint_strategies_is_of_the_runs_that_are_kept(name):
    run = KEYPOINTS[name]
    label = "none (`keypoint_share=0`)" if name == "no-mask" else f"`{name}`"
    row = (
        f"| {label} | {run['base_success']:.0%} | {run['final_success']:.0%} "
        f"| {run['final_success_single']:.0%} | {run['ot_marginal_error']:.2f} |"
    )
    assert row in (ROOT / "docs" / "keypoints.md").read_text()


@pytest.mark.parametrize(("name", "label"), [("no-mask", "none"), ("top-q", "`top-q`")])
def test_the_three_seeds_of_keypoints_are_those_that_are_kept(name, label):
    runs = [KEYPOINTS[f"{name}{suffix}"] for suffix in ("", "-seed1", "-seed2")]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    cells = [f"{run['final_success']:.0%} ({run['final_success_single']:.0%})" for run in runs]
    cells.append(f"{mean(runs, 'final_success'):.0%} ({mean(runs, 'final_success_single'):.0%})")
    assert f"| {label} | {' | '.join(cells)} |" in (ROOT / "docs" / "keypoints.md").read_text()


SUITES = kept("suites")


@pytest.mark.parametrize("run", SUITES, ids=lambda run: run["task"])
def test_the_table_of_suites_is_of_the_runs_that_are_kept(run):
    row = (
        f"| {run['base_success']:.0%} | {run['final_success']:.0%} | {run['final_success_single']:.0%} "
        f"| {run['env_steps']:,} |"
    )
    lines = PAGE.read_text().splitlines()
    assert any(line.startswith(f"| `{run['task']}`") and row in line for line in lines)


EXPERIMENTS = (ROOT / "docs" / "devlog" / "experiments.md").read_text()
PEERS = (ROOT / "docs" / "devlog" / "peers.md").read_text()
COLUMNS = json.loads((ROOT / "results" / "columns" / "seed10.json").read_text())


@pytest.mark.parametrize("run", COLUMNS, ids=lambda run: run["task"])
def test_the_table_of_relaxed_columns_is_of_the_runs_that_are_kept(run):
    relaxation = f"{run['column_relaxation']:,.0f}"
    row = (
        f"| `{run['task']}` | {run['epsilon']:g} | {relaxation} | {run['potentials_passes']} "
        f"| {run['success_by_steps'][0][1]:.0%} | {run['final_success']:.0%} "
        f"| {run['final_success_single']:.0%} | {run['row_error']:.2f} |"
    )
    assert run["seed"] == 10 and row in EXPERIMENTS


ZEROS = json.loads((ROOT / "results" / "columns" / "zero-compatibility.json").read_text())


@pytest.mark.parametrize("run", ZEROS, ids=lambda run: f"{run['task']}-{run['seed']}-{run['trained']}")
def test_the_table_of_zero_compatibility_is_of_the_evaluations_that_are_kept(run):
    assert run["episodes"] == 100  # so that counts are percentages
    shares = [
        f"{run['chosen'][rule]}%" if rule in run["chosen"] else "" for rule in ("IDQL's rule", "nearest")
    ]
    cells = [
        f"`{run['task']}`",
        str(run["seed"]),
        run["trained"],
        f"{run['zero_compatibility']:.0%}",
        *shares,
        f"{run['one']}%",
    ]
    row = "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
    assert row in EXPERIMENTS


@pytest.mark.parametrize("seed", range(3))
def test_the_table_of_served_policies_is_of_the_runs_that_are_kept(seed):
    served, theirs, itself = (
        json.loads((ROOT / "results" / "served" / f"{name}-seed{seed}.json").read_text())
        for name in ("otpr-serve", "lerobot", "itself")
    )
    numbers = (*(run["final_success"] for run in (served, theirs, itself)), itself["final_success_single"])
    row = " | ".join(f"{number:.0%}" for number in numbers)
    assert f"| {seed} | {row} |" in (ROOT / "docs" / "serving.md").read_text()


PIXELS = sorted((ROOT / "results" / "pixels").glob("*-3*-seed*.json"))


@pytest.mark.parametrize("file", PIXELS, ids=lambda file: file.stem)
def test_the_tables_from_images_are_of_the_runs_that_are_kept(file):
    run = json.loads(file.read_text())
    section = PAGE.read_text().partition("\n## From images\n")[2]
    table = section.partition(f"`{run['task']}`")[2].partition("| mean |")[0]
    numbers = (run[key] for key in ("base_success", "final_success", "final_success_single"))
    row = " | ".join(f"{number:.0%}" for number in numbers)
    assert f"| {run['seed']} | {row} |" in table
    assert (run["eval_episodes"], run["encoder"]) == (100, "frozen")


def test_seeds_that_some_method_has_not_done_are_left_out_of_the_tables():
    both = [row for seed in (0, 1) for row in made_up("otpr", [0.3, 0.5], seed=seed)]
    one = made_up("fql", [0.3, 0.4], seed=0)
    elsewhere = made_up("otpr", [0.3, 0.6], seed=1, task="robosuite/can")
    kept = balanced([*both, *one, *elsewhere])
    assert {(row.algorithm, row.task, row.seed) for row in kept} == {
        ("otpr", "metaworld/assembly-v3", 0),
        ("fql", "metaworld/assembly-v3", 0),
        ("otpr", "robosuite/can", 1),
    }


def test_the_tables_of_the_arena_are_those_of_the_raw_results():
    found = studies()
    text = PAGE.read_text()
    assert filled(text, texts(found), PAGE) == text
    for name in found:
        assert f"<!-- bench:{name}:tasks -->" in text and f"<!-- bench:{name}:losses -->" in text
        assert (PAGE.parent / name / "curves.png").stat().st_size > 10_000


RAW = read_arena(ROOT / "results" / "bench" / "arena-6.parquet")
# the others have no run of one version of the code on both
TWICE = [name for name in ORDER if name not in ("otpr", "bc", "fql", "qc")]


@pytest.mark.parametrize("task", ["ogbench/cube-double-task2", "robosuite/can"])
@pytest.mark.parametrize(("name", "machine"), [("Xeon", "Intel"), ("EPYC", "AMD")])
def test_the_same_seed_on_two_machines_is_that_of_the_raw_results(task, name, machine):
    ends = {}
    for row in RAW:
        if (row.task, row.seed, row.preset) == (task, 0, "default") and row.machine.startswith(machine):
            ends[row.algorithm] = max(ends.get(row.algorithm, row), row, key=lambda row: row.eval_at)
    cells = [f"{ends[peer].success:.0%}" if peer in ends else "-" for peer in TWICE]
    assert f"| `{task}` | {name} | {' | '.join(cells)} |" in PEERS


def test_the_versions_of_fql_and_qc_that_were_not_kept_are_those_of_the_raw_results():
    def final(name, task, choose):
        """Success at the end of the first, or last, of the runs from the task's newest base policy."""
        base = max((row for row in RAW if row.task == task), key=lambda row: row.started).base
        rows = [row for row in RAW if (row.algorithm, row.task, row.base, row.seed) == (name, task, base, 0)]
        started = choose(row.started for row in rows)
        return max((row for row in rows if row.started == started), key=lambda row: row.eval_at).success

    for task in {row.task for row in RAW}:
        cells = f"{final('qc', task, min):.0%} | {final('qc', task, max):.0%}"
        assert f"| `{task}` | {cells} |" in PEERS
    for run in json.loads((ROOT / "results" / "checks" / "fql-from-diffusion.json").read_text()):
        assert run["seed"] == 0
        assert f"| `{run['task']}` | {run['success']:.0%} | {final('fql', run['task'], max):.0%} |" in PEERS


def test_docs_tasks_is_what_make_tasks_writes_of_the_measurements():
    measured = {row["task"]: row for row in read_results()}
    assert (ROOT / "docs" / "tasks.md").read_text() == page(list_tasks(), measured)
    for spec in list_tasks():
        if spec.extra:  # LIBERO has none: it needs an environment of its own
            assert spec.id in measured
            assert picture_path(spec).stat().st_size > 1000
