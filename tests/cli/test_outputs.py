"""Every command that writes looks, before it does anything else, whether it can."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from otpr.cli.main import main

TASK = "tests.envs.user_envs:make_reach"
COMMANDS = {
    "collect": ["collect", TASK, "--out", "file/set"],
    "convert": ["data", "convert", "nothing.npz", "--out", "file/set"],
    "inspect": ["data", "inspect", "nothing.npz", "--picture", "file/p.png"],
    "pretrain": ["pretrain", "--data", "nothing", "--run-dir", "file/run"],
    "finetune": ["finetune", "--policy", "nothing", "--run-dir", "file/run"],
    "evaluate": ["evaluate", "nothing", "--out", "file/e.json"],
    "film": ["evaluate", "nothing", "--video", "file/v.mp4"],
    "quickstart": ["quickstart", "--task", TASK, "--run-dir", "file/run"],
    "report": ["report", "run", "--out", "file/r.html"],
    "bench": ["bench", "--out", "file/bench"],
    "results": ["bench", "--results", "file/r.parquet"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_below_a_file_is_refused_before_anything_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("run").mkdir()
    assert main(COMMANDS[name]) == 2
    said = capsys.readouterr().err
    option, place = COMMANDS[name][-2:]
    assert said.startswith(f"otpr: {tmp_path / place}")
    assert f"cannot be written: {tmp_path / 'file'} is a file, not a folder. Give another" in said
    assert option in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "run"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TASK, f"{TASK} has no scripted expert, whose demonstrations a quickstart begins with."),
        ("tests.envs.user_envs:never_ends", "nothing limits the length of an episode"),
    ],
)
def test_a_task_that_quickstart_cannot_do_is_refused_before_anything_is_made(
    task: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--task", task, "--run-dir", "run"]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_windows_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["info"]) == 2
    assert capsys.readouterr().err == (
        "otpr: otpr does not run on Windows itself; install it in WSL 2, or on Linux or macOS.\n"
    )
