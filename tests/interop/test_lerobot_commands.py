"""`otpr policy import` and `export` as commands, and a LeRobot policy with LeRobot data in a task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot_cases import CASES
from lerobot_ours import actions, folder_with_weights

from otpr.cli.main import main
from otpr.policies.convert.lerobot import import_lerobot
from otpr.policies.loading import load_policy, policy_meaning, policy_task

DDPM, IMAGES = CASES[0], CASES[3]
ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "fixtures" / "lerobot"
TASK = "tests.envs.user_envs:make_five"
WIDE = ["--action-low", "-20", "--action-high", "20"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_weights(DDPM, tmp_path_factory.mktemp("theirs") / "policy")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_in_and_out_again(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert run("policy", "import", theirs, "--out", ours, *WIDE) == 0
    assert capsys.readouterr().out.splitlines() == [
        "observation   state: vector (5,) float32",
        "action        2 dimensions, bounds [-20, 20]",
        "control rate  unknown",
        "history       2",
        "horizon       8",
        "execute       4, after the first 1",
        f"Policy: {ours}",
    ]
    assert policy_task(ours) == ""
    assert policy_meaning(ours)["parts"] == [["observation.state", 3], ["observation.environment_state", 2]]
    assert run("policy", "inspect", ours) == 0
    inspected = capsys.readouterr().out
    assert inspected.startswith(f"{ours}: policy for a task that it does not name")
    assert "network.kind unet" in inspected

    assert run("policy", "export", ours, "--out", back) == 0
    assert capsys.readouterr().out == f"Written for LeRobot 0.4.4: {back}\n"
    config = json.loads((back / "config.json").read_text())
    assert list(config["input_features"]) == ["observation.state", "observation.environment_state"]
    given, returned = (import_lerobot(folder, ((-20,), (20,))).policy for folder in (theirs, back))
    np.testing.assert_array_equal(actions(returned, DDPM), actions(given, DDPM))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--action-low", "-20"], "Give both --action-low and --action-high, or neither."),
        ([*WIDE, "--cameras", "top"], "--observe and --cameras are of a task; name it with --task."),
        ([*WIDE, "--task", "tests.envs.user_envs:make_reach"], "observation 'state': vector (5,) float32"),
        ([*WIDE, "--accept", "colour"], "Unknown difference to accept 'colour'"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing(
    theirs: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("policy", "import", theirs, "--out", tmp_path / "ours", *arguments)
    printed = capsys.readouterr()
    assert code == 2 and message in printed.err
    assert not (tmp_path / "ours").exists()


def test_actions_beyond_the_bounds_are_told(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", "import", theirs, "--task", TASK, "--out", tmp_path / "ours") == 0
    assert "beyond the bounds [-1, 1], and are clipped to them" in capsys.readouterr().out


def test_a_folder_of_something_else_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("policy", "import", tmp_path, "--out", tmp_path / "ours") == 2
    assert "holds no config.json, as a policy of LeRobot does" in capsys.readouterr().err


def test_a_policy_without_a_task_asks_for_one(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("policy", "import", theirs, "--out", tmp_path / "ours", *WIDE)
    assert run("evaluate", tmp_path / "ours", "--episodes", 1) == 2
    assert "does not name its task. Give it with --task." in capsys.readouterr().err


@pytest.mark.slow
def test_lerobots_policy_and_data_are_fine_tuned_and_taken_back(theirs: Path, tmp_path: Path) -> None:
    ours, data, tuned, back = (tmp_path / name for name in ("ours", "data", "run", "back"))
    assert run("policy", "import", theirs, "--task", TASK, "--out", ours) == 0
    convert = ("data", "convert", DATA, "--task", TASK, "--skip-check", "--action-low", "-1", "--action-high")
    assert run(*convert, "1", "--out", data) == 0
    small = ["--env-steps", 40, "--warmup-steps", 20, "--num-envs", 2, "--eval-episodes", 1]
    small += ["--final-eval-episodes", 1, "--eval-every", 40, "--warmup-updates", 10, "--batch-size", 8]
    small += ["--update-block", 10, "--update-ratio", 1, "--ema-rate", 1, "--policy-learning-rate", 1e-2]
    where = ("--policy", ours, "--data", data, "--run-dir", tuned)
    assert run("finetune", "idql", *where, *small, "--no-video") == 0
    assert run("policy", "export", tuned, "--state-length", 3, "--out", back) == 0
    after = load_policy(tuned)
    returned = import_lerobot(back, ((-1,), (1,))).policy
    np.testing.assert_allclose(actions(returned, DDPM), actions(after.single(), DDPM), atol=1e-5)
    before = load_policy(ours)
    assert np.abs(actions(before, DDPM) - actions(after.single(), DDPM)).max() > 1e-3
