"""What diffusion_policy and DPPO themselves compute, in an environment that has them, not in that of otpr.

    python tests/interop/others_theirs.py renew              writes tests/interop/fixtures-others
    python tests/interop/others_theirs.py make CASE FOLDER   writes the files of a policy, and its actions

`requirements/interop.txt` says what the environment has. OTPR_DIFFUSION_POLICY and OTPR_DPPO name
checkouts of the two projects.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from others_cases import DIFFUSION_POLICY, DPPO, DRAWS, FIXTURES, Case, weight  # noqa: E402

SCRIPT = HERE.parents[1] / "src" / "otpr" / "policies" / "convert" / "diffusion_policy_to_otpr.py"


def filled(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """A state dict with the weights of the formulas."""
    kept = ("pos_x", "pos_y", "_dummy_variable", "params_dict")
    return {
        name: tensor
        if any(part in name for part in kept)
        else torch.from_numpy(weight(prefix + name, tuple(tensor.shape))).to(tensor.dtype)
        for name, tensor in state.items()
    }


def drawn(case: Case, draw: int) -> list[torch.Tensor]:
    """The noise of a decision, that of the start first."""
    start, steps = case.noise()
    return [torch.from_numpy(x[None].copy()) for x in (start[draw], *steps[:, draw])]


# ------------------------------------------------------------------------------------------ diffusion_policy


def instantiated(settings: dict[str, Any]) -> Any:
    """What hydra makes of a configuration, for the few classes that are here."""
    given = dict(settings)
    module, _, name = given.pop("_target_").rpartition(".")
    made = {
        key: instantiated(value) if isinstance(value, dict) and "_target_" in value else value
        for key, value in given.items()
    }
    return getattr(importlib.import_module(module), name)(**made)


def normalizer_of(case: Case) -> Any:
    """As diffusion_policy's data sets make it."""
    from diffusion_policy.common.normalize_util import get_image_range_normalizer
    from diffusion_policy.model.common.normalizer import LinearNormalizer, SingleFieldLinearNormalizer

    made = LinearNormalizer()
    for name, size in {**case.vectors, "action": case.action_dim}.items():
        low, high = (end.astype(np.float32) for end in case.range(name, size))
        if name == "obs":
            high[0] = low[0]  # a number that is always the same
        data = np.stack([low, high, (low + high) / 2])
        mode = "gaussian" if case.name == "low-dim-late" and name == "obs" else "limits"
        made[name] = SingleFieldLinearNormalizer.create_fit(data, mode=mode)
    for name in case.images:
        made[name] = get_image_range_normalizer()
    return made


def diffusion_policy(case: Case) -> Any:
    policy = instantiated(case.settings)
    policy.set_normalizer(normalizer_of(case))
    policy.load_state_dict(filled(policy.state_dict()))
    return policy.eval()


def make_diffusion_policy(case: Case, folder: Path) -> None:
    """A checkpoint as its training writes it, converted by the script; and the actions."""
    from diffusion_policy.workspace.base_workspace import BaseWorkspace
    from omegaconf import OmegaConf

    config = {"policy": case.settings, "n_latency_steps": 0, "training": {"use_ema": True}}
    workspace = BaseWorkspace(OmegaConf.create(config), output_dir=str(folder))
    workspace.ema_model = diffusion_policy(case)
    workspace.model = torch.nn.Linear(2, 2)
    workspace.save_checkpoint(path=folder / "latest.ckpt", use_thread=False)
    command = [sys.executable, SCRIPT, folder / "latest.ckpt", folder / "policy.pt"]
    environment = {**os.environ, "PYTHONPATH": os.environ["OTPR_DIFFUSION_POLICY"]}
    subprocess.run(list(map(str, command)), check=True, env=environment)
    np.savez(folder / "expected.npz", actions=diffusion_policy_actions(case, workspace.ema_model))


def diffusion_policy_actions(case: Case, policy: Any) -> np.ndarray:
    """The actions that are executed, in their own units, (DRAWS, execute, a)."""
    from diffusers.schedulers import scheduling_ddpm

    found: list[np.ndarray] = []
    for draw in range(DRAWS):
        seen: dict[str, torch.Tensor] = {}
        observations = case.observations()
        for name in case.order or observations:
            x = observations[name][draw]
            if name in case.images:  # as its data sets and runners do
                x = np.moveaxis(x, -1, 1).astype(np.float32) / 255
            seen[name] = torch.from_numpy(x.astype(np.float32)[None])
        noise = iter(drawn(case, draw))

        def given(*_: Any, **__: Any) -> torch.Tensor:
            return next(noise)  # noqa: B023 - used before the next draw

        steps = mock.patch.object(scheduling_ddpm, "randn_tensor", given)
        with mock.patch.object(torch, "randn", given), steps:
            result = policy.predict_action(seen)
        found.append(result["action"][0].detach().numpy())
    return np.stack(found)


