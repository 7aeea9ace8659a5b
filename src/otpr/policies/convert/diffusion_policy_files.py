"""The content of a converted diffusion_policy checkpoint, checked before anything is built from it.

`diffusion_policy_to_otpr.py` writes such files: settings as JSON in a string, and weights by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.policies.convert import diffusion_policy_to_otpr
from otpr.policies.convert.diffusion_policy_to_otpr import FORMAT
from otpr.policies.convert.imported import check_finite
from otpr.policies.convert.settings import Settings
from otpr.spec import STATE, Parts

Weights = Mapping[str, NDArray[Any]]

SCRIPT = Path(diffusion_policy_to_otpr.__file__)
"""The script that converts a checkpoint on the machine where it was trained."""

ADVICE = (
    "Checkpoints of diffusion_policy are pickles of its own objects. Convert yours where it was trained, in "
    f"diffusion_policy's environment and folder: copy {SCRIPT} there, run `python {SCRIPT.name} "
    "CHECKPOINT.ckpt policy.pt`, and import policy.pt."
)


def is_converted(content: Any) -> bool:
    """Whether the script wrote this content of a PyTorch file."""
    return isinstance(content, dict) and cast(dict[str, Any], content).get("format") == FORMAT


def opened(file: Path, content: Any) -> tuple[Settings, Weights]:
    """The settings and the weights of a converted checkpoint.

    Raises:
        OtprError: the file is not a converted checkpoint, or weights are not finite.
    """
    if not is_converted(content):
        raise OtprError(f"{file} is no converted checkpoint of diffusion_policy. {ADVICE}")
    whole = Settings(f"{file}: ", content)
    text, weights = whole.get("settings"), whole.get("weights")
    try:
        settings = Settings(f"{file}: settings.", json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise OtprError(f"{file}: settings is no JSON ({error}). Convert the checkpoint again.") from error
    if not isinstance(weights, dict):
        raise OtprError(f"{file}: weights is no dictionary. Convert the checkpoint again.")
    for name, array in cast(dict[str, Any], weights).items():
        check_finite(file, name, array)
    return settings, cast(Weights, weights)


class Entries(NamedTuple):
    """The entries of a policy's observation under diffusion_policy's names and in its order."""

    vectors: dict[str, int]  # lengths
    images: dict[str, tuple[int, int, int]]  # (channels, height, width)
    order: tuple[str, ...]  # of all entries

    @property
    def parts(self) -> Parts:
        """The parts of the entry "state", where they are known."""
        return tuple(self.vectors.items()) if list(self.vectors) != ["obs"] else ()


def observation_of(file: Path, policy: Settings, hybrid: bool) -> tuple[Entries, int]:
    """The entries of the observation and the number of action dimensions."""
    if not hybrid:
        return Entries({"obs": policy.count("obs_dim")}, {}, ("obs",)), policy.count("action_dim")
    meta = policy.part("shape_meta")
    action, seen = meta.part("action"), meta.part("obs")
    vectors: dict[str, int] = {}
    images: dict[str, tuple[int, int, int]] = {}
    for name in seen.given:
        entry = seen.part(name)
        kind, shape = entry.one_of("type", ("low_dim", "rgb"), "low_dim"), entry.counts("shape")
        entry.done()
        if len(shape) != (3 if kind == "rgb" else 1):
            raise OtprError(f"{entry.place}shape is {shape}; of type {kind} it has another number of axes.")
        if kind == "rgb":
            images[name] = cast(tuple[int, int, int], shape)
        else:
            vectors[name] = shape[0]
    shape = action.counts("shape")
    if len(shape) != 1:
        raise OtprError(f"{action.place}shape is {shape}; one axis is supported.")
    action.done()
    meta.done()
    if not images:
        raise OtprError(f"{file}: shape_meta.obs has no entry of type rgb, which a hybrid policy needs.")
    names = [camera(name) for name in images]
    if len({*names, STATE}) <= len(names):
        raise OtprError(f"{file}: the images {', '.join(images)} do not have names of their own: {names}.")
    return Entries(vectors, images, tuple(seen.given)), shape[0]


def camera(key: str) -> str:
    """The observation entry's name for an image: the camera's name."""
    return key.removesuffix("_image")


def normalization(file: Path, weights: Weights, name: str, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and offset of an entry; the network sees x * scale + offset."""
    scale, offset = (_parameter(file, weights, f"{name}.{part}", size) for part in ("scale", "offset"))
    if not (scale > 0).all():
        raise OtprError(f"{file}: normalizer.params_dict.{name}.scale has numbers that are not above 0.")
    return scale, offset


def statistic(file: Path, weights: Weights, name: str, which: str, size: int) -> NDArray[np.float32]:
    """A statistic, such as "min", of an entry over the policy's training data."""
    return _parameter(file, weights, f"{name}.input_stats.{which}", size)


def _parameter(file: Path, weights: Weights, name: str, size: int) -> NDArray[np.float32]:
    full = f"normalizer.params_dict.{name}"
    if full not in weights:
        raise OtprError(f"{file}: {full} is missing, and the policy is not whole without its normalisation.")
    array = np.asarray(weights[full], np.float32)
    if array.shape not in ((size,), (1,)):
        raise OtprError(f"{file}: {full} has the shape {array.shape}, expected ({size},).")
    return np.broadcast_to(array, (size,))


def check_names(file: Path, entries: Entries, weights: Weights) -> None:
    """Refuse arrays that were not used."""
    nets = tuple(f"obs_encoder.obs_nets.{name}." for name in entries.images)
    normalizers = tuple(f"normalizer.params_dict.{name}." for name in (*entries.order, "action"))
    for name in sorted(weights):
        if not name.startswith(("model.", *nets, *normalizers)) and not name.endswith("_dummy_variable"):
            raise OtprError(f"{file}: weights has {name!r}, which is not expected.")
