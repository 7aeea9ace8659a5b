"""Import of pre-trained policies of DPPO (Ren et al., 2024): the same noise gives the same actions.

A policy consists of three files: `state_EPOCH.pt` with the weights, the configuration of the run that wrote
it or of its evaluation, and `normalization.npz` with the normalisation of the training data. Policies that
observe states, with DPPO's MLP or U-Net, are supported, and are sampled as in `DiffusionEval`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.diffusion import NoiseSchedule
from otpr.errors import OtprError
from otpr.networks.noise import NoiseNetwork
from otpr.networks.residual_mlp import EmbeddingMLP
from otpr.networks.unet import LAST_GROUPS, UNet
from otpr.policies.convert.dppo_config import read_config
from otpr.policies.convert.dppo_files import Files, Weights, config_file, normalization, weights_of
from otpr.policies.convert.imported import (
    Bounds,
    Imported,
    Range,
    beyond,
    check_unit,
    ends,
    planned,
    renamed,
)
from otpr.policies.convert.settings import Settings
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.spec import STATE, Entry, Spec

LEAST_STD = 1e-3
"""The smallest standard deviation of a denoising step in DPPO. The last step draws no noise."""

_MODELS = tuple(
    f"model.diffusion.{name}"
    for name in (
        "diffusion.DiffusionModel",
        "diffusion_eval.DiffusionEval",
        "diffusion_eval_ft.DiffusionEval",
    )
)
_MLP, _UNET = "model.diffusion.mlp_diffusion.DiffusionMLP", "model.diffusion.unet.Unet1D"


def import_dppo(
    file: Path,
    content: Any,
    files: Files,
    bounds: Bounds | None = None,
    control_rate: float | None = None,
) -> Imported:
    """Build a policy from DPPO's files.

    Args:
        file: the path of the weights.
        content: the file's content, from `otpr.policies.convert.torch_file.read_torch`.
        files: the paths of the other files.
        bounds: as in `otpr.policies.convert.lerobot.import_lerobot`.
        control_rate: as in `import_lerobot`.

    Raises:
        OtprError: a file is not from DPPO, or something is damaged, missing or not supported; or as in
            `import_lerobot`.
    """
    weights, which = weights_of(file, content, files.weights)
    config = read_config(config_file(file, files))
    seen, dim, horizon = (config.count(x) for x in ("obs_dim", "action_dim", "horizon_steps"))
    low, high = normalization(file, files, {"obs": seen, "action": dim})
    execute = files.execute
    if execute is None:
        if "act_steps" not in config.given:
            raise OtprError(
                f"{config.place}act_steps is missing, as in every configuration of pre-training. Give "
                "--execute N: how many actions of a plan are executed before the next decision."
            )
        execute = config.count("act_steps")
    trained = Range(low["action"], high["action"])
    if bounds is None:
        check_unit(file, trained)
    spec = planned(
        file,
        # DPPO normalises in float64, before it converts to PyTorch
        {STATE: Entry((seen,), "float64")},
        dim,
        bounds,
        control_rate,
        "cond_steps, horizon_steps and act_steps",
        history=config.count("cond_steps"),
        horizon=horizon,
        execute=execute,
    )
    encoder = VectorEncoder({STATE: _normalizer(low["obs"], high["obs"], _clamped(config))})
    model = config.part("model")
    model.one_of("_target_", _MODELS)
    network = _network(file, model.part("network"), spec, weights)
    generator = _generator(model, network, spec, ends(low["action"], high["action"], spec))
    kept = "the moving average (ema)" if which == "ema" else "the last step (model)"
    return Imported(
        Policy(encoder, generator, None, spec),
        (),
        (f"The weights are those of {kept}.", *beyond(trained, spec)),
    )


# --------------------------------------------------------------------------------------------- observations


def _clamped(config: Settings) -> bool:
    """Whether the environment's wrapper clips normalised observations to [-1, 1]."""
    if "env" not in config.given or "wrappers" not in config.part("env").given:
        return False
    wrappers = config.part("env").part("wrappers")
    for name in ("robomimic_lowdim", "robomimic_image"):
        if name in wrappers.given and wrappers.part(name).flag("clamp_obs", False):
            return True
    return False


def _normalizer(low: NDArray[np.float64], high: NDArray[np.float64], clamped: bool) -> Normalizer:
    """2 ((x - low) / (high - low + 1e-6) - 1 / 2), which is (x - mean) / scale."""
    scale = (high - low + 1e-6) / 2
    mean = low + scale
    first = mean.astype(np.float32)
    return Normalizer(
        jnp.asarray(first),
        jnp.asarray(scale, jnp.float32),
        jnp.asarray((mean - first).astype(np.float32)),
        limit=1.0 if clamped else None,
    )


# ------------------------------------------------------------------------------------------------ the network


def _network(file: Path, given: Settings, spec: Spec, weights: Weights) -> NoiseNetwork:
    kind = given.one_of("_target_", (_MLP, _UNET))
    state_dim = spec.history * spec.observation[STATE].shape[0]
    given.one_of("cond_dim", (state_dim,))
    given.one_of("action_dim", (spec.action_dim,))
    try:
        if kind == _MLP:
            given.one_of("horizon_steps", (spec.horizon,))
            skeleton = _mlp(given, state_dim, spec)
        else:
            skeleton = _unet(given, state_dim, spec)
            weights = renamed(weights, _UNET_NAMES)
        given.done()
        return skeleton.with_torch_weights(weights)
    except OtprError as error:
        raise error if str(error).startswith(given.place) else OtprError(f"{file}: {error}") from error


