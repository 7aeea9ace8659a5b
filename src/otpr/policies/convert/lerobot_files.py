"""The files of a LeRobot `DiffusionPolicy`, checked before anything is built from them.

Layouts in the releases of huggingface/lerobot, the oldest first:

1. `config.json` with `input_shapes` and `input_normalization_modes`; statistics among the weights.
2. `config.json` with `input_features` and `normalization_mapping`; statistics among the weights.
3. As 2, with `policy_preprocessor.json` and `policy_postprocessor.json`, whose steps hold the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.lerobot_names import STATE_PARTS
from otpr.policies.convert.lerobot_statistics import (
    MODES,
    OLD_STATISTICS,
    Feature,
    Pipeline,
    json_object,
    with_old,
)
from otpr.storage import DamagedFile
from otpr.trees import read_arrays

DEFAULTS: dict[str, Any] = {
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "vision_backbone": "resnet18",
    "resize_shape": None,
    "crop_ratio": 1.0,
    "crop_shape": None,
    "use_group_norm": True,
    "spatial_softmax_num_keypoints": 32,
    "use_separate_rgb_encoder_per_camera": False,
    "down_dims": (512, 1024, 2048),
    "kernel_size": 5,
    "n_groups": 8,
    "diffusion_step_embed_dim": 128,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDPM",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_inference_steps": None,
}
"""The settings that determine what the policy computes, with their defaults."""

_NEEDED = ("n_obs_steps", "horizon", "n_action_steps", "down_dims", "num_train_timesteps", "beta_schedule")
"""Settings without a default, which every file must have."""

_ONLY_TRAINING = frozenset(
    [
        "type",
        "device",
        "use_amp",
        "push_to_hub",
        "repo_id",
        "private",
        "tags",
        "license",
        "pretrained_path",
        "drop_n_last_frames",
        "crop_is_random",
        "pretrained_backbone_weights",
        "compile_model",
        "compile_mode",
        "do_mask_loss_for_padding",
        "optimizer_lr",
        "optimizer_betas",
        "optimizer_eps",
        "optimizer_weight_decay",
        "scheduler_name",
        "scheduler_warmup_steps",
        "input_features",
        "output_features",
        "normalization_mapping",
        "input_shapes",
        "output_shapes",
        "input_normalization_modes",
        "output_normalization_modes",
    ]
)
"""Entries of config.json that are read elsewhere or do not change what a trained policy computes."""


@dataclass(frozen=True)
class Found:
    """The content of a policy's files.

    Attributes:
        settings: the settings in `DEFAULTS`.
        inputs: the features under LeRobot's names, in the order of the files, which is the order of images in
            the network.
        action: the output feature.
        weights: the weights by name, without statistics.
    """

    settings: dict[str, Any]
    inputs: dict[str, Feature]
    action: Feature
    weights: dict[str, NDArray[Any]]


def is_lerobot_policy(path: Path) -> bool:
    """Whether a folder looks like a LeRobot policy or a checkpoint of LeRobot's training."""
    return (folder_of(path) / "config.json").is_file()


def folder_of(path: Path) -> Path:
    """The policy's own folder: `path`, or `pretrained_model` in a checkpoint of LeRobot."""
    inner = path / "pretrained_model"
    return inner if not (path / "config.json").is_file() and (inner / "config.json").is_file() else path


