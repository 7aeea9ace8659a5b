"""The policies that otpr, diffusion_policy and DPPO are compared on; `others_theirs.py` computes their side.

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

FIXTURES = HERE / "fixtures-others"
DRAWS = 3
"""Decisions of each policy that are compared."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy.

    Attributes:
        name: of its files.
        settings: of the library's policy.
        vectors: lengths of the vectors that it sees, by their names there.
        images: shapes (channels, height, width) of the images.
        order: of the entries there.
        action_dim: dimensions of its actions.
        execute: how many actions are executed.
        steps: how often the sampler draws.
        history: observations that it sees.
        horizon: actions of a plan.
    """

    name: str
    settings: dict[str, Any]
    vectors: dict[str, int]
    horizon: int
    execute: int
    history: int
    steps: int
    action_dim: int = 2
    images: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    order: tuple[str, ...] = ()

    def observations(self) -> dict[str, NDArray[Any]]:
        """Raw ones, (DRAWS, history, *shape); vectors of float64, images as cameras give them."""
        found: dict[str, NDArray[Any]] = {}
        for name, size in self.vectors.items():
            low, high = self.range(name, size)
            share = formula(f"{self.name} {name} seen", (DRAWS, self.history, size), 1.2)
            found[name] = (low + high) / 2 + share.astype(np.float64) * (high - low) / 2
        for name, (channels, height, width) in self.images.items():
            pixels = formula(f"{name} seen", (DRAWS, self.history, height, width, channels), 60) + 80
            for i in range(DRAWS):
                pixels[i, :, 4 + 5 * i : 18 + 5 * i, 8 : 20 + i] = 230 - 40 * i
            found[name] = pixels.astype(np.uint8)
        return found

    def range(self, name: str, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the greatest numbers of an entry, or of "action", over the data."""
        low = formula(f"{self.name} {name} low", (size,), 2.0).astype(np.float64) - 3
        return low, low + formula(f"{self.name} {name} width", (size,), 1.0) + 2

    def noise(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The noise that a plan begins with, (DRAWS, h, a), and that of its steps, (steps, DRAWS, h, a)."""
        shape = (DRAWS, self.horizon, self.action_dim)
        return formula("start", shape, 2.0), formula("steps", (self.steps, *shape), 2.0)


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A weight by its name and shape in PyTorch; activations keep about their scale."""
    if name.endswith(("temperature",)):
        return np.ones(shape, np.float32)
    if ".obs_nets." in name:
        camera, _, inner = name.split(".obs_nets.")[1].partition(".")
        # the same module once more, under another name
        inner = inner.replace("nets.0.nets.", "backbone.nets.").replace("nets.1.nets.", "pool.nets.")
        inner = inner.replace("backbone.nets.", "backbone.").replace("nets.3.", "out.")
        return encoder_weight(inner, shape) * np.float32(1 + 0.1 * (len(camera) % 3))
    if len(shape) == 1:
        # normalisations begin with ones
        parts = name.split(".")
        norm = name.endswith(".weight")
        return formula(".".join(parts), shape, 0.3) + np.float32(norm)
    return formula(name, shape, math.sqrt(3 / max(1, math.prod(shape[1:]))))


_SCHEDULER: dict[str, Any] = {
    "_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler",
    "num_train_timesteps": 10,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
}
_UNET: dict[str, Any] = {
    "_target_": "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D",
    "local_cond_dim": None,
    "diffusion_step_embed_dim": 8,
    "down_dims": [8, 16],
    "kernel_size": 3,
    "n_groups": 4,
    "cond_predict_scale": True,
}
_LOW_DIM: dict[str, Any] = {
    "_target_": "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
    "obs_as_local_cond": False,
    "obs_as_global_cond": True,
    "pred_action_steps_only": False,
    "oa_step_convention": True,
}


def _low_dim(name: str, size: int, horizon: int, execute: int, history: int, **more: Any) -> Case:
    action_dim = more.pop("action_dim", 2)
    scheduler = _SCHEDULER | more.pop("noise_scheduler", {})
    model = _UNET | {"input_dim": action_dim, "global_cond_dim": size * history} | more.pop("model", {})
    settings = {
        **_LOW_DIM,
        "model": model,
        "noise_scheduler": {key: x for key, x in scheduler.items() if x is not None},
        "horizon": horizon,
        "obs_dim": size,
        "action_dim": action_dim,
        "n_action_steps": execute,
        "n_obs_steps": history,
        "num_inference_steps": more.pop("num_inference_steps", scheduler["num_train_timesteps"]),
        **more,
    }
    planned = execute if settings["pred_action_steps_only"] else horizon
    steps = settings["num_inference_steps"] or scheduler["num_train_timesteps"]
    return Case(name, settings, {"obs": size}, planned, execute, history, steps, action_dim)


DIFFUSION_POLICY = [
    _low_dim("low-dim", 5, 8, 4, 2),
    _low_dim(
        "low-dim-ddim",
        3,
        8,
        4,
        3,
        action_dim=3,
        model={"cond_predict_scale": False, "kernel_size": 5, "n_groups": 8},
        noise_scheduler={
            "_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler",
            "num_train_timesteps": 20,
            "beta_schedule": "linear",
            "beta_end": 0.3,
            "variance_type": None,
            "set_alpha_to_one": True,
            "steps_offset": 0,
            "prediction_type": "sample",
        },
        num_inference_steps=6,
        pred_action_steps_only=True,
    ),
    _low_dim(
        "low-dim-late",
        4,
        8,
        3,
        2,
        noise_scheduler={"clip_sample": False, "beta_schedule": "scaled_linear", "beta_end": 0.1},
        num_inference_steps=5,
        oa_step_convention=False,
    ),
    Case(
        "hybrid",
        {
            "_target_": "diffusion_policy.policy.diffusion_unet_hybrid_image_policy"
            ".DiffusionUnetHybridImagePolicy",
            "shape_meta": {
                "obs": {
                    "wrist_image": {"shape": [3, 40, 36], "type": "rgb"},
                    "robot0_eef_pos": {"shape": [3]},
                    "agentview_image": {"shape": [3, 40, 36], "type": "rgb"},
                    "robot0_gripper_qpos": {"shape": [2], "type": "low_dim"},
                },
                "action": {"shape": [2]},
            },
            "noise_scheduler": {**_SCHEDULER, "num_train_timesteps": 4},
            "horizon": 8,
            "n_action_steps": 4,
            "n_obs_steps": 2,
            "num_inference_steps": 4,
            "obs_as_global_cond": True,
            "crop_shape": [36, 32],
            "diffusion_step_embed_dim": 16,
            "down_dims": [8, 16],
            "kernel_size": 5,
            "n_groups": 8,
            "cond_predict_scale": True,
            "obs_encoder_group_norm": True,
            "eval_fixed_crop": True,
        },
        {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2},
        8,
        4,
        2,
        4,
        images={"wrist_image": (3, 40, 36), "agentview_image": (3, 40, 36)},
        order=("wrist_image", "robot0_eef_pos", "agentview_image", "robot0_gripper_qpos"),
    ),
]
"""Between them they have both schedulers, each prediction and each way to execute."""


def _dppo(name: str, size: int, history: int, network: dict[str, Any], **more: Any) -> Case:
    """A policy of DPPO; `settings` is its configuration."""
    horizon, action_dim, levels = 4, 2, more.pop("denoising_steps", 20)
    mlp = network["_target_"].endswith("DiffusionMLP")
    whole = {
        "_target_": "agent.eval.eval_diffusion_agent.EvalDiffusionAgent",
        "name": "${env_name}_ta${horizon_steps}",
        "logdir": "${oc.env:DPPO_LOG_DIR}/${name}/${now:%Y-%m-%d}",
        "env_name": "can",
        "obs_dim": size,
        "action_dim": action_dim,
        "denoising_steps": levels,
        "cond_steps": history,
        "horizon_steps": horizon,
        "act_steps": 3,
        "ft_denoising_steps": 0,
        "env": {"wrappers": {"robomimic_lowdim": {"clamp_obs": more.pop("clamp_obs", False)}}},
        "model": {
            "_target_": "model.diffusion.diffusion_eval_ft.DiffusionEval",
            "ft_denoising_steps": "${ft_denoising_steps}",
            "predict_epsilon": True,
            "denoised_clip_value": 1.0,
            "network_path": "${base_policy_path}",
            "network": {
                **network,
                "cond_dim": "${eval:'${obs_dim} * ${cond_steps}'}",
                "action_dim": "${action_dim}",
                **({"horizon_steps": "${horizon_steps}"} if mlp else {}),
            },
            "horizon_steps": "${horizon_steps}",
            "obs_dim": "${obs_dim}",
            "action_dim": "${action_dim}",
            "denoising_steps": "${denoising_steps}",
            "device": "cpu",
            **more,
        },
    }
    steps = more.get("ddim_steps", levels)
    return Case(name, whole, {"state": size}, horizon, 3, history, steps, action_dim)


_MLP = {"_target_": "model.diffusion.mlp_diffusion.DiffusionMLP"}
_UNET1D = {"_target_": "model.diffusion.unet.Unet1D"}

DPPO = [
    _dppo(
        "residual",
        3,
        2,
        {
            **_MLP,
            "time_dim": 8,
            "mlp_dims": [16, 16, 16, 16, 16],
            "cond_mlp_dims": [8, 4],
            "use_layernorm": True,
            "residual_style": True,
        },
        randn_clip_value=1.5,
        clamp_obs=True,
    ),
    _dppo(
        "plain",
        4,
        1,
        {**_MLP, "time_dim": 16, "mlp_dims": [16, 12], "use_layernorm": True, "activation_type": "ReLU"},
        use_ddim=True,
        ddim_steps=5,
    ),
    _dppo(
        "shallow",
        4,
        1,
        {**_MLP, "mlp_dims": [16, 16, 16], "residual_style": True, "activation_type": "ReLU"},
        predict_epsilon=False,
        denoising_steps=100,
        final_action_clip_value=1.0,
    ),
    _dppo(
        "u-net",
        3,
        1,
        {
            **_UNET1D,
            "diffusion_step_embed_dim": 8,
            "dim": 8,
            "dim_mults": [1, 2],
            "kernel_size": 5,
            "n_groups": 8,
            "smaller_encoder": False,
            "cond_predict_scale": True,
            "groupnorm_eps": 1e-4,
        },
        randn_clip_value=3,
    ),
    _dppo(
        "small-u-net",
        3,
        1,
        {
            **_UNET1D,
            "diffusion_step_embed_dim": 8,
            "dim": 8,
            "dim_mults": [1, 2],
            "n_groups": 8,
            "smaller_encoder": True,
        },
        denoised_clip_value=2.0,
        denoising_steps=5,
    ),
]
"""Between them they have each network, both samplers, and each kind of clipping."""
