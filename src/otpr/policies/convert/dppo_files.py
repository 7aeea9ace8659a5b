"""The files of a DPPO policy other than its configuration (`dppo_config`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.npz import read_npz
from otpr.policies.convert.imported import check_finite, under

Weights = Mapping[str, NDArray[Any]]
Which = Literal["auto", "ema", "model"]

NORMALIZATION_LIMIT = 2**20
"""The largest uncompressed size of the normalisation, in bytes."""


class Files(NamedTuple):
    """The paths of a policy's files other than its weights, and options.

    Attributes:
        config: the configuration; None: `.hydra/config.yaml` of the run.
        normalization: the normalisation; None: `normalization.npz` beside the weights.
        weights: "ema" for the moving average, "model" for the trained weights; "auto" prefers the average.
        execute: number of executed actions; None: `act_steps` of the configuration.
    """

    config: Path | None = None
    normalization: Path | None = None
    weights: Which = "auto"
    execute: int | None = None


def is_dppo(content: Any) -> bool:
    """Whether the content of a PyTorch file looks like DPPO's weights."""
    return isinstance(content, dict) and isinstance(cast(dict[str, Any], content).get("model"), dict)


def weights_of(file: Path, content: Any, wanted: Which) -> tuple[Weights, str]:
    """The network's weights under DPPO's names, and their kind: "ema" or "model"."""
    if not is_dppo(content):
        raise OtprError(f"{file} holds no weights of DPPO, which are named 'model'.")
    which = wanted if wanted != "auto" else ("ema" if "ema" in content else "model")
    given = content.get(which)
    if not isinstance(given, dict):
        raise OtprError(f"{file}: has no weights {which!r}; it has {', '.join(map(str, content))}.")
    weights = cast(dict[str, Any], given)
    if tuned := sorted(name for name in weights if name.startswith("actor")):
        raise OtprError(
            f"{file}: {which} has {tuned[0]!r}: these are two networks, as DPPO's fine-tuning makes them. "
            "Pre-trained policies are supported."
        )
    for name, array in weights.items():
        if not name.startswith("network."):
            raise OtprError(f"{file}: {which} has {name!r}, which is not expected.")
        check_finite(file, f"{which}: {name}", array)
    return under("network.", cast(Weights, weights)), which


def config_file(file: Path, files: Files) -> Path:
    """The configuration that belongs to the weights."""
    if files.config is not None:
        return files.config
    # a run contains checkpoint/state_EPOCH.pt and .hydra/config.yaml
    run = file.absolute().parent.parent / ".hydra" / "config.yaml"
    if not run.is_file():
        raise OtprError(
            f"{file}: there is no configuration at {run}. Give that of the run, or of DPPO's evaluation of "
            "the policy, with --config FILE."
        )
    return run


def normalization(
    file: Path, files: Files, sizes: Mapping[str, int]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """The minima and maxima of the observation and of the action."""
    where = files.normalization or file.absolute().parent / "normalization.npz"
    if files.normalization is None and not where.is_file():
        raise OtprError(
            f"{file}: the policy is not whole without its normalisation, normalization.npz, which lies "
            "beside the data that it was trained on. Give it with --normalization FILE."
        )
    arrays = read_npz(where, unpacked=NORMALIZATION_LIMIT)
    found: dict[str, NDArray[np.float64]] = {}
    for name, size in sizes.items():
        for end in ("min", "max"):
            key = f"{name}_{end}"
            if key not in arrays:
                raise OtprError(f"{where}: {key} is missing.")
            found[key] = arrays[key].astype(np.float64)
            if found[key].shape != (size,) or not np.isfinite(found[key]).all():
                raise OtprError(
                    f"{where}: {key} has the shape {found[key].shape}, or is not finite; expected ({size},)."
                )
        if (found[f"{name}_min"] > found[f"{name}_max"]).any():
            raise OtprError(f"{where}: {name}_min is above {name}_max.")
    low, high = ({name: found[f"{name}_{end}"] for name in sizes} for end in ("min", "max"))
    return low, high
