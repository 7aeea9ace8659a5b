"""docs/bring-your-own.md, run as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from otpr.cli.main import main
from otpr.data.datasets import read_dataset
from otpr.envs import task_spec

PAGE = (Path(__file__).parent.parent / "docs" / "bring-your-own.md").read_text()
FILES = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    yield tmp_path
    for name in ("my_robot", "my_camera"):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "python":
        subprocess.run([sys.executable, *arguments], check=True)
    else:
        assert program == "otpr"
        assert main(arguments) == 0, command


def test_each_file_has_at_most_40_lines() -> None:
    assert set(FILES) == {"my_robot.py", "my_camera.py", "record.py"}
    for code in FILES.values():
        assert len(code.splitlines()) <= 40


def test_collecting_converting_and_inspecting_as_printed(folder: Path) -> None:
    quick = [c for c in COMMANDS if c.startswith(("otpr info", "otpr collect", "python", "otpr data"))]
    assert len(quick) == 6
    for command in quick:
        run(command)
    seen = read_dataset("runs/seen")
    assert seen.spec == task_spec("my_camera:make_env").spec
    assert seen.episodes[0].observations["above"].shape[1:] == (64, 64, 3)
    collected, logged = read_dataset("runs/demonstrations"), read_dataset("runs/logged")
    assert collected.task_id == logged.task_id == "my_robot:make_env"
    assert all(episode.success for episode in [*collected.episodes, *logged.episodes])
    assert {
        episode.observations["state"].shape[1] for episode in [*collected.episodes, *logged.episodes]
    } == {6}
    assert collected.spec == task_spec("my_robot:make_env").spec
    assert collected.spec.action_high == pytest.approx((0.05, 0.05))
    assert collected.spec.differences(logged.spec) == []
    assert (folder / "runs" / "logged.png").stat().st_size > 10_000


@pytest.mark.slow
def test_every_command_as_printed(folder: Path) -> None:
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        run(command)
