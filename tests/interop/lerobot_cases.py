"""The policies that otpr and LeRobot are compared on; `theirs.py` computes LeRobot's side of it.

Weights, observations and noise are formulas of their names and shapes, so that hardly any are stored.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "networks"))

from torch_cases import encoder_weight, formula  # noqa: E402

FIXTURES = HERE / "fixtures"
DRAWS = 3
"""Decisions of each policy that are compared."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy.

    Attributes:
        name: of its folder.
        settings: of LeRobot's `DiffusionConfig`, beside those in `SMALL`.
        vectors: lengths of the vectors that it sees, by LeRobot's names.
        images: shapes (channels, height, width) of the images, in LeRobot's order.
        modes: how each type is normalised.
        action_dim: dimensions of its actions.
        constant: a number of this vector is the same in all its data.
    """

    name: str
    settings: dict[str, Any]
    vectors: dict[str, int]
    images: dict[str, tuple[int, int, int]]
    modes: dict[str, str]
    action_dim: int = 2
    constant: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All settings."""
        return {**SMALL, **self.settings}

    def statistics(self) -> dict[str, dict[str, NDArray[np.float32]]]:
        """As a data set has them, by feature."""
        found: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name, size in {**self.vectors, "action": self.action_dim}.items():
            low = formula(f"{name} low", (size,), 2.0) - 3
            width = formula(f"{name} width", (size,), 1.0) + 2
            if name == self.constant:
                width[0] = 0
            found[name] = {
                "min": low,
                "max": low + width,
                "mean": low + width / 2,
                "std": width / 4,
            }
        for name, shape in self.images.items():
            scale = formula(f"{name} statistics", (4, shape[0], 1, 1), 0.1)
            found[name] = {
                "min": np.abs(scale[0]),
                "max": 1 - np.abs(scale[1]),
                "mean": 0.5 + scale[2],
                "std": 0.25 + scale[3],
            }
        return found

    def observations(self) -> dict[str, NDArray[Any]]:
        """Raw ones by LeRobot's names, (DRAWS, n_obs_steps, *shape); images as cameras give them."""
        steps, statistics = self.config["n_obs_steps"], self.statistics()
        found: dict[str, NDArray[Any]] = {}
        for name, size in self.vectors.items():
            low, high = statistics[name]["min"], statistics[name]["max"]
            share = formula(f"{name} seen", (DRAWS, steps, size), 1.2)
            found[name] = ((low + high) / 2 + share * (high - low) / 2).astype(np.float32)
        for name, (channels, height, width) in self.images.items():
            pixels = formula(f"{name} seen", (DRAWS, steps, height, width, channels), 60) + 80
            for i in range(DRAWS):
                pixels[i, :, 4 + 5 * i : 18 + 5 * i, 8 : 20 + i] = 230 - 40 * i
            found[name] = pixels.astype(np.uint8)
        return found

    def noise(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The noise that a plan begins with, (DRAWS, h, a), and that of its steps, (steps, DRAWS, h, a)."""
        config = self.config
        steps = config["num_inference_steps"] or config["num_train_timesteps"]
        shape = (DRAWS, config["horizon"], self.action_dim)
        return formula("start", shape, 2.0), formula("steps", (steps, *shape), 2.0)


def weight(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A weight by its name and shape in PyTorch; activations keep about their scale."""
    if ".rgb_encoder." in name:
        inner = name.split(".rgb_encoder.")[1]
        number, _, rest = inner.partition(".")
        # encoders of their own have weights of their own
        if name.endswith(".num_batches_tracked"):
            return np.zeros(shape, np.int64)
        if name.endswith(".running_var"):
            return formula(name, shape, 0.5) + np.float32(1)
        own = encoder_weight(rest if number.isdigit() else inner, shape)
        return own * np.float32(1 + 0.1 * int(number)) if number.isdigit() else own
    if len(shape) == 1:
        norm = name.endswith("block.1.weight")
        return formula(name, shape, 0.3) + np.float32(norm)
    return formula(name, shape, math.sqrt(3 / math.prod(shape[1:])))


SMALL: dict[str, Any] = {
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": [8, 16],
    "kernel_size": 3,
    "n_groups": 4,
    "diffusion_step_embed_dim": 16,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDPM",
    "num_train_timesteps": 10,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_inference_steps": None,
    "spatial_softmax_num_keypoints": 4,
    "crop_shape": None,
    "device": "cpu",
    "push_to_hub": False,
}
"""Settings of the policies where they say nothing else."""

_STATE, _WORLD = "observation.state", "observation.environment_state"
_MIN_MAX = {"STATE": "MIN_MAX", "ACTION": "MIN_MAX", "VISUAL": "MEAN_STD"}

CASES = [
    Case("ddpm", {}, {_STATE: 3, _WORLD: 2}, {}, _MIN_MAX, constant=_STATE),
    Case(
        "ddim",
        {
            "noise_scheduler_type": "DDIM",
            "num_train_timesteps": 20,
            "num_inference_steps": 6,
            "beta_schedule": "linear",
            "beta_end": 0.3,
            "prediction_type": "sample",
            "use_film_scale_modulation": False,
            "n_obs_steps": 3,
            "clip_sample_range": 1.5,
        },
        {_WORLD: 4, _STATE: 2},
        {},
        {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"},
        action_dim=3,
    ),
    Case(
        "unclipped",
        {
            "num_train_timesteps": 50,
            "num_inference_steps": 7,
            "beta_schedule": "scaled_linear",
            "beta_end": 0.1,
            "clip_sample": False,
            "n_obs_steps": 1,
            "kernel_size": 5,
        },
        {_STATE: 2, _WORLD: 2},
        {},
        {"STATE": "IDENTITY", "ENV": "MEAN_STD", "ACTION": "MIN_MAX"},
    ),
    Case(
        "images",
        {"crop_shape": [36, 40], "noise_scheduler_type": "DDIM", "num_inference_steps": 5},
        {_STATE: 3},
        {"observation.images.top": (3, 40, 48)},
        _MIN_MAX,
    ),
    Case(
        "cameras",
        {"use_separate_rgb_encoder_per_camera": True, "n_obs_steps": 1, "num_train_timesteps": 4},
        {_STATE: 3, _WORLD: 2},
        {"observation.images.wrist": (3, 40, 36), "observation.image": (3, 40, 36)},
        {**_MIN_MAX, "VISUAL": "MIN_MAX"},
    ),
    Case(
        "two-views",
        {"num_train_timesteps": 4, "prediction_type": "sample", "use_group_norm": False},
        {_STATE: 3},
        {"observation.images.b": (3, 36, 36), "observation.images.a": (3, 36, 36)},
        _MIN_MAX,
    ),
]
"""Between them they have each way to normalise, each prediction and both schedulers."""
