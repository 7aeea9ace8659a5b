"""LeRobot's side of the plugin's test: run in an environment with LeRobot, otpr and the plugin.

python tests/interop/plugin_side.py FOLDER OUT writes the actions of the policy in FOLDER, as LeRobot asks
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

STEPS, ENVIRONMENTS = 7, 2


def observations(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, np.ndarray]]:
    """One for each step: by LeRobot's names, (environments, *shape); images of uint8, channels last."""
    rng = np.random.default_rng(0)
    return [
        {
            name: rng.integers(0, 256, (ENVIRONMENTS, *shape)).astype(np.uint8)
            if len(shape) == 3
            else rng.normal(size=(ENVIRONMENTS, *shape)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(STEPS)
    ]


def main(folder: str, out: str) -> None:
    register_third_party_plugins()
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    before, after = make_pre_post_processors(config, pretrained_path=folder, preprocessor_overrides=overrides)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, feature in config.input_features.items():
        c, *rest = feature.shape
        shapes[name] = (*rest, c) if rest else (c,)
    episodes = []
    for _ in range(2):
        policy.reset()
        actions = []
        for seen in observations(shapes):
            batch = {name: torch.from_numpy(x) for name, x in seen.items()}
            for name, x in batch.items():
                if x.ndim == 4:  # as lerobot.envs.utils.preprocess_observation does
                    batch[name] = x.permute(0, 3, 1, 2).to(torch.float32) / 255
            with torch.inference_mode():
                actions.append(after(policy.select_action(before(batch))).numpy())
        episodes.append(np.stack(actions))
    np.save(out, np.stack(episodes))


if __name__ == "__main__":
    main(*sys.argv[1:])
