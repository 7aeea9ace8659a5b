"""SIGTERM leaves nothing half-written, as Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# stands still where the new set is half-written
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in the background
from minari.dataset._storages.hdf5_storage import HDF5Storage

def half(self, episodes):
    next(iter(episodes))
    print("writing", flush=True)
    time.sleep(600)

HDF5Storage.update_episodes = half
from otpr.cli.main import entry
entry()
"""
COLLECT = ["collect", "tests.envs.user_envs:make_reach", "--expert", "tests.envs.user_envs:ReachExpert"]
CONVERT = ["data", "convert", "{folder}/set.npz", "--assume-success"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [[*COLLECT, "--episodes", "1", "--noise", "0"], CONVERT])
def test_a_set_that_is_half_written_goes(tmp_path: Path, arguments: list[str], number: signal.Signals):
    steps = 6
    np.savez(
        tmp_path / "set.npz",
        observations=np.zeros((steps, 3)),
        actions=np.zeros((steps, 2)),
        timeouts=np.arange(steps) % 3 == 2,
    )
    told = [argument.format(folder=tmp_path) for argument in arguments]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *told, "--out", str(tmp_path / "new" / "set")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "writing\n":
                assert line, process.communicate()
            assert list((tmp_path / "new").glob(".set.*"))
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    if number == signal.SIGTERM:
        assert (process.returncode, said) == (143, "\notpr: terminated; nothing was written.\n")
    else:
        assert (process.returncode, said) == (130, "\notpr: interrupted.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.npz"]
