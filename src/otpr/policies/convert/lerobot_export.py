"""Export of a policy as a folder that LeRobot's `DiffusionPolicy.from_pretrained` and processors load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr import trees
from otpr.errors import OtprError
from otpr.lerobot_names import STATE_PARTS, image_entry
from otpr.networks.torch_weights import torch_weights
from otpr.networks.unet import UNet
from otpr.networks.vision import ResNet18
from otpr.policies.convert.exported import Exported
from otpr.policies.convert.imported import PREDICTIONS, with_columns
from otpr.policies.convert.lerobot import features_order
from otpr.policies.convert.lerobot_statistics import EPS, Feature
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.policies.renormalized import original
from otpr.policies.vision import VisionEncoder
from otpr.spec import STATE, Spec

Weights = dict[str, NDArray[Any]]

WRITTEN_FOR = "0.4.4"
"""The version of LeRobot whose file layout is written."""


def export_lerobot(
    policy: Policy, *, state_length: int | None = None, image_keys: Sequence[str] = ()
) -> Exported:
    """The files of a policy in LeRobot's layout.

    Args:
        policy: a diffusion policy with a U-Net, whose plans begin `history - 1` steps before the current one.
        state_length: length of the part of the observation's vector that becomes LeRobot's
            `observation.state`; the rest becomes `observation.environment_state`. None: all of it, which
            LeRobot accepts if there are images.
        image_keys: LeRobot's names for the images, in alphabetical order of otpr's names; empty: otpr's names
            with `observation.images.` in front.

    Raises:
        OtprError: LeRobot's policy class cannot represent this policy; the message names the reason.
    """
    notes: list[str] = []
    choosing, policy = policy, original(policy.single())
    diffusion, spec = policy.diffusion, policy.spec
    network = _network(diffusion)
    _check_plan(spec, network)
    inputs = _inputs(policy, state_length, image_keys, notes)
    keys = [key for key, feature in inputs.items() if feature.type == "VISUAL"]
    vectors = [name for name in STATE_PARTS if name in inputs]
    action = _action(diffusion, spec)
    vision = policy.encoder if isinstance(policy.encoder, VisionEncoder) else None
    per_image = 0
    weights: Weights = {}
    resnet = None
    if vision is not None:
        resnet = _resnet(vision)
        per_image = resnet.feature_dim
        weights |= _vision_weights(vision, keys, spec)
    order = np.argsort(features_order(inputs, vectors, keys, per_image, spec.history))
    unet = with_columns(torch_weights(network.torch_modules()), order, network.step_dim)
    weights |= {f"diffusion.unet.{name}": x for name, x in unet.items()}
    if choosing.chooser is not None:
        notes.append(
            f"The policy chooses among {choosing.candidates} plans, which needs otpr. LeRobot draws one "
            "plan: expect the success of one sample (`otpr evaluate`), not that of the choice."
        )
    files = {
        "config.json": _json(_config(diffusion, network, spec, inputs, action, resnet, vision)),
        "model.safetensors": trees.to_bytes(weights),
        **_processors(inputs, action),
    }
    return Exported(files, notes)


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=4, allow_nan=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------ the network


def _network(diffusion: Diffusion) -> UNet:
    network = diffusion.network
    if not isinstance(network, UNet):
        raise OtprError(
            f"The policy's network is of kind {network.kind!r}, and LeRobot's is a U-Net. Train one with "
            "`otpr pretrain --network unet`."
        )
    if diffusion.sampler not in ("ddpm", "ddim"):
        raise OtprError(f"The policy is sampled by {diffusion.sampler!r}; LeRobot has ddpm and ddim.")
    if diffusion.prediction not in PREDICTIONS.values():
        raise OtprError(
            f"The network predicts the {diffusion.prediction}; LeRobot's the noise or the sample."
        )
    if diffusion.spacing != "leading" and diffusion.visited_steps < diffusion.schedule.steps:
        raise OtprError(
            f"The policy visits {diffusion.visited_steps} of {diffusion.schedule.steps} noise levels, from "
            "the noisiest on; LeRobot leaves the noisiest out. Sample with all levels."
        )
    if diffusion.sampler == "ddim" and diffusion.clipped_noise and diffusion.bound is not None:
        raise OtprError(
            "The policy's ddim goes on from clipped plans, and LeRobot's does not. Sample with ddpm."
        )
    if diffusion.noise_limit is not None and diffusion.sampler == "ddpm":
        limit = f"{diffusion.noise_limit:g}"
        raise OtprError(f"The policy's noise is clipped to {limit}; LeRobot's is not. Sample with ddim.")
    if diffusion.schedule.betas == "sigmoid" and diffusion.sampler == "ddim":
        raise OtprError("The policy's schedule is 'sigmoid', which LeRobot's DDIM does not have.")
    sizes = network.about()
    if sizes["deep_condition"] or sizes["norm_eps"] != 1e-5:
        raise OtprError("The policy's U-Net is DPPO's: its blocks or normalisations are not LeRobot's.")
    return network


def _check_plan(spec: Spec, network: UNet) -> None:
    if spec.offset != spec.history - 1:
        raise OtprError(
            f"The policy's plans begin {spec.offset} steps before the present, and LeRobot's history - 1, "
            f"here {spec.history - 1}. Train with `otpr pretrain --history {spec.history} --offset "
            f"{spec.history - 1}`."
        )
    levels = len(network.down)
    if spec.horizon % 2**levels:
        raise OtprError(
            f"With {levels} levels of its U-Net, LeRobot takes horizons that are multiples of {2**levels}; "
            f"the policy's is {spec.horizon}."
        )


def _config(
    diffusion: Diffusion,
    network: UNet,
    spec: Spec,
    inputs: Mapping[str, Feature],
    action: Feature,
    resnet: ResNet18 | None,
    vision: VisionEncoder | None,
) -> dict[str, Any]:
    sizes, schedule = network.about(), diffusion.schedule
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    visual = {}
    if resnet is not None and vision is not None:
        visual = {
            "crop_shape": None if resnet.crop_shape is None else list(resnet.crop_shape),
            "crop_is_random": True,
            "use_group_norm": resnet.about()["norm"] == "group",
            "spatial_softmax_num_keypoints": resnet.feature_dim // 2,
            "use_separate_rgb_encoder_per_camera": "" not in vision.networks,
        }
    return {
        "type": "diffusion",
        "n_obs_steps": spec.history,
        "horizon": spec.horizon,
        "n_action_steps": spec.execute,
        "input_features": {name: _feature(feature) for name, feature in inputs.items()},
        "output_features": {"action": _feature(action)},
        "normalization_mapping": _modes([*inputs.values(), action]),
        "device": "cpu",
        "push_to_hub": False,
        "vision_backbone": "resnet18",
        **visual,
        "down_dims": sizes["down_dims"],
        "kernel_size": sizes["kernel_size"],
        "n_groups": sizes["groups"],
        "diffusion_step_embed_dim": sizes["step_dim"],
        "use_film_scale_modulation": sizes["scale_modulation"],
        "noise_scheduler_type": diffusion.sampler.upper(),
        "num_train_timesteps": schedule.steps,
        "beta_schedule": schedule.betas,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": predictions[diffusion.prediction],
        "clip_sample": diffusion.bound is not None,
        "clip_sample_range": 1.0 if diffusion.bound is None else diffusion.bound,
        "num_inference_steps": diffusion.sampler_steps,
    }


# -------------------------------------------------------------------------------------- inputs and the action


def _feature(feature: Feature) -> dict[str, Any]:
    return {"type": feature.type, "shape": list(feature.shape)}


def _modes(features: Sequence[Feature]) -> dict[str, str]:
    return {feature.type: feature.mode for feature in features}


def _inputs(
    policy: Policy, state_length: int | None, image_keys: Sequence[str], notes: list[str]
) -> dict[str, Feature]:
    """The features that LeRobot's policy sees; images are in alphabetical order of otpr's names."""
    spec, encoder = policy.spec, policy.encoder
    vectors = encoder.vectors if isinstance(encoder, VisionEncoder) else encoder
    names = sorted(spec.images)
    if not isinstance(vectors, VectorEncoder) or list(spec.vectors) != [STATE]:
        raise OtprError(
            f"LeRobot's policy sees one vector beside images, {STATE_PARTS[0]}; this one sees "
            f"{', '.join(spec.observation)}."
        )
    size = spec.vectors[STATE].shape[0]
    length = size if state_length is None else state_length
    if not 1 <= length <= size:
        raise OtprError(f"--state-length must lie in 1..{size}, the numbers of {STATE!r}; given {length}.")
    if length == size and not names:
        raise OtprError(
            f"Without images LeRobot's policy needs {STATE_PARTS[1]} beside {STATE_PARTS[0]}. Say with "
            f"--state-length N how many of the {size} numbers of {STATE!r} are {STATE_PARTS[0]}."
        )
    normalizer = vectors.normalizers[STATE]
    if normalizer.limit is not None:
        notes.append(
            f"otpr clips numbers of {STATE!r} that are {normalizer.limit:g} deviations away from the mean; "
            "LeRobot does not."
        )
    found = {STATE_PARTS[0]: _vector("STATE", normalizer, slice(length))}
    keys = list(image_keys) or [f"observation.images.{name}" for name in names]
    if len(keys) != len(names) or any(image_entry(k) != n for k, n in zip(keys, names, strict=False)):
        raise OtprError(
            f"--image-keys names {', '.join(keys) or 'nothing'}; LeRobot's names of {', '.join(names)}, in "
            "this order, are expected."
        )
    for name, key in zip(names, keys, strict=True):
        height, width, channels = spec.images[name].shape
        assert isinstance(encoder, VisionEncoder)
        found[key] = _colours(encoder, name, (channels, height, width))
    if length < size:
        found[STATE_PARTS[1]] = _vector("ENV", normalizer, slice(length, size))
    return found


def _vector(kind: str, normalizer: Normalizer, where: slice) -> Feature:
    mean = np.asarray(normalizer.mean, np.float64)[where]
    if normalizer.rest is not None:
        mean = mean + np.asarray(normalizer.rest, np.float64)[where]
    scale = np.asarray(normalizer.scale, np.float64)[where]
    shift = np.zeros_like(mean) if normalizer.shift is None else np.asarray(normalizer.shift)[where]
    if (shift == -1).all():
        return _with(kind, "MIN_MAX", {"min": mean, "max": mean + 2 * scale})
    # x / s + c is (x + s c) / s
    mean = mean - scale * shift
    # `original` rounds
    if np.allclose(mean, 0, atol=1e-6) and np.allclose(scale, 1, atol=1e-6):
        return Feature(kind, mean.shape)
    return _with(kind, "MEAN_STD", {"mean": mean, "std": scale - EPS})


def _with(kind: str, mode: str, statistics: Mapping[str, NDArray[np.float64]]) -> Feature:
    arrays = {name: np.asarray(x, np.float32) for name, x in statistics.items()}
    return Feature(kind, next(iter(arrays.values())).shape, mode, arrays)


def _action(diffusion: Diffusion, spec: Spec) -> Feature:
    least, greatest = np.asarray(spec.action_low), np.asarray(spec.action_high)
    ends = (-np.ones(spec.action_dim), np.ones(spec.action_dim))
    if diffusion.low is not None and diffusion.high is not None:
        ends = (np.asarray(diffusion.low, np.float64), np.asarray(diffusion.high, np.float64))
    low, high = (least + (end + 1) / 2 * (greatest - least) for end in ends)
    return _with("ACTION", "MIN_MAX", {"min": low, "max": high})


# ---------------------------------------------------------------------------------------------------- images


def _resnet(vision: VisionEncoder) -> ResNet18:
    network = next(iter(vision.networks.values()))
    if not isinstance(network, ResNet18):
        raise OtprError(
            "LeRobot sees images through a ResNet-18. Train with `otpr pretrain --vision resnet18`."
        )
    return network


def _of(vision: VisionEncoder, name: str) -> ResNet18:
    network = vision.networks.get(name, vision.networks.get(""))
    assert isinstance(network, ResNet18)
    return network


def _colours(vision: VisionEncoder, name: str, shape: tuple[int, ...]) -> Feature:
    _resnet(vision)
    network = _of(vision, name)
    statistics = {"mean": np.asarray(network.mean), "std": np.asarray(network.std) - EPS}
    arrays = {key: np.asarray(x, np.float32).reshape(-1, 1, 1) for key, x in statistics.items()}
    return Feature("VISUAL", shape, "MEAN_STD", arrays)


def _vision_weights(vision: VisionEncoder, keys: Sequence[str], spec: Spec) -> Weights:
    found: Weights = {}
    shared = "" in vision.networks
    for i, key in enumerate(keys[:1] if shared else keys):
        network = _of(vision, image_entry(key))
        shape = spec.images[image_entry(key)].shape
        weights = torch_weights(network.torch_modules()) | {"pool.pos_grid": keypoint_grid(network, shape)}
        prefix = "diffusion.rgb_encoder." if shared else f"diffusion.rgb_encoder.{i}."
        found |= {f"{prefix}{name}": x for name, x in weights.items()}
    return found


def keypoint_grid(network: ResNet18, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The grid of LeRobot's spatial softmax, which its files contain: (rows * columns, 2)."""
    rows, columns = (-(-size // 32) for size in network.crop_shape or shape[:2])
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


# ------------------------------------------------------------------------------------------------- processors


def _processors(inputs: Mapping[str, Feature], action: Feature) -> dict[str, bytes]:
    """The pre- and post-processing pipelines, and the statistics of each."""
    before, after = {**inputs, "action": action}, {"action": action}
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    normalize = _step("policy_preprocessor", 3, "normalizer_processor", before)
    unnormalize = _step("policy_postprocessor", 0, "unnormalizer_processor", after)
    pipelines: dict[str, list[dict[str, Any]]] = {
        "policy_preprocessor": [
            {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            device,
            normalize,
        ],
        "policy_postprocessor": [unnormalize, device],
    }
    files = {f"{name}.json": _json({"name": name, "steps": steps}) for name, steps in pipelines.items()}
    for step, features in ((normalize, before), (unnormalize, after)):
        statistics = {
            f"{name}.{key}": x for name, feature in features.items() for key, x in feature.statistics.items()
        }
        files[step["state_file"]] = trees.to_bytes(statistics)
    return files


def _step(pipeline: str, number: int, name: str, features: Mapping[str, Feature]) -> dict[str, Any]:
    return {
        "registry_name": name,
        "config": {
            "eps": EPS,
            "features": {key: _feature(feature) for key, feature in features.items()},
            "norm_map": _modes(list(features.values())),
        },
        "state_file": f"{pipeline}_step_{number}_{name}.safetensors",
    }
