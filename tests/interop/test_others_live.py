"""diffusion_policy and DPPO themselves, in an environment of their own: `make interop`.

OTPR_DIFFUSION_POLICY and OTPR_DPPO name checkouts of the two projects, which no package index has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from others_cases import DIFFUSION_POLICY, DPPO, Case
from others_ours import actions, imported

from otpr.npz import read_npz

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("OTPR_INTEROP", ROOT / ".venv-interop")) / "bin" / "python"
CHECKOUTS = ("OTPR_DIFFUSION_POLICY", "OTPR_DPPO")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        any(name not in os.environ for name in CHECKOUTS),
        reason=f"{' and '.join(CHECKOUTS)} must name checkouts of diffusion_policy and DPPO",
    ),
]


@pytest.mark.parametrize("case", [*DIFFUSION_POLICY, *DPPO], ids=lambda case: case.name)
def test_the_same_actions_as_their_code(case: Case, tmp_path: Path) -> None:
    command = [PYTHON, Path(__file__).with_name("others_theirs.py"), "make", case.name, tmp_path]
    hidden = {"PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **hidden}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = read_npz(tmp_path / "expected.npz")["actions"]
    np.testing.assert_allclose(actions(imported(case, tmp_path).policy, case), expected, atol=1e-4)