# ----------------------------------------------------------------------------------------------------- DPPO


def make_dppo(case: Case, folder: Path) -> None:
    """Weights as its pre-training writes them, a configuration, a normalisation; and the actions."""
    from model.diffusion.diffusion_eval import DiffusionEval
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("eval", eval, replace=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(case.settings)))
    whole = OmegaConf.create({**case.settings, "base_policy_path": ""})
    config = OmegaConf.to_container(whole.model, resolve=True)
    del config["_target_"], config["network_path"]
    network = instantiated(config.pop("network"))
    model = {f"network.{name}": x for name, x in filled(network.state_dict(), "network.").items()}
    average = {name: 0.9 * x for name, x in model.items()}
    both = {"model": model} if "u-net" in case.name else {"model": average, "ema": model}
    torch.save({"epoch": 3, **both}, folder / "state_3.pt")
    sizes = {**case.vectors, "action": case.action_dim}
    ends = {
        f"{name}_{end}": x
        for name, key in (("obs", "state"), ("action", "action"))
        for end, x in zip(("min", "max"), case.range(key, sizes[key]), strict=True)
    }
    (np.savez_compressed if case.name == "plain" else np.savez)(folder / "normalization.npz", **ends)
    # DiffusionEval takes the weights named "model"; those of the average are what fine-tuning begins with
    torch.save({"model": model}, folder / "evaluated.pt")
    policy = DiffusionEval(network=network, network_path=str(folder / "evaluated.pt"), **config).eval()
    (folder / "evaluated.pt").unlink()
    np.savez(folder / "expected.npz", actions=dppo_actions(case, policy, ends))


def dppo_actions(case: Case, policy: Any, ends: dict[str, np.ndarray]) -> np.ndarray:
    """As its evaluation and the wrapper of its environments make them, (DRAWS, act_steps, a)."""
    from env.gym_utils.wrapper.robomimic_lowdim import RobomimicLowdimWrapper

    clamped = case.settings["env"]["wrappers"]["robomimic_lowdim"]["clamp_obs"]
    wrapper = SimpleNamespace(**ends, clamp_obs=clamped)
    found: list[np.ndarray] = []
    for draw in range(DRAWS):
        seen = RobomimicLowdimWrapper.normalize_obs(wrapper, case.observations()["state"][draw])
        noise = itertools.chain(drawn(case, draw))

        def given(*_: Any, **__: Any) -> torch.Tensor:
            return next(noise)  # noqa: B023 - used before the next draw

        with mock.patch.object(torch, "randn", given), mock.patch.object(torch, "randn_like", given):
            cond = {"state": torch.from_numpy(seen[None]).float()}
            plan = policy(cond=cond, deterministic=True).trajectories.cpu().numpy()[0]
        found.append(RobomimicLowdimWrapper.unnormalize_action(wrapper, plan[: case.execute]))
    return np.stack(found)


# ------------------------------------------------------------------------------------------------- commands

MAKERS = {case.name: (case, make_diffusion_policy) for case in DIFFUSION_POLICY}
MAKERS |= {case.name: (case, make_dppo) for case in DPPO}


def make(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    case, maker = MAKERS[name]
    maker(case, folder)


def renew() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    for name, (case, _) in MAKERS.items():
        folder = FIXTURES / name
        make(name, folder)
        if case in DIFFUSION_POLICY:
            content = torch.load(folder / "policy.pt", weights_only=True)
            shapes = {key: list(x.shape) for key, x in content["weights"].items()}
            normal = {key: x.numpy() for key, x in content["weights"].items() if "params_dict" in key}
            lines = ",\n".join(f"{json.dumps(key)}: {shape}" for key, shape in shapes.items())
            (folder / "weights.json").write_text(f"{{\n{lines}\n}}\n")
            np.savez(folder / "normalizer.npz", **normal)
            if name != "low-dim":  # one is kept whole
                (folder / "policy.pt").unlink()
            (folder / "latest.ckpt").unlink()
        actions = np.load(folder / "expected.npz")["actions"]
        print(name, np.abs(actions).max(), actions.std())
    refused_checkpoint(FIXTURES / "latest.ckpt")


def refused_checkpoint(file: Path) -> None:
    """A small checkpoint as diffusion_policy's training writes it."""
    from diffusion_policy.workspace.base_workspace import BaseWorkspace
    from omegaconf import OmegaConf

    workspace = BaseWorkspace(OmegaConf.create({"training": {"use_ema": False}}), output_dir="run")
    workspace.model = torch.nn.Linear(2, 2)
    workspace.save_checkpoint(path=file, use_thread=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path[:0] = [os.environ["OTPR_DIFFUSION_POLICY"], os.environ["OTPR_DPPO"]]
    if sys.argv[1] == "renew":
        renew()
    else:
        make(sys.argv[2], Path(sys.argv[3]))
