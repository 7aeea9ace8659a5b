"""LeRobot itself, in an environment of its own: `make interop`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from decisions import WIDE
from lerobot_cases import CASES, Case
from lerobot_ours import actions

from otpr.policies.convert.exported import write_files
from otpr.policies.convert.lerobot import import_lerobot
from otpr.policies.convert.lerobot_export import export_lerobot
from otpr.policies.policy import Policy
from otpr.trees import read_arrays

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("OTPR_INTEROP", ROOT / ".venv-interop")) / "bin" / "python"

pytestmark = pytest.mark.interop


def theirs(*arguments: Any) -> None:
    """Run LeRobot's side."""
    hidden = {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(PYTHON), str(Path(__file__).with_name("theirs.py")), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def drawn_by_lerobot(case: Case, folder: Path, out: Path) -> np.ndarray:
    theirs("act", case.name, folder, out)
    return read_arrays(out)["actions"]


def exported(case: Case, policy: Policy, out: Path) -> Path:
    keys = tuple(sorted(case.images, key=lambda key: key.split(".")[-1]))
    length = case.vectors["observation.state"]
    write_files(export_lerobot(policy, state_length=length, image_keys=keys), out)
    return out


def moved(policy: Policy) -> Policy:
    """As after some gradient steps: every weight of the network another one."""
    rng = np.random.default_rng(0)
    arrays, static = eqx.partition(policy.diffusion.network, eqx.is_array)
    other = jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32), arrays)
    return policy.with_generator(policy.diffusion.with_network(eqx.combine(other, static)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_actions_both_ways(case: Case, tmp_path: Path) -> None:
    theirs("make", case.name, tmp_path / "theirs")
    given = drawn_by_lerobot(case, tmp_path / "theirs", tmp_path / "theirs.safetensors")
    policy = import_lerobot(tmp_path / "theirs", WIDE).policy
    np.testing.assert_allclose(actions(policy, case), given, atol=1e-4)

    back = drawn_by_lerobot(case, exported(case, policy, tmp_path / "back"), tmp_path / "back.safetensors")
    np.testing.assert_allclose(back, given, atol=1e-4)

    tuned = moved(policy)
    after = drawn_by_lerobot(case, exported(case, tuned, tmp_path / "tuned"), tmp_path / "tuned.safetensors")
    assert np.abs(after - given).max() > 0.01
    np.testing.assert_allclose(after, actions(tuned, case), atol=1e-4)
