"""The normalisation of a LeRobot policy's inputs and actions, read from wherever its files store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.trees import read_arrays

Array = NDArray[np.float32]

EPS = 1e-8
"""The number that LeRobot adds to standard deviations, and uses in place of a range of 0."""

MODES = {"MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std"), "IDENTITY": ()}
"""The supported kinds of normalisation, with the statistics of each."""


@dataclass(frozen=True)
class Feature:
    """An input or output of the policy.

    Attributes:
        type: STATE, ENV, VISUAL or ACTION.
        shape: of one sample; (channels, height, width) for images.
        mode: the kind of normalisation, a key of `MODES`.
        statistics: by name, each (length,), or (channels,) for images: those of the mode, and others in the
            files.
    """

    type: str
    shape: tuple[int, ...]
    mode: str = "IDENTITY"
    statistics: Mapping[str, Array] = field(default_factory=dict[str, Array])


def json_object(file: Path) -> dict[str, Any]:
    """Read a JSON document that is an object.

    Raises:
        DamagedFile: the document is not an object.
    """
    document = read_json(file)
    if not isinstance(document, dict):
        raise DamagedFile(file, "it is no object")
    return cast(dict[str, Any], document)


OLD_STATISTICS = ("normalize_inputs", "normalize_targets", "unnormalize_outputs")


def with_old(
    folder: Path, name: str, feature: Feature, arrays: Mapping[str, NDArray[Any]], group: str
) -> Feature:
    """The feature with its statistics from the weights (layouts 1 and 2)."""
    prefix = f"{group}.buffer_{name.replace('.', '_')}."
    found = {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
    return _complete(f"{folder / 'model.safetensors'}: {prefix}", name, feature, found)


def _complete(place: str, name: str, feature: Feature, found: Mapping[str, NDArray[Any]]) -> Feature:
    """The feature with its statistics, each of which must be present, finite and of the right length."""
    for statistic in MODES[feature.mode]:
        if statistic not in found:
            raise OtprError(
                f"{place}{statistic} is missing: {name} is normalised by {feature.mode}, and the policy is "
                "not whole without it."
            )
    kept = {key: found[key] for key in ("min", "max", "mean", "std") if key in found}
    statistics = {key: np.asarray(x, np.float32).reshape(-1) for key, x in kept.items()}
    for key, array in statistics.items():
        if array.shape != feature.shape[:1] or not np.isfinite(array).all():
            raise OtprError(
                f"{place}{key} has {array.size} numbers, or some that are not finite; {feature.shape[0]} are "
                f"expected of {name}."
            )
    return Feature(feature.type, feature.shape, feature.mode, statistics)


@dataclass(frozen=True)
class Pipeline:
    """The normalising step of a processor (layout 3)."""

    file: Path
    modes: Mapping[str, Any]
    statistics: Mapping[str, NDArray[Any]]

    @classmethod
    def read(cls, file: Path) -> Pipeline:
        """Read the step from a file in which all other steps change nothing."""
        found: list[Pipeline] = []
        steps = json_object(file).get("steps")
        for i, step in enumerate(cast("list[Any]", steps if isinstance(steps, list) else [])):
            given = cast(dict[str, Any], step if isinstance(step, dict) else {})
            name, config = given.get("registry_name", given.get("class")), given.get("config") or {}
            place = f"{file}: step {i}, {name!r}"
            if name in ("normalizer_processor", "unnormalizer_processor"):
                found.append(cls._of(file, place, config, given.get("state_file")))
            elif name == "rename_observations_processor":
                if config.get("rename_map"):
                    raise OtprError(
                        f"{place}: renames {config['rename_map']}; a rename_map is not supported."
                    )
            elif name == "device_processor":
                if config.get("float_dtype") not in (None, "float32"):
                    raise OtprError(
                        f"{place}: float_dtype is {config['float_dtype']!r}; float32 is supported."
                    )
            elif name != "to_batch_processor":
                raise OtprError(f"{place} is not supported: what it does to the data would be lost.")
        if len(found) != 1:
            raise OtprError(f"{file}: has {len(found)} steps that normalise; one is expected.")
        return found[0]

    @classmethod
    def _of(cls, file: Path, place: str, config: dict[str, Any], state: Any) -> Pipeline:
        if config.get("normalize_observation_keys") is not None:
            raise OtprError(f"{place}: normalize_observation_keys is not supported.")
        if config.get("eps", EPS) != EPS:
            raise OtprError(f"{place}: eps is {config['eps']!r}; {EPS} is supported.")
        modes = config.get("norm_map")
        if not isinstance(modes, dict):
            raise OtprError(f"{place}: has no norm_map. Copy the folder again.")
        if state is None:
            return cls(file, cast(dict[str, Any], modes), {})
        if not isinstance(state, str) or Path(state).name != state:
            raise OtprError(f"{place}: state_file is {state!r}, which is no name of a file beside it.")
        return cls(file.with_name(state), cast(dict[str, Any], modes), read_arrays(file.with_name(state)))

    def normalized(self, name: str, feature: Feature) -> Feature:
        """The feature with this step's normalisation."""
        mode = self.modes.get(feature.type, "IDENTITY")
        if mode not in MODES:
            raise OtprError(
                f"{self.file}: norm_map.{feature.type} is {mode!r}; supported: {', '.join(MODES)}."
            )
        found = {
            key.removeprefix(f"{name}."): x
            for key, x in self.statistics.items()
            if key.startswith(f"{name}.")
        }
        feature = Feature(feature.type, feature.shape, mode)
        return _complete(f"{self.file}: {name}.", name, feature, found)
