"""Detection of the library that a policy comes from, and import by its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from otpr.errors import OtprError
from otpr.policies.convert.diffusion_policy import import_diffusion_policy
from otpr.policies.convert.diffusion_policy_files import ADVICE, is_converted
from otpr.policies.convert.dppo import import_dppo
from otpr.policies.convert.dppo_files import Files, is_dppo
from otpr.policies.convert.imported import Bounds, Imported
from otpr.policies.convert.lerobot import import_lerobot
from otpr.policies.convert.lerobot_files import is_lerobot_policy
from otpr.policies.convert.torch_file import RefusedPickle, is_torch_file, read_torch

Format = Literal["lerobot", "diffusion-policy", "dppo"]


def import_policy(
    path: Path,
    format: Format | None = None,
    bounds: Bounds | None = None,
    control_rate: float | None = None,
    files: Files | None = None,
) -> Imported:
    """Import a policy of another library.

    Args:
        path: a LeRobot folder, a converted checkpoint of diffusion_policy, or DPPO's weights.
        format: the format; None: detected from the files.
        bounds: as in `otpr.policies.convert.lerobot.import_lerobot`.
        control_rate: as in `import_lerobot`.
        files: for DPPO, the paths of the other files.

    Raises:
        OtprError: the policy has none of these formats or not the given one, `files` is given for another
            format than DPPO's, or as in the function that reads the format.
    """
    if format == "lerobot" or (format is None and path.is_dir()):
        _check_files(path, "lerobot", files)
        if not is_lerobot_policy(path):
            raise OtprError(
                f"{path}: holds no config.json, as a policy of LeRobot does. {_KNOWN}"
                if path.is_dir()
                else f"{path} is no folder, as a policy of LeRobot is. {_KNOWN}"
            )
        return import_lerobot(path, bounds, control_rate)
    if format is None and not is_torch_file(path):
        raise OtprError(f"{path} is no policy that is known here. {_KNOWN}")
    try:
        content = read_torch(path)
    except RefusedPickle as error:
        if format == "dppo":
            raise
        raise OtprError(f"{error} {ADVICE}") from error
    if format == "dppo" or (format is None and is_dppo(content)):
        return import_dppo(path, content, files or Files(), bounds, control_rate)
    if format is None and not is_converted(content):
        raise OtprError(f"{path} is a file of PyTorch, and no policy that is known here. {_KNOWN}")
    _check_files(path, "diffusion-policy", files)
    return import_diffusion_policy(path, content, bounds, control_rate)


_KNOWN = (
    "Known are folders of LeRobot with config.json, checkpoints of diffusion_policy that were converted, and "
    "DPPO's state_EPOCH.pt; docs/other-policies.md says how each comes in."
)


def _check_files(path: Path, format: Format, files: Files | None) -> None:
    if files not in (None, Files()):
        raise OtprError(
            f"{path} is of the format {format}; --config, --normalization, --weights and --execute are for "
            "DPPO's policies."
        )