def read_files(path: Path) -> Found:
    """Read a policy's files.

    Raises:
        OtprError: the folder holds no LeRobot policy or one of another type; a file is damaged; or an entry
            is missing, invalid or not supported. The message names it.
    """
    folder = folder_of(path)
    if not (folder / "config.json").is_file():
        raise OtprError(f"{path} is no policy of LeRobot: it has no config.json. Give the folder that has.")
    where = folder / "config.json"
    config = json_object(where)
    settings = _settings(where, config)
    inputs, action = _features(where, config)
    weights = _weights(folder / "model.safetensors")
    old = {name: x for name, x in weights.items() if name.split(".")[0] in OLD_STATISTICS}
    weights = {name: x for name, x in weights.items() if name not in old}
    pipelines = [folder / f"policy_{side}processor.json" for side in ("pre", "post")]
    if there := [file for file in pipelines if file.is_file()]:
        if len(there) < len(pipelines):
            (gone,) = set(pipelines) - set(there)
            raise OtprError(f"{folder}: has {there[0].name}, but no {gone.name}. Copy the folder again.")
        if old:
            raise OtprError(
                f"{folder}: has statistics in {there[0].name} and among the weights ({min(old)}); only one "
                "of the two can be meant. Save the policy with one version of LeRobot."
            )
        before, after = Pipeline.read(pipelines[0]), Pipeline.read(pipelines[1])
        inputs = {name: before.normalized(name, feature) for name, feature in inputs.items()}
        action = after.normalized("action", action)
    else:
        inputs = {
            name: with_old(folder, name, feature, old, "normalize_inputs") for name, feature in inputs.items()
        }
        action = with_old(folder, "action", action, old, "unnormalize_outputs")
    return Found(settings, inputs, action, weights)


# ------------------------------------------------------------------------------------------------ config.json


def _settings(where: Path, config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("type", "diffusion" if "noise_scheduler_type" in config else None)
    if kind != "diffusion":
        raise OtprError(
            f"{where}: type is {kind!r}; of LeRobot's policies those of type 'diffusion' can be imported."
        )
    if config.get("use_peft"):
        raise OtprError(f"{where}: use_peft is true; merge the adapter into the weights first.")
    for name in sorted(config):
        if name not in DEFAULTS and name not in _ONLY_TRAINING and name != "use_peft":
            raise OtprError(
                f"{where}: has the entry {name!r}, which is not known here; what it changes in the policy "
                "would be lost. It needs a later version of otpr."
            )
    if missing := [name for name in _NEEDED if name not in config]:
        raise OtprError(f"{where}: has no entry {missing[0]!r}. Copy the folder again.")
    settings = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    for name in ("n_obs_steps", "horizon", "n_action_steps", "num_train_timesteps", *_COUNTS):
        _check(where, name, settings[name], _is_count(settings[name]), "a whole number of at least 1")
    for name in ("down_dims", "crop_shape", "resize_shape"):
        value = settings[name]
        fits = isinstance(value, list | tuple) and all(map(_is_count, cast("list[Any]", value)))
        _check(where, name, value, fits or (value is None and name != "down_dims"), "a list of whole numbers")
    for name in ("clip_sample", "use_film_scale_modulation", "use_group_norm", _SEPARATE):
        _check(where, name, settings[name], isinstance(settings[name], bool), "true or false")
    for name in ("beta_start", "beta_end", "clip_sample_range", "crop_ratio"):
        value = settings[name]
        _check(where, name, value, type(value) in (int, float) and value > 0, "a number above 0")
    steps = settings["num_inference_steps"]
    within = steps is None or (_is_count(steps) and steps <= settings["num_train_timesteps"])
    _check(where, "num_inference_steps", steps, within, "null, or 1 to num_train_timesteps")
    for name, known in _CHOICES.items():
        _check(where, name, settings[name], settings[name] in known, f"one of {', '.join(map(repr, known))}")
    if settings["resize_shape"] is not None:
        raise OtprError(
            f"{where}: resize_shape is {settings['resize_shape']}: images that are resized within the policy "
            "are not supported. Record and train with images of that size."
        )
    return settings


_SEPARATE = "use_separate_rgb_encoder_per_camera"
_COUNTS = ("kernel_size", "n_groups", "diffusion_step_embed_dim", "spatial_softmax_num_keypoints")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "noise_scheduler_type": ("DDPM", "DDIM"),
    "beta_schedule": ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid"),
    "prediction_type": ("epsilon", "sample"),
    "vision_backbone": ("resnet18",),
}


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 1_000_000


