from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes

from otpr.cli.main import main
from otpr_bench.bases import load_base
from otpr_bench.commands import Bench
from otpr_bench.results import read_results
from otpr_bench.suites import BENCH_SUITES, BenchTask, Budget, Recipe
from tiny import AGENT, TASK, files


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(place, capsys):
    assert main(["bench", "--suite", "arena-6", "--algorithms", "otpr,otpr:paper", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "metaworld/assembly-v3" in output
    assert "robosuite/square" in output
    assert "36 runs are left; how long they take is not known" in output
    assert files(place) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "arena"], "Unknown suite 'arena'"),
        (["--algorithms", "otpt"], "Unknown algorithm 'otpt'"),
        (["--algorithms", "otpr:papr"], "'papr'"),
        (["--seeds", "3..1"], "the range 3..1 is empty"),
        (["--seeds", "0-3"], "--seeds takes 0..4, or 0,2,5; given '0-3'"),
        (["--cpus-per-run", "0"], "cpus_per_run must be at least 0.01, given 0"),
        (["--gpus-per-run", "-1"], "gpus_per_run must be at least 0, given -1"),
        (["--budget-minutes", "-1"], "budget_minutes must be at least 0"),
        (["--noise", "0.3"], "--noise belongs to the suite `open`"),
        (["--env-steps", "10"], "--env-steps belongs to the suite `open`"),
        (["--tasks", TASK], "--tasks belongs to the suite `open`"),
        (["--suite", "open"], "needs tasks"),
        (["--suite", "open", "--tasks", "metaworld/reech-v3"], "metaworld/reach-v3"),
        (["--suite", "open", "--tasks", TASK, "--demonstrations", "0"], "demonstrations must be at least 1"),
        (["--cpus-per-runs", "2"], "--cpus-per-run"),
    ],
)
def test_bad_input_is_answered_in_words_and_changes_nothing(place, capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert files(place) == {}


def test_results_that_cannot_be_read_are_said_before_anything_runs(place, capsys):
    (place / "results.parquet").write_text("suite,task\n")
    assert main(["bench", "--results", "results.parquet"]) == 2
    assert "results.parquet cannot be read as Parquet" in capsys.readouterr().err
    assert list(files(place)) == ["results.parquet"]


def test_an_open_suite_takes_its_recipe_and_budget_from_the_options():
    options = "--demonstrations 3 --noise 0.2 --chunk-length 8 --updates 50 --env-steps 4000"
    bench = tyro.cli(
        Bench, args=["--suite", "open", "--tasks", TASK, *options.split()], config=(OmitArgPrefixes,)
    )
    (task,) = bench._suite().tasks
    assert task == BenchTask(TASK, Recipe(3, 0.2, 8, 50), Budget(env_steps=4000))
    assert task.budget.steps_between_evaluations == 800


@pytest.mark.slow
def test_a_real_benchmark_is_stopped_gone_on_with_and_complete(place, monkeypatch, capsys):
    """Two tasks, bases made by processes of their own, real runs; no time to learn anything."""
    recipe = Recipe(2, noise=0.1, updates=100, base_episodes=4)
    budget = Budget(env_steps=1200, eval_every=600, eval_episodes=2, final_eval_episodes=4, num_envs=2)
    tasks = tuple(BenchTask(task, recipe, budget) for task in (TASK, "metaworld/reach-v3"))
    monkeypatch.setitem(BENCH_SUITES, "smoke", tasks)
    small = ":".join(["otpr:default", *AGENT])
    arguments = ["bench", "--algorithms", f"{small},bc", "--seeds", "0"]
    assert main([*arguments, "--budget-minutes", "0.5"]) == 0
    assert "Something is left to do. Continue with:" in capsys.readouterr().out
    assert main(arguments) == 0
    rows = read_results(place / "results" / "bench" / "smoke.parquet")
    steps = {(row.task, row.algorithm): [] for row in rows}
    for row in rows:
        assert (row.status, row.error) == ("done", "")
        steps[row.task, row.algorithm].append(row.eval_at)
    assert steps == {(task.id, "otpr"): [0, 600, 1200] for task in tasks} | {
        (task.id, "bc"): [0] for task in tasks
    }
    last = [row for row in rows if row.eval_at == 1200]
    assert all(row.env_steps >= 1200 and row.episodes == 4 and row.wall_seconds > 1 for row in last)
    assert main([*arguments, "--dry-run"]) == 0
    assert "Nothing is left to run." in capsys.readouterr().out

    # made again, a base comes out the same, so that nothing has to be run again
    folder = place / "runs/bench/smoke/bases" / TASK.replace("/", "-")
    before = load_base(folder, TASK, recipe)
    shutil.rmtree(folder)
    assert main(arguments) == 0
    assert load_base(folder, TASK, recipe) == before
    assert read_results(place / "results" / "bench" / "smoke.parquet") == rows


@pytest.mark.slow
def test_the_smoke_suite_runs(place, capsys):
    assert main(["bench", "--suite", "smoke", "--algorithms", "otpr", "--seeds", "0"]) == 0
    rows = read_results(place / "results" / "bench" / "smoke.parquet")
    assert [row.eval_at for row in rows] == [0, 1000, 2000] * 2
    assert {row.status for row in rows} == {"done"}
    assert "WARNING" not in capsys.readouterr().out  # its recipes leave bases as they should be
