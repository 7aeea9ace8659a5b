"""Our side of the comparison with diffusion_policy and DPPO."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from decisions import WIDE, decided
from numpy.typing import NDArray
from others_cases import DIFFUSION_POLICY, FIXTURES, Case, weight

from otpr.npz import read_npz
from otpr.policies.convert.diffusion_policy_to_otpr import FORMAT
from otpr.policies.convert.dppo_files import Files
from otpr.policies.convert.formats import import_policy
from otpr.policies.convert.imported import Imported
from otpr.policies.policy import Policy

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))

from torch_zip import save


def converted(case: Case, folder: Path) -> Path:
    """A converted checkpoint of diffusion_policy: as the script wrote it, or made of the formulas."""
    if (FIXTURES / case.name / "policy.pt").is_file():
        return FIXTURES / case.name / "policy.pt"
    folder.mkdir(exist_ok=True)
    return save(content_of(case), folder / "policy.pt")


@functools.cache
def weights_of(name: str) -> dict[str, NDArray[Any]]:
    """The weights of a case of diffusion_policy; none may change them."""
    shapes: dict[str, list[int]] = json.loads((FIXTURES / name / "weights.json").read_text())
    normalizer = read_npz(FIXTURES / name / "normalizer.npz")
    return {
        key: normalizer[key] if key in normalizer else weight(key, tuple(shape))
        for key, shape in shapes.items()
    }


def content_of(case: Case) -> dict[str, Any]:
    """What the script writes of a case."""
    settings = {"policy": case.settings, "n_latency_steps": 0, "weights": "ema"}
    return {"format": FORMAT, "settings": json.dumps(settings), "weights": dict(weights_of(case.name))}


def imported(case: Case, folder: Path) -> Imported:
    """The policy of a case: of `folder` where its files are there, else as the fixtures have it."""
    if case in DIFFUSION_POLICY:
        own = folder / "policy.pt"
        return import_policy(own if own.is_file() else converted(case, folder), bounds=WIDE)
    own = folder if (folder / "state_3.pt").is_file() else FIXTURES / case.name
    return import_policy(own / "state_3.pt", bounds=WIDE, files=Files(config=own / "config.yaml"))


def observations(case: Case) -> dict[str, NDArray[Any]]:
    """Those of the case as our policies take them, (DRAWS, history, *shape)."""
    theirs = case.observations()
    vectors = [theirs[name] for name in (case.order or theirs) if name in case.vectors]
    return {
        "state": np.concatenate(vectors, axis=-1),
        **{name.removesuffix("_image"): theirs[name] for name in case.images},
    }


def actions(policy: Policy, case: Case) -> NDArray[np.float64]:
    """The actions that are executed, in their own units, (DRAWS, execute, a)."""
    return decided(policy, observations(case), case.noise())