def _check(where: Path, name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise OtprError(f"{where}: {name} is {value!r}; {expected} is supported.")


def _features(where: Path, config: dict[str, Any]) -> tuple[dict[str, Feature], Feature]:
    """The inputs and the action, without statistics."""
    if "input_shapes" in config:
        inputs = dict(_oldest(where, config, "input"))
        outputs = dict(_oldest(where, config, "output"))
    else:
        modes = config.get("normalization_mapping")
        if not isinstance(modes, dict):
            raise OtprError(f"{where}: has no normalization_mapping. Copy the folder again.")
        inputs, outputs = (
            {
                name: _feature(f"{where}: {group}.{name}", of, cast(dict[str, Any], modes))
                for name, of in _entries(where, config, group).items()
            }
            for group in ("input_features", "output_features")
        )
    if list(outputs) != ["action"] or outputs["action"].type != "ACTION":
        raise OtprError(
            f"{where}: its outputs are {', '.join(outputs) or 'none'}; one, 'action', is supported."
        )
    for name, feature in inputs.items():
        expected = {"STATE": STATE_PARTS[0], "ENV": STATE_PARTS[1]}.get(feature.type, name)
        if feature.type not in ("STATE", "ENV", "VISUAL") or name != expected:
            raise OtprError(
                f"{where}: the input {name!r} of type {feature.type} is not supported; inputs are "
                f"{' and '.join(STATE_PARTS)}, and images."
            )
    if STATE_PARTS[0] not in inputs or len(inputs) < 2:
        raise OtprError(
            f"{where}: its inputs are {', '.join(inputs)}; LeRobot's policy has {STATE_PARTS[0]} and, beside "
            f"it, images or {STATE_PARTS[1]}."
        )
    return inputs, outputs["action"]


def _entries(where: Path, config: dict[str, Any], group: str) -> dict[str, Any]:
    entries = config.get(group)
    if not isinstance(entries, dict) or not entries:
        raise OtprError(f"{where}: has no {group}. Copy the folder again.")
    return cast(dict[str, Any], entries)


def _oldest(where: Path, config: dict[str, Any], side: str) -> Iterator[tuple[str, Feature]]:
    """The features of layout 1."""
    modes = _entries(where, config, f"{side}_normalization_modes")
    for name, shape in _entries(where, config, f"{side}_shapes").items():
        kinds = {"action": "ACTION", STATE_PARTS[0]: "STATE", STATE_PARTS[1]: "ENV"}
        kind = kinds.get(name, "VISUAL" if name.startswith("observation.image") else "unknown")
        mode = str(modes.get(name, "identity")).upper()
        yield name, _feature(f"{where}: {side}_shapes.{name}", {"type": kind, "shape": shape}, {kind: mode})


def _feature(place: str, given: Any, modes: Mapping[str, Any]) -> Feature:
    entry = cast(dict[str, Any], given if isinstance(given, dict) else {})
    kind, shape = str(entry.get("type")), entry.get("shape")
    axes = 3 if kind == "VISUAL" else 1
    if not (isinstance(shape, list) and all(map(_is_count, cast("list[Any]", shape)))) or len(shape) != axes:
        raise OtprError(f"{place}: shape is {shape!r}; of type {kind} it has {axes} axes, whole numbers.")
    mode = modes.get(kind, "IDENTITY")
    if mode not in MODES:
        raise OtprError(f"{place}: is normalised by {mode!r}; {', '.join(MODES)} are supported.")
    return Feature(kind, tuple(shape), mode)


def _weights(file: Path) -> dict[str, NDArray[Any]]:
    found = {name.replace("._orig_mod", ""): array for name, array in read_arrays(file).items()}
    for name, array in found.items():
        if name.endswith(".num_batches_tracked"):
            continue
        if array.dtype.kind not in "fV" or array.dtype.itemsize > 8:
            raise DamagedFile(file, f"{name} is {array.dtype}, no weights")
        if not np.isfinite(array.astype(np.float32)).all():
            raise OtprError(f"{file}: {name} is not finite: the policy's weights hold NaN or infinity.")
    return found
