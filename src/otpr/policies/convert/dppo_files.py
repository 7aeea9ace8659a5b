"""The files of a policy of DPPO, beside its configuration (`dppo_config`)."""

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
"""Bytes that the normalisation may unpack to."""


class Files(NamedTuple):
    """Where the parts of a policy lie, beside its weights.

    Attributes:
        config: its configuration; None: `.hydra/config.yaml` of the run.
        normalization: the normalisation; None: `normalization.npz` beside the weights.
        weights: those of the moving average, or those trained; "auto": those of the average, where there are.
        execute: how many actions are executed; None: `act_steps` of the configuration.
    """

    config: Path | None = None
    normalization: Path | None = None
    weights: Which = "auto"
    execute: int | None = None


def is_dppo(content: Any) -> bool:
    """Whether the content of a PyTorch file looks like weights of DPPO."""
    return isinstance(content, dict) and isinstance(cast(dict[str, Any], content).get("model"), dict)


def weights_of(file: Path, content: Any, wanted: Which) -> tuple[Weights, str]:
    """The network's weights by DPPO's names, and which they are: "ema" or "model"."""
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
    # a run has checkpoint/state_EPOCH.pt and .hydra/config.yaml
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
    """The least and the greatest numbers of the observation and the action."""
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
