"""Our side of the comparison with LeRobot: its policies with the cases' weights, and what ours draw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from decisions import decided
from lerobot_cases import FIXTURES, Case, weight
from numpy.typing import NDArray

from otpr.lerobot_names import STATE_PARTS, image_entry
from otpr.policies.policy import Policy
from otpr.trees import to_bytes


def folder_with_weights(case: Case, folder: Path) -> Path:
    """The policy as LeRobot saved it."""
    shutil.copytree(FIXTURES / case.name, folder)
    shapes: dict[str, list[int]] = json.loads((folder / "weights.json").read_text())
    if not (folder / "model.safetensors").exists():
        arrays = {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
        (folder / "model.safetensors").write_bytes(to_bytes(arrays))
    return folder


def observations(case: Case) -> dict[str, NDArray[Any]]:
    """Those of the case as our policies take them, (DRAWS, n_obs_steps, *shape)."""
    theirs = case.observations()
    vectors = [theirs[name] for name in STATE_PARTS if name in case.vectors]
    return {
        "state": np.concatenate(vectors, axis=-1),
        **{image_entry(name): theirs[name] for name in case.images},
    }


def actions(policy: Policy, case: Case) -> NDArray[np.float64]:
    """The actions that are executed, in their own units, (DRAWS, execute, a)."""
    return decided(policy, observations(case), case.noise())
