"""Kill -9: nothing that was saved is lost, and the resumed run is the uninterrupted one."""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.training import checkpoints
from otpr.trees import read_arrays
from tests.faults.killed_run import PHASES
from tests.faults.small import rows
from tiny import assert_same_arrays, files, weights

ROOT = Path(__file__).parents[2]
PLACES = [str(ROOT / name) for name in ("src", "tests", ".")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(PLACES)}


def test_killed_before_any_operation_on_files_leaves_the_old_or_the_new(tmp_path: Path):
    script = [sys.executable, str(Path(__file__).parent / "killed_files.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert len(kills) == 9
    assert min(kills.values()) >= 10  # or the hook saw nothing


class Sitting:
    """One process of the run in a folder."""

    def __init__(self, path: Path, *options: str):
        resume = ["--resume"] if path.exists() else []
        command = [sys.executable, "-m", "tests.faults.killed_run", str(path), *resume, *options]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.seen: list[str] = []

    def next(self) -> str | None:
        """The phase that begins next; None at the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (name := line.strip()) in (*PHASES, "done"):
                self.seen.append(name)
                return name
        return None

    def finish(self) -> None:
        _, error = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, error

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def outcome(path: Path) -> dict[str, Any]:
    """Everything that must be equal: rows, policy, experience, the newest checkpoint, summary."""
    step = checkpoints.latest(path / "checkpoints")
    folder = path / "checkpoints" / str(step)
    state = json.loads((folder / "checkpoint.json").read_text())
    state["state"].pop("seconds")
    summary = json.loads((path / "summary.json").read_text())
    summary.pop("wall_seconds")
    summary.pop("code_version")  # another one where somebody commits while this runs
    return {
        "rows": rows(path),
        "policy": weights(path / "policy"),
        "step": step,
        "experience": files(path / "experience"),
        "arrays": read_arrays(folder / "arrays.safetensors"),
        "state": state,
        "summary": summary,
    }


def assert_equal_outcomes(given: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("rows", "step", "state", "summary", "experience"):
        assert given[name] == expected[name]
    for name in ("policy", "arrays"):
        assert_same_arrays(given[name], expected[name])


def survive(folder: Path, kills: int, *options: str, seed: int = 0) -> collections.Counter[str]:
    """Kill runs at random moments and resume them, until so many were killed and each came to its end.

    Returns:
        how many were killed, by phase.
    """
    generator = random.Random(seed)
    whole = Sitting(folder / "whole", *options)
    lasting, begun, phase = collections.defaultdict[str, list[float]](list), time.monotonic(), None
    while (name := whole.next()) is not None:
        if phase is not None:
            lasting[phase].append(time.monotonic() - begun)
        begun, phase = time.monotonic(), name
    whole.finish()
    expected = outcome(folder / "whole")
    killed: collections.Counter[str] = collections.Counter()
    path, wanted = folder / "killed", 0
    while path.exists() or killed.total() < kills:
        sitting = Sitting(path, *options)
        if killed.total() == kills:
            sitting.finish()
        else:
            target, times = PHASES[wanted % len(PHASES)], generator.randint(1, 2)
            wanted += 1
            while (name := sitting.next()) not in (None, "done"):
                times -= name == target
                if not times:
                    time.sleep(generator.uniform(0, float(np.median(lasting[target]))))
                    sitting.kill()
                    killed[target] += sitting.process.returncode == -signal.SIGKILL
                    break
            else:
                sitting.finish()
        if (path / "summary.json").exists() and sitting.process.returncode == 0:
            assert_equal_outcomes(outcome(path), expected)
            shutil.rmtree(path)
    print(f"killed and resumed: {dict(killed)}")
    return killed


@pytest.mark.faults
def test_fifty_kills_of_a_run_cost_nothing(tmp_path: Path):
    killed = survive(tmp_path, 50)
    assert killed.total() == 50
    assert set(killed) == set(PHASES)


@pytest.mark.faults
def test_kills_of_a_run_with_simulator_processes_cost_nothing(tmp_path: Path):
    assert survive(tmp_path, 3, "--metaworld", seed=1).total() == 3
