"""Import of policies of diffusion_policy (Chi et al., 2023): the same noise gives the same actions.

The U-Nets for low-dimensional observations, and those for additional images ("hybrid"), are supported if the
observations are a global condition (`obs_as_global_cond`). In otpr, the state of a hybrid policy begins with
the vectors, followed by the images in alphabetical order. The columns of the weights are permuted
accordingly.
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
from otpr.diffusion.sampling import Sampler
from otpr.errors import OtprError
from otpr.networks.unet import UNet
from otpr.networks.vision import ResNet18
from otpr.policies.convert.diffusion_policy_files import (
    Entries,
    Weights,
    camera,
    check_names,
    normalization,
    observation_of,
    opened,
    statistic,
)
from otpr.policies.convert.imported import (
    PREDICTIONS,
    Bounds,
    Imported,
    Range,
    beyond,
    check_unit,
    ends,
    planned,
    renamed,
    state_order,
    under,
    with_columns,
)
from otpr.policies.convert.settings import Settings
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Encoder, Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder
from otpr.spec import STATE, Entry, Spec

LOW_DIM = "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy"
HYBRID = "diffusion_policy.policy.diffusion_unet_hybrid_image_policy.DiffusionUnetHybridImagePolicy"
_UNET = "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D"
_SCHEDULERS: dict[str, Sampler] = {
    "diffusers.schedulers.scheduling_ddpm.DDPMScheduler": "ddpm",
    "diffusers.schedulers.scheduling_ddim.DDIMScheduler": "ddim",
    "diffusers.DDPMScheduler": "ddpm",
    "diffusers.DDIMScheduler": "ddim",
}

KEYPOINTS = 32
"""Number of keypoints of the spatial softmax; a camera has twice as many features."""


def import_diffusion_policy(
    file: Path, content: Any, bounds: Bounds | None = None, control_rate: float | None = None
) -> Imported:
    """Build a policy from a converted checkpoint.

    Args:
        file: the checkpoint's path, for errors.
        content: the file's content, from `otpr.policies.convert.torch_file.read_torch`.
        bounds: as in `otpr.policies.convert.lerobot.import_lerobot`.
        control_rate: as in `import_lerobot`.

    Raises:
        OtprError: the file is not a converted checkpoint, or something in it is damaged, missing or not
            supported; or as in `import_lerobot`.
    """
    settings, weights = opened(file, content)
    policy = settings.part("policy")
    hybrid = policy.one_of("_target_", (LOW_DIM, HYBRID)) == HYBRID
    settings.one_of("n_latency_steps", (0,))
    settings.ignore("weights")
    settings.done()
    entries, dim = observation_of(file, policy, hybrid)
    spec, trained = _planned(file, policy, hybrid, entries, dim, weights, bounds, control_rate)
    encoder = _encoder(file, policy, entries, weights, spec)
    generator = _generator(file, policy, hybrid, entries, weights, spec, encoder)
    policy.done()
    check_names(file, entries, weights)
    return Imported(Policy(encoder, generator, None, spec), entries.parts, beyond(trained, spec))


def _planned(
    file: Path,
    policy: Settings,
    hybrid: bool,
    entries: Entries,
    dim: int,
    weights: Weights,
    bounds: Bounds | None,
    rate: float | None,
) -> tuple[Spec, Range]:
    """The spec, and the range of the actions that the policy was trained on."""
    observation: dict[str, Entry] = {}
    if entries.vectors:
        observation[STATE] = Entry((sum(entries.vectors.values()),))
    for name, (channels, height, width) in entries.images.items():
        observation[camera(name)] = Entry((height, width, channels), "uint8", "image")
    seen, execute, horizon = (policy.count(x) for x in ("n_obs_steps", "n_action_steps", "horizon"))
    # execution begins at the last observation or after it
    offset = seen - 1 if hybrid or policy.flag("oa_step_convention", False) else seen
    if not hybrid and policy.flag("pred_action_steps_only", False):
        horizon, offset = execute, 0
    trained = Range(*(statistic(file, weights, "action", end, dim) for end in ("min", "max")))
    if bounds is None:
        check_unit(file, trained)
    called = "n_obs_steps, horizon and n_action_steps"
    plan = {"history": seen, "horizon": horizon, "execute": execute, "offset": offset}
    return planned(file, observation, dim, bounds, rate, called, **plan), trained


# --------------------------------------------------------------------------------------------------- encoder


def _encoder(file: Path, policy: Settings, entries: Entries, weights: Weights, spec: Spec) -> Encoder:
    vectors = None
    if entries.vectors:
        pairs = [normalization(file, weights, name, size) for name, size in entries.vectors.items()]
        scale, offset = (jnp.asarray(np.concatenate(part)) for part in zip(*pairs, strict=True))
        zeros = jnp.zeros_like(scale)
        vectors = VectorEncoder({STATE: Normalizer(zeros, 1 / scale, shift=offset, limit=None)})
    if not entries.images:
        assert vectors is not None
        return vectors
    norm = "group" if policy.flag("obs_encoder_group_norm", False) else "batch"
    crop = policy.get("crop_shape", (76, 76))
    if crop is not None:
        crop = policy.counts("crop_shape", (76, 76))
        if not policy.flag("eval_fixed_crop", False):
            raise OtprError(
                f"{policy.place}eval_fixed_crop is false: images are cropped at random in evaluation, too. "
                "Only the middle (true) is supported."
            )
    policy.ignore("eval_fixed_crop")
    networks: dict[str, ResNet18] = {}
    for name, (channels, height, width) in entries.images.items():
        scale, offset = normalization(file, weights, name, channels)
        try:
            skeleton = eqx.filter_eval_shape(
                ResNet18,
                (height, width, channels),
                keypoints=KEYPOINTS,
                crop_shape=crop,
                # x * s + o is (x + o / s) / (1 / s)
                mean=tuple((-offset / scale).tolist()),
                std=tuple((1 / scale).tolist()),
                norm=norm,
                key=jax.random.key(0),
            )
            networks[camera(name)] = skeleton.with_torch_weights(_resnet_weights(file, name, weights))
        except OtprError as error:
            raise OtprError(f"{file}: obs_encoder.obs_nets.{name}: {error}") from error
    return VisionEncoder(vectors, dict(networks), tuple(sorted(networks)))


_RESNET_PARTS = (("backbone.nets.", "backbone."), ("pool.", "pool."), ("nets.3.", "out."))
"""Names of the parts of robomimic's image network, and LeRobot's names for them. `nets.0` and `nets.1` are
copies of the first two."""


def _resnet_weights(file: Path, camera: str, weights: Weights) -> dict[str, NDArray[Any]]:
    """The weights of a camera's network under LeRobot's names."""
    own = under(f"obs_encoder.obs_nets.{camera}.", weights)
    temperature = own.pop("pool.temperature", np.ones(1))
    if not (temperature == 1).all():
        raise OtprError(f"{file}: pool.temperature of {camera} is {temperature}; 1 is supported.")
    own = {name: x for name, x in own.items() if name not in ("pool.pos_x", "pool.pos_y")}
    return {
        ours + name.removeprefix(theirs): x
        for theirs, ours in _RESNET_PARTS
        for name, x in own.items()
        if name.startswith(theirs)
    }


# ------------------------------------------------------------------------------------------------- generator


def _generator(
    file: Path,
    policy: Settings,
    hybrid: bool,
    entries: Entries,
    weights: Weights,
    spec: Spec,
    encoder: Encoder,
) -> Diffusion:
    if not policy.flag("obs_as_global_cond", hybrid) or (
        not hybrid and policy.flag("obs_as_local_cond", False)
    ):
        raise OtprError(
            f"{policy.place}obs_as_global_cond is false; policies conditioned by inpainting, or locally, are "
            "not supported."
        )
    network = policy
    if not hybrid:
        network = policy.part("model")
        network.one_of("_target_", (_UNET,))
        network.one_of("local_cond_dim", (None,), None)
        network.one_of("input_dim", (spec.action_dim,))
        network.one_of("global_cond_dim", (spec.history * encoder.feature_dim,))
    step_dim = network.count("diffusion_step_embed_dim", 256)
    try:
        skeleton = eqx.filter_eval_shape(
            UNet,
            spec.history * encoder.feature_dim,
            (spec.horizon, spec.action_dim),
            down_dims=network.counts("down_dims", (256, 512, 1024)),
            kernel_size=network.count("kernel_size", 5 if hybrid else 3),
            groups=network.count("n_groups", 8),
            step_dim=step_dim,
            scale_modulation=network.flag("cond_predict_scale", hybrid),
            key=jax.random.key(0),
        )
        sizes = {name: entries.vectors.get(name, 2 * KEYPOINTS) for name in entries.order}
        ours = [*entries.vectors, *sorted(entries.images, key=camera)]
        arrays = renamed(under("model.", weights), _UNET_NAMES)
        arrays = with_columns(arrays, state_order(sizes, ours, spec.history), step_dim)
        unet = skeleton.with_torch_weights(arrays)
    except OtprError as error:
        raise OtprError(f"{file}: model: {error}") from error
    if network is not policy:
        network.done()
    scale, offset = normalization(file, weights, "action", spec.action_dim)
    low, high = ends((-1 - offset) / scale, (1 - offset) / scale, spec)
    return _sampled(policy, unet, low, high)


_UNET_NAMES = {".blocks.0.block.": ".conv1.block.", ".blocks.1.block.": ".conv2.block.", ".2.conv.": ".2."}
"""Parts of weights' names, and LeRobot's names for them."""


def _sampled(policy: Settings, unet: UNet, low: Any, high: Any) -> Diffusion:
    """The generator with the sampler of the policy's diffusers scheduler."""
    scheduler = policy.part("noise_scheduler")
    sampler = _SCHEDULERS[scheduler.one_of("_target_", tuple(_SCHEDULERS))]
    levels = scheduler.count("num_train_timesteps", 1000)
    betas = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
    schedule = NoiseSchedule.of(
        scheduler.one_of("beta_schedule", betas[: 4 if sampler == "ddpm" else 3], "linear"),
        levels,
        scheduler.number("beta_start", 0.0001),
        scheduler.number("beta_end", 0.02),
    )
    clipped = scheduler.flag("clip_sample", True)
    bound = scheduler.number("clip_sample_range", 1.0)
    prediction = PREDICTIONS[scheduler.one_of("prediction_type", tuple(PREDICTIONS), "epsilon")]
    if sampler == "ddpm":
        scheduler.one_of("variance_type", ("fixed_small",), "fixed_small")
    else:
        scheduler.one_of("set_alpha_to_one", (True,), True)
        scheduler.one_of("steps_offset", (0,), 0)
    scheduler.done()
    steps = policy.get("num_inference_steps", None)
    if steps is not None:
        steps = policy.count("num_inference_steps")
    try:
        return Diffusion(
            unet,
            schedule,
            sampler,
            steps,
            prediction,
            bound if clipped else None,
            spacing="leading",
            clipped_noise=False,
            low=low,
            high=high,
        )
    except OtprError as error:
        raise OtprError(f"{policy.place}num_inference_steps is {steps}: {error}") from error
