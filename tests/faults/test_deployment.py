"""A policy on a machine that it can neither write to nor reach out of, as on a robot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tiny import TASK, chooser, files, policy

# Every mounted file system becomes read-only; /dev, /proc and /sys are the kernel's and hold no files.
# $1: the Python to run, with the rest as its arguments.
SEALED = """
while read -r _ place _; do
    case $place in /dev|/dev/pts|/proc*|/sys*) continue;; esac
    mount -o remount,bind,ro "$place" 2>/dev/null
done < /proc/self/mounts
exec "$@"
"""

# Says what it can do, then loads and acts.
ROBOT = """
import errno, json, os, socket, sys

folder, observations = sys.argv[1], json.loads(sys.argv[2])
able = []
for place in (folder, os.path.dirname(folder), "/", "/tmp", "/dev/shm"):
    try:
        open(os.path.join(place, "otpr-test"), "w").close()
        able.append(f"write to {place}")
    except OSError as error:
        assert error.errno == errno.EROFS, (place, error)
try:
    socket.create_connection(("192.0.2.1", 9), timeout=5).close()
    able.append("reach the network")
except OSError as error:
    assert error.errno == errno.ENETUNREACH, error

import otpr

policy = otpr.load_policy(folder)
chunks = [policy.act(observation, seed).tolist() for seed, observation in enumerate(observations)]
print(json.dumps({"able": able, "home": os.environ.get("HOME"), "chunks": chunks}))
"""


def test_policy_acts_where_nothing_can_be_written_or_reached(tmp_path: Path) -> None:
    shown = policy(observation_dim=3, action_dim=2, chooser=chooser(3, 16))
    shown.save(tmp_path / "policy", task=TASK)
    observations = [[0.1, -0.2, 0.3], [1.0, 2.0, -3.0]]
    before = files(tmp_path)
    done = sealed_off(ROBOT, str(tmp_path / "policy"), json.dumps(observations))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert (said["able"], said["home"]) == ([], None)
    expected = [shown.act(np.asarray(observation), seed) for seed, observation in enumerate(observations)]
    np.testing.assert_array_equal(np.asarray(said["chunks"], np.float32), np.stack(expected))
    assert files(tmp_path) == before


def sealed_off(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in file systems that are all read-only, without network, home or caches of JAX."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare command here")
    alone = ["unshare", "--mount", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (tried := subprocess.run([*alone, "true"], capture_output=True, text=True)).returncode:
        pytest.skip(f"this user may not have namespaces of its own: {tried.stderr.strip()}")
    ambient = ("HOME", "TMPDIR", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    return subprocess.run(
        [*alone, "sh", "-c", SEALED, "sh", sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        # what measures coverage would write, too
        env={
            name: value
            for name, value in os.environ.items()
            if name not in ambient and not name.startswith("COV")
        },
        timeout=120,
    )
