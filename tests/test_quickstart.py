"""The main job in small: few steps and few evaluation episodes, else as `make quickstart` runs it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from otpr.cli import evaluate as command
from otpr.cli.main import main
from otpr.cli.quickstart import PIXELS, STATE, Quickstart
from otpr.data.datasets import read_dataset
from otpr.policies.loading import load_policy, policy_task
from otpr.training import finetune
from otpr.training.evaluate import Evaluation, evaluate
from otpr.training.run_directory import RunDirectory, read_rows
from tiny import TASK, assert_same_arrays, files, weights

EPISODES = 4
ARGUMENTS = ["quickstart", "--task", TASK, "--seed", "3", "--demos", "2", "--env-steps", "2000"]


def few_episodes(policy: Any, env: Any, episodes: int, **options: Any) -> Evaluation:
    return evaluate(policy, env, min(episodes, EPISODES), **options)


@pytest.mark.slow
def test_quickstart_stopped_once_and_resumed_leaves_everything_that_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetune, "evaluate", few_episodes)
    monkeypatch.setattr(command, "evaluate", few_episodes)
    arguments = [*ARGUMENTS, "--run-dir", "runs/small"]

    # a Ctrl-C during imitation
    log = RunDirectory.log

    def log_and_interrupt(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if run.command == "pretrain":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "log", log_and_interrupt)
        assert main(arguments) == 0
    again = capsys.readouterr().out.rstrip().split("\n")[-1].split()
    assert again[1:] == [*arguments, "--resume"]
    assert len(read_rows("runs/small/pretrain")) == 1
    collected = files(Path("runs/small/demonstrations"))

    assert main(again[1:]) == 0
    text = capsys.readouterr().out
    run = Path("runs/small")
    assert files(run / "demonstrations") == collected
    assert len(read_dataset(run / "demonstrations").episodes) == 2

    summary = json.loads((run / "summary.json").read_text())
    rows = read_rows(run)
    evaluations = [row for row in rows if "eval/success_rate" in row]
    assert summary["task"] == policy_task(run) == policy_task(run / "pretrain") == TASK
    assert (summary["algorithm"], summary["preset"], summary["seed"]) == ("otpr", "default", 3)
    assert summary["env_steps"] == rows[-1]["env_steps"] >= 2000
    assert summary["base_success"] == evaluations[0]["eval/success_rate"]
    assert summary["final_success"] == evaluations[-1]["eval/success_rate"]
    assert summary["wall_seconds"] > 0
    error = "otpr/marginal_error"
    assert summary[error] == [row for row in rows if error in row][-1][error]
    assert (summary["execute"], summary["episode_limit"]) == (4, 200)
    # learning took place although the budget is below the usual warm-up
    assert rows[-1]["env_steps"] > min(row["env_steps"] for row in rows if "policy/loss" in row)

    # the evaluation at the end agrees with the fine-tuning's own: same policies, same conditions
    results = json.loads((run / "evaluation.json").read_text())
    assert [result["success_rate"] for result in results] == [
        evaluations[0]["eval/success_rate"],
        evaluations[-1]["eval/success_rate"],
        evaluations[-1]["eval/success_rate_single"],
    ]
    for name, result in zip(
        ("before: imitation", "after: OTPR", "after: OTPR, one sample"), results, strict=True
    ):
        [line] = [line for line in text.split("\n") if line.strip().startswith(f"{name} ")]
        assert f" {result['success_rate']:.0%} " in line
    assert f"{summary['env_steps']:,} environment steps" in text
    assert (run / "learning_curve.png").stat().st_size > 1000
    assert "What happened" in (run / "report.html").read_text()
    videos = list(run.glob("videos/*.mp4"))
    assert len(videos) == 2 or "video" in text.lower()
    base, tuned = weights(run / "pretrain" / "policy"), weights(run / "policy")
    assert any((base[name] != tuned[name]).any() for name in base if "network" in name)
    assert load_policy(run).chooser is not None

    # what is there is not touched without being told
    before = files(run)
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert files(run) == before
    # and a finished job resumed changes no number
    assert main([*arguments, "--resume"]) == 0
    assert_same_arrays(weights(run / "policy"), tuned)
    assert len(read_rows(run)) == len(rows)


def test_what_is_left_out_is_the_recipes() -> None:
    assert Quickstart()._recipe() == STATE
    assert Quickstart(pixels=True)._recipe() == PIXELS
    given = Quickstart(pixels=True, task="metaworld/door-open-v3", demos=3, noise=0.0)._recipe()
    assert (given.task, given.demos, given.noise) == ("metaworld/door-open-v3", 3, 0.0)
    assert given.imitation == PIXELS.imitation


@pytest.mark.parametrize(("option", "value"), [("--demos", "0"), ("--noise", "-1"), ("--noise", "nan")])
def test_numbers_that_make_no_demonstrations_are_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["quickstart", option, value, "--run-dir", str(folder)]) == 2
    assert f"{option[2:]} must be at least" in capsys.readouterr().err
    assert not folder.exists()


def test_pixels_need_a_camera_that_is_known_to_show_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["quickstart", "--pixels", "--task", "kitchen/mixed", "--run-dir", str(folder)]) == 2
    assert "otpr collect --cameras NAME --observe proprioception" in capsys.readouterr().err
    assert not folder.exists()