def _mlp(given: Settings, state_dim: int, spec: Spec) -> EmbeddingMLP:
    widths, residual = given.counts("mlp_dims", (256, 256)), given.flag("residual_style", False)
    before = given.get("cond_mlp_dims", None)
    given.one_of("out_activation_type", ("Identity",), "Identity")
    return eqx.filter_eval_shape(
        EmbeddingMLP,
        state_dim,
        (spec.horizon, spec.action_dim),
        widths=widths,
        state_widths=() if before is None else given.counts("cond_mlp_dims"),
        step_dim=given.count("time_dim", 16),
        residual=residual,
        layer_norm=given.flag("use_layernorm", False),
        activation=given.one_of("activation_type", ("Mish", "ReLU"), "Mish").lower(),
        key=jax.random.key(0),
    )


def _unet(given: Settings, state_dim: int, spec: Spec) -> UNet:
    given.one_of("activation_type", ("Mish",), "Mish")
    given.one_of("cond_mlp_dims", (None,), None)
    width = given.count("dim", 32)
    return eqx.filter_eval_shape(
        UNet,
        state_dim,
        (spec.horizon, spec.action_dim),
        down_dims=tuple(width * times for times in given.counts("dim_mults", (1, 2, 4, 8))),
        kernel_size=given.count("kernel_size", 5),
        # without groups nothing is normalised; the last convolution has the same number
        groups=given.one_of("n_groups", (LAST_GROUPS,), None),
        step_dim=given.count("diffusion_step_embed_dim", 32),
        scale_modulation=given.flag("cond_predict_scale", False),
        deep_condition=not given.flag("smaller_encoder", False),
        norm_eps=given.number("groupnorm_eps", 1e-5),
        key=jax.random.key(0),
    )


_UNET_NAMES = {
    "time_mlp.": "diffusion_step_encoder.",
    ".blocks.0.block.": ".conv1.block.",
    ".blocks.1.block.": ".conv2.block.",
    # layers that only permute axes stand around each normalisation
    ".block.2.": ".block.1.",
    ".2.conv.": ".2.",
}
"""Parts of weights' names, and LeRobot's names for them."""


# ----------------------------------------------------------------------------------------------- the sampling


def _generator(model: Settings, network: NoiseNetwork, spec: Spec, of_actions: tuple[Any, Any]) -> Diffusion:
    model.ignore("device", "network_path", "_target_")
    model.one_of("horizon_steps", (spec.horizon,))
    model.one_of("action_dim", (spec.action_dim,))
    model.one_of("obs_dim", (spec.observation[STATE].shape[0],))
    model.one_of("ft_denoising_steps", (0,), 0)
    schedule = NoiseSchedule.cosine(model.count("denoising_steps", 100))
    bound = _optional(model, "denoised_clip_value", 1.0)
    last = _optional(model, "final_action_clip_value", None)
    if last is not None and (bound is None or last < bound):
        raise OtprError(
            f"{model.place}final_action_clip_value is {last:g}, below denoised_clip_value; it is supported "
            "where it changes nothing."
        )
    limit = _optional(model, "randn_clip_value", 10)
    predicts_noise = model.flag("predict_epsilon", True)
    ddim = model.flag("use_ddim", False)
    steps = None
    if ddim:
        steps = model.count("ddim_steps")
        model.one_of("ddim_discretize", ("uniform",), "uniform")
        model.one_of("eps_clip_value", (None,), None)
        model.one_of("predict_epsilon", (True,), True)
    model.ignore("ddim_steps", "ddim_discretize", "eps_clip_value")
    model.done()
    low, high = of_actions
    try:
        diffusion = Diffusion(
            network,
            schedule,
            "ddim" if ddim else "ddpm",
            steps,
            "noise" if predicts_noise else "sample",
            bound,
            spacing="leading",
            clipped_noise=True,
            low=low,
            high=high,
            noise_limit=limit,
        )
    except OtprError as error:
        raise OtprError(f"{model.place}ddim_steps is {steps}: {error}") from error
    _check_deviations(model, diffusion)
    return diffusion


def _optional(model: Settings, name: str, default: float | None) -> float | None:
    return None if model.get(name, default) is None else model.number(name, default)


def _check_deviations(model: Settings, diffusion: Diffusion) -> None:
    """Refuse a schedule with steps whose noise is below DPPO's smallest standard deviation."""
    _, level, after = (np.asarray(x, np.float64) for x in diffusion.visited)
    std = np.sqrt((1 - after) / (1 - level) * (1 - level / after))[:-1]
    if diffusion.sampler == "ddpm" and (std < LEAST_STD).any():
        raise OtprError(
            f"{model.place}denoising_steps is {diffusion.schedule.steps}: DPPO raises the noise of its last "
            f"steps to a standard deviation of {LEAST_STD}, which is not supported."
        )
