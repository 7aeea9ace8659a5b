from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otpr_bench import child

linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity and the parent's death are Linux's")

# In the place of `otpr`, which takes seconds to import: it says what it finds, or waits for a signal.
BOOT = """
import os, signal, sys, time, types
from pathlib import Path
from otpr_bench import child
place = Path(sys.argv[1])
def main(command):
    if command == ["look"]:
        cores = sorted(os.sched_getaffinity(0))
        place.joinpath("seen").write_text(repr([command, cores, os.nice(0)]))
        return 7
    signal.signal(signal.SIGTERM, lambda *_: (place.joinpath("saved").touch(), os._exit(0)))
    place.joinpath("ready").touch()
    time.sleep(60)
sys.modules["otpr.cli.main"] = types.SimpleNamespace(main=main)
import otpr.cli
otpr.cli.main = sys.modules["otpr.cli.main"]
sys.exit(child.main(sys.argv[2:]))
"""


@linux
def test_it_takes_its_core_goes_behind_others_and_hands_on_the_status(tmp_path):
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BOOT, str(tmp_path), str(core), str(os.getpid()), "look"]
    assert subprocess.run(command).returncode == 7
    seen = (tmp_path / "seen").read_text()
    assert seen == repr([["look"], [core], min(19, os.nice(0) + 10)])


@linux
def test_it_is_asked_to_stop_when_its_parent_is_killed(tmp_path):
    command = [sys.executable, "-c", BOOT, str(tmp_path), "0"]
    parent = f"import os, subprocess; subprocess.run([*{command!r}, str(os.getpid()), 'wait'])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    _wait_for(tmp_path / "ready")
    assert not (tmp_path / "saved").exists()
    process.kill()
    process.wait()
    _wait_for(tmp_path / "saved")


@linux
def test_it_does_nothing_when_its_parent_is_dead_already(tmp_path):
    command = [sys.executable, "-c", BOOT, str(tmp_path), "0", "1", "look"]
    assert subprocess.run(command).returncode == 1
    assert not (tmp_path / "seen").exists()


@linux
def test_a_base_that_cannot_be_made_says_why(tmp_path):
    recipe = json.dumps({"demonstrations": 1, "noise": 0.1})
    arguments = ["0", str(os.getpid()), "base", str(tmp_path / "base"), "adroit/pen", recipe]
    ran = subprocess.run([sys.executable, "-m", child.__name__, *arguments], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "no scripted expert" in ran.stderr
    assert not (tmp_path / "base" / "base.json").exists()


def _wait_for(file: Path) -> None:
    until = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)
