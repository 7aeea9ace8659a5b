"""What LeRobot itself computes: run in an environment that has it, never in that of otpr.

    python tests/interop/theirs.py renew               writes tests/interop/fixtures
    python tests/interop/theirs.py make CASE FOLDER    writes a policy of LeRobot's with the weights of a case
    python tests/interop/theirs.py act CASE FOLDER OUT writes the actions of the policy in FOLDER

The environment is the one that `make interop` makes, .venv-interop.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import populate_queues
from safetensors.numpy import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from lerobot_cases import CASES, FIXTURES, Case, weight  # noqa: E402

TYPES = {"observation.state": "STATE", "observation.environment_state": "ENV"}


def policy_of(case: Case) -> DiffusionPolicy:
    features = {name: PolicyFeature(FeatureType(TYPES[name]), (size,)) for name, size in case.vectors.items()}
    features |= {name: PolicyFeature(FeatureType.VISUAL, shape) for name, shape in case.images.items()}
    config = DiffusionConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (case.action_dim,))},
        normalization_mapping={kind: NormalizationMode(mode) for kind, mode in case.modes.items()},
        **case.config,
    )
    policy = DiffusionPolicy(config)
    state = policy.state_dict()
    for name, tensor in state.items():
        if not name.endswith("pos_grid"):
            state[name] = torch.from_numpy(weight(name, tuple(tensor.shape)))
    policy.load_state_dict(state)
    return policy


def make(case: Case, folder: Path) -> None:
    """As LeRobot's training saves a policy."""
    policy = policy_of(case)
    policy.save_pretrained(folder)
    statistics = {
        name: {key: torch.from_numpy(x) for key, x in of.items()} for name, of in case.statistics().items()
    }
    for pipeline in make_diffusion_pre_post_processors(policy.config, dataset_stats=statistics):
        pipeline.save_pretrained(folder)


def act(case: Case, folder: Path, renamed: dict[str, str] | None = None) -> np.ndarray:
    """The actions that are executed after each of the case's observations, (DRAWS, n_action_steps, a)."""
    policy = DiffusionPolicy.from_pretrained(folder)
    # as lerobot-eval does
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    before, after = make_pre_post_processors(
        policy.config, pretrained_path=str(folder), preprocessor_overrides=overrides
    )
    observations = case.observations()
    start, steps = case.noise()
    found: list[np.ndarray] = []
    for draw in range(len(start)):
        policy.reset()
        batches = []
        for step in range(case.config["n_obs_steps"]):
            batch: dict[str, Any] = {}
            for name, seen in observations.items():
                tensor = torch.from_numpy(seen[draw, step])
                if name in case.images:  # as lerobot.envs.utils.preprocess_observation does
                    tensor = tensor.permute(2, 0, 1).to(torch.float32) / 255
                batch[(renamed or {}).get(name, name)] = tensor
            batches.append(before(batch))
        for batch in batches[:-1]:
            kept = {name: x for name, x in batch.items() if name != "action"}
            if policy.config.image_features:
                images = [kept[key] for key in policy.config.image_features]
                kept["observation.images"] = torch.stack(images, dim=-4)
            policy._queues = populate_queues(policy._queues, kept)
        added = iter(steps[:, draw])

        def drawn(shape: Any, **_: Any) -> torch.Tensor:
            return torch.from_numpy(next(added)).reshape(shape)  # noqa: B023 - used before the next draw

        with mock.patch.object(scheduling_ddpm, "randn_tensor", drawn):
            first = policy.select_action(batches[-1], noise=torch.from_numpy(start[draw : draw + 1]))
        actions = [first, *policy._queues["action"]]
        found.append(np.stack([after(action).squeeze(0).numpy() for action in actions]))
    return np.stack(found)


def renew() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    for case in CASES:
        folder = FIXTURES / case.name
        make(case, folder)
        expected = act(case, folder)
        state = policy_of(case).state_dict()
        shapes = {name: list(tensor.shape) for name, tensor in state.items()}
        lines = ",\n".join(f"{json.dumps(name)}: {shape}" for name, shape in shapes.items())
        (folder / "weights.json").write_text(f"{{\n{lines}\n}}\n")
        save_file({"actions": expected}, folder / "expected.safetensors")
        if case is not CASES[0]:  # one is kept whole
            (folder / "model.safetensors").unlink()
        print(case.name, np.abs(expected).max(), expected.std())


if __name__ == "__main__":
    torch.set_num_threads(1)
    by_name = {case.name: case for case in CASES}
    if sys.argv[1] == "renew":
        renew()
    elif sys.argv[1] == "make":
        make(by_name[sys.argv[2]], Path(sys.argv[3]))
    else:
        renamed = json.loads(sys.argv[5]) if len(sys.argv) > 5 else None
        actions = act(by_name[sys.argv[2]], Path(sys.argv[3]), renamed)
        save_file({"actions": actions}, sys.argv[4])
