"""Import of LeRobot's `DiffusionPolicy`: the same noise gives the same actions.

LeRobot's network sees, for each step, the state, the features of each image in the order of the files, and
the state of the environment. In otpr, the vectors come first, followed by the images in alphabetical order,
and the columns of the weights are permuted accordingly. The network's plans stay in its own units; the
generator (`Diffusion.low`) records the actions that -1 and 1 represent, from the statistics of the actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.diffusion import NoiseSchedule
from otpr.errors import OtprError
from otpr.lerobot_names import STATE_PARTS, image_entry
from otpr.networks.unet import UNet
from otpr.networks.vision import ResNet18
from otpr.policies.convert.imported import (
    PREDICTIONS,
    Bounds,
    Imported,
    Range,
    beyond,
    check_unit,
    ends,
    planned,
    state_order,
    under,
    with_columns,
)
from otpr.policies.convert.lerobot_files import Found, read_files
from otpr.policies.convert.lerobot_statistics import EPS, Feature
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Encoder, Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder
from otpr.spec import STATE, Entry, Spec


def import_lerobot(path: Path, bounds: Bounds | None = None, control_rate: float | None = None) -> Imported:
    """Import a policy from its folder.

    Args:
        path: the folder with `config.json`, or a checkpoint of LeRobot's training.
        bounds: the lower and upper bounds of the actions in the units of LeRobot's policy, one number for
            each dimension: the actions that -1 and 1 represent in otpr. None: -1 and 1.
        control_rate: actions per second, in Hz; None where unknown.

    Raises:
        OtprError: the folder holds no such policy; something in it is damaged, missing or not supported; the
            bounds have another number of dimensions; or no bounds are given and the actions leave [-1, 1].
    """
    found = read_files(path)
    vectors = [name for name in STATE_PARTS if name in found.inputs]
    keys = [name for name, feature in found.inputs.items() if feature.type == "VISUAL"]
    spec = _spec(path, found, vectors, keys, bounds, control_rate)
    vector_encoder = VectorEncoder({STATE: _normalizer([found.inputs[name] for name in vectors])})
    encoder: Encoder = vector_encoder
    if keys:
        encoder = _vision(path, found, keys, vector_encoder)
    return Imported(
        Policy(encoder, _generator(path, found, spec, encoder, vectors, keys), None, spec),
        tuple((name, found.inputs[name].shape[0]) for name in vectors),
        beyond(_range(found.action), spec),
    )


def _spec(
    path: Path, found: Found, vectors: list[str], keys: list[str], bounds: Bounds | None, rate: float | None
) -> Spec:
    names = [image_entry(key) for key in keys]
    if len({*names, STATE}) <= len(names):
        raise OtprError(f"{path}: the images {', '.join(keys)} do not have names of their own: {names}.")
    shapes = {found.inputs[key].shape for key in keys}
    if len(shapes) > 1:
        raise OtprError(f"{path}: its images have several shapes ({shapes}), and LeRobot has one for all.")
    entries = {STATE: Entry((sum(found.inputs[name].shape[0] for name in vectors),))}
    for name, key in zip(names, keys, strict=True):
        channels, height, width = found.inputs[key].shape
        entries[name] = Entry((height, width, channels), "uint8", "image")
    settings = found.settings
    within = (
        found.action.mode == "IDENTITY" and settings["clip_sample"] and settings["clip_sample_range"] <= 1
    )
    if bounds is None and not within:
        check_unit(path, _range(found.action))
    steps = settings["n_obs_steps"]
    return planned(
        path,
        entries,
        found.action.shape[0],
        bounds,
        rate,
        "n_obs_steps, horizon and n_action_steps",
        history=steps,
        horizon=settings["horizon"],
        execute=settings["n_action_steps"],
        offset=steps - 1,
    )


def _range(action: Feature) -> Range:
    return Range(action.statistics.get("min"), action.statistics.get("max"))


# --------------------------------------------------------------------------------------------------- encoder


def _normalizer(features: Sequence[Feature]) -> Normalizer:
    """The normaliser of the concatenated vectors: (x - mean) / scale + shift."""
    parts = [_affine(feature) for feature in features]
    mean, scale, shift = (jnp.asarray(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Normalizer(mean, scale, shift=shift, limit=None)


def _affine(feature: Feature) -> tuple[NDArray[np.float32], ...]:
    """Mean, scale and shift of one feature, computed in float32 as in LeRobot."""
    zeros = np.zeros(feature.shape[0], np.float32)
    if feature.mode == "MEAN_STD":
        return feature.statistics["mean"], feature.statistics["std"] + np.float32(EPS), zeros
    if feature.mode == "MIN_MAX":
        low, high = feature.statistics["min"], feature.statistics["max"]
        width = np.where(high - low == 0, np.float32(EPS), high - low)
        return low, np.asarray(width / 2, np.float32), zeros - 1
    return zeros, zeros + 1, zeros


def _vision(path: Path, found: Found, keys: list[str], vectors: VectorEncoder) -> VisionEncoder:
    """The encoder. If one network sees images with different normalisations, each image has a copy of it."""
    settings = found.settings
    colours = {key: _colours(path, key, found.inputs[key]) for key in keys}
    separate = settings["use_separate_rgb_encoder_per_camera"]
    shared = not separate and len(set(colours.values())) == 1
    networks: dict[str, ResNet18] = {}
    for i, key in enumerate(keys):
        name = "" if shared else image_entry(key)
        if name in networks:
            continue
        prefix = f"diffusion.rgb_encoder.{i}." if separate else "diffusion.rgb_encoder."
        channels, height, width = found.inputs[key].shape
        (mean, std), crop = colours[key], settings["crop_shape"]
        try:
            skeleton = eqx.filter_eval_shape(
                ResNet18,
                (height, width, channels),
                keypoints=settings["spatial_softmax_num_keypoints"],
                crop_shape=crop,
                mean=mean,
                std=std,
                norm="group" if settings["use_group_norm"] else "batch",
                key=jax.random.key(0),
            )
            networks[name] = skeleton.with_torch_weights(under(prefix, found.weights))
        except OtprError as error:
            raise OtprError(f"{path}: {prefix[:-1]}: {error}") from error
    return VisionEncoder(vectors, dict(networks), tuple(sorted(map(image_entry, keys))))


def _colours(path: Path, key: str, feature: Feature) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and divisor of each channel."""
    mean, scale, shift = (part.astype(np.float64) for part in _affine(feature))
    # (x - mean) / scale + shift = (x - (mean - scale * shift)) / scale
    if not (scale > 10 * EPS).all():
        raise OtprError(
            f"{path}: {key}: one of its channels does not vary by the statistics of {feature.mode}."
        )
    return tuple((mean - scale * shift).tolist()), tuple(scale.tolist())


