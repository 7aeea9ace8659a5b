"""Our side of the comparison with LeRobot: its policies with the cases' weights, and what ours draw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from lerobot_cases import DRAWS, FIXTURES, Case, weight
from numpy.typing import NDArray

from otpr.diffusion.sampling import Noise
from otpr.lerobot_names import STATE_PARTS, image_entry
from otpr.policies.policy import Policy
from otpr.trees import to_bytes

WIDE = (-20.0,), (20.0,)
"""Action bounds that no policy of the cases reaches."""


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


@eqx.filter_jit
def _plan(policy: Policy, seen: Any, noise: Noise) -> jax.Array:
    return policy.diffusion.from_noise(policy.state(seen), noise)[0]


def actions(policy: Policy, case: Case) -> NDArray[np.float32]:
    """The actions that are executed, in their own units, (DRAWS, execute, a)."""
    start, steps = case.noise()
    low, high = np.asarray(policy.spec.action_low), np.asarray(policy.spec.action_high)
    found: list[NDArray[Any]] = []
    for draw in range(DRAWS):
        seen = {name: x[draw] for name, x in observations(case).items()}
        noise = Noise(jnp.asarray(start[draw : draw + 1]), jnp.asarray(steps[:, draw : draw + 1]))
        plan = _plan(policy, policy.encoder.on_device(seen), noise)[policy.spec.executed]
        found.append(low + (np.asarray(plan, np.float64) + 1) / 2 * (high - low))
    return np.stack(found)
