"""`otpr info TASK`."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

import otpr
from otpr.cli.main import main
from otpr.envs import task_spec
from otpr.spec import Spec

TASK = "fetch/push"


def test_a_task_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", TASK]) == 0
    assert capsys.readouterr().out.splitlines() == [
        TASK,
        "observation   state: vector (28,) float32",
        "action        4 dimensions, bounds [-1, 1]",
        "control rate  25 Hz",
        "parts         observation (25), desired_goal (3)",
        "environment   FetchPush-v4",
        "robot         Fetch",
        "episode limit 50 steps",
        "expert        scripted",
        "cameras       head_camera_rgb, gripper_camera_rgb, lidar, external_camera_0",
        "proprioception observation (10)",
        "simulator     installed",
    ]


def test_a_task_is_told_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", TASK, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Spec.from_json(told.pop("spec")) == task_spec(TASK).spec
    assert told.pop("geometry")["positions"] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 25, 26, 27]
    assert told == {
        "id": TASK,
        "extra": "robotics",
        "install": "pip install 'otpr[robotics]'",
        "installed": True,
        "episode_limit": 50,
        "expert": True,
        "parts": [["observation", 25], ["desired_goal", 3]],
        "facts": {"environment": "FetchPush-v4", "robot": "Fetch"},
        "resolution": 1e-4,
        "cameras": ["head_camera_rgb", "gripper_camera_rgb", "lidar", "external_camera_0"],
    }


def test_an_environment_of_the_user_s_has_its_own_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tests.envs.user_envs:never_ends"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "action        2 dimensions, bounds [-0.1, 0.3] [0, 0.2]" in told
    assert "control rate  unknown" in told
    assert "episode limit none declared: give --episode-limit" in told


def test_a_task_that_is_not_installed_is_told_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gymnasium_robotics" else find_spec(name)
    )
    assert main(["info", TASK]) == 0
    assert "simulator     not installed: pip install 'otpr[robotics]'" in capsys.readouterr().out


def test_a_misspelt_task_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "fetch/psuh"]) == 2
    assert "Did you mean 'fetch/push'" in capsys.readouterr().err


def test_the_report_of_a_problem_is_markdown_with_versions_and_extras(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("OTPR_API_KEY", "a secret")
    assert main(["info", "--report"]) == 0
    told = capsys.readouterr().out
    rows = dict(re.findall(r"^\| (\S+) \| (.*) \|$", told, re.MULTILINE))
    assert rows["otpr"].startswith(f"{otpr.__version__} (")
    assert rows["jax"] == jax.__version__
    assert rows["MUJOCO_GL"] == "egl"
    assert rows["metaworld"] == f"metaworld {version('metaworld')}, mujoco {version('mujoco')}"
    assert "trackio" in rows["trackio"]
    assert {"cluster", "lerobot", "onnx", "serve", "video"} <= rows.keys()
    assert "a secret" not in told
    assert str(Path.home()) not in told


def test_the_report_is_of_the_whole_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", TASK, "--report"]) == 2
    assert "otpr info --report" in capsys.readouterr().err