# ------------------------------------------------------------------------------------------------- generator


def _generator(
    path: Path, found: Found, spec: Spec, encoder: Encoder, vectors: list[str], keys: list[str]
) -> Diffusion:
    settings = found.settings
    prefix = "diffusion.unet."
    known = (prefix, "diffusion.rgb_encoder.")
    if odd := sorted(name for name in found.weights if not name.startswith(known if keys else prefix)):
        raise OtprError(f"{path}: model.safetensors has {odd[0]!r}, which is not expected.")
    try:
        skeleton = eqx.filter_eval_shape(
            UNet,
            spec.history * encoder.feature_dim,
            (spec.horizon, spec.action_dim),
            down_dims=tuple(settings["down_dims"]),
            kernel_size=settings["kernel_size"],
            groups=settings["n_groups"],
            step_dim=settings["diffusion_step_embed_dim"],
            scale_modulation=settings["use_film_scale_modulation"],
            key=jax.random.key(0),
        )
        order = features_order(found.inputs, vectors, keys, _keypoint_features(found), spec.history)
        arrays = with_columns(under(prefix, found.weights), order, settings["diffusion_step_embed_dim"])
        network = skeleton.with_torch_weights(arrays)
        schedule = NoiseSchedule.of(
            settings["beta_schedule"],
            settings["num_train_timesteps"],
            settings["beta_start"],
            settings["beta_end"],
        )
    except OtprError as error:
        raise OtprError(f"{path}: {error}") from error
    low, high = _ends(path, found.action, spec)
    return Diffusion(
        network,
        schedule,
        "ddpm" if settings["noise_scheduler_type"] == "DDPM" else "ddim",
        settings["num_inference_steps"],
        PREDICTIONS[settings["prediction_type"]],
        float(settings["clip_sample_range"]) if settings["clip_sample"] else None,
        spacing="leading",
        clipped_noise=False,
        low=low,
        high=high,
    )


def _keypoint_features(found: Found) -> int:
    return 2 * found.settings["spatial_softmax_num_keypoints"]


def _ends(path: Path, action: Feature, spec: Spec) -> tuple[Any, Any]:
    """The actions that -1 and 1 of LeRobot's network represent; None: -1 and 1."""
    if action.mode == "MIN_MAX":
        low, high = action.statistics["min"], action.statistics["max"]
    elif action.mode == "MEAN_STD":
        mean, std = action.statistics["mean"], action.statistics["std"]
        low, high = mean - std, mean + std
        if not (std > 0).all():
            raise OtprError(
                f"{path}: the deviation of dimension {int((std <= 0).argmax())} of its actions is 0; a "
                "policy whose actions are normalised by MEAN_STD needs one that varies."
            )
    else:
        low, high = -np.ones(spec.action_dim), np.ones(spec.action_dim)
    return ends(low, high, spec)


def features_order(
    inputs: dict[str, Feature], vectors: Sequence[str], keys: Sequence[str], per_image: int, history: int
) -> NDArray[np.int64]:
    """The index of each number of otpr's state in LeRobot's state.

    Args:
        inputs: the features under LeRobot's names.
        vectors: the members of `STATE_PARTS` that the policy has.
        keys: the images in LeRobot's order.
        per_image: number of features of an image.
        history: number of steps in a state.
    """
    sizes = {name: inputs[name].shape[0] for name in vectors} | dict.fromkeys(keys, per_image)
    theirs = [name for name in (STATE_PARTS[0], *keys, STATE_PARTS[1]) if name in sizes]
    ours = [*vectors, *sorted(keys, key=image_entry)]
    return state_order({name: sizes[name] for name in theirs}, ours, history)
