"""The configuration of a run of DPPO: hydra's YAML, of which the values alone are read.

`${name}` and `${group.name}` stand for other entries, and `${eval:'23 * 2'}` for a product. In DPPO any
Python may stand there; here only products of whole numbers are computed, and nothing is run. What stands for
the environment of the shell or for the time is left as it is, and refused where it is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from otpr.errors import OtprError
from otpr.policies.convert.settings import NEEDED, Settings
from otpr.storage import DamagedFile, check_regular

LIMIT = 2**20
"""Bytes of the largest configuration that is read; DPPO's have about 2,000."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_PRODUCT = re.compile(r"\$\{eval:\s*'?\s*(\d+(?:\s*\*\s*\d+)*)\s*'?\s*\}")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
"""What YAML 1.1 takes for a text and hydra for a number: 1e-4."""

_DEEPEST = 8
"""References to references that are followed."""


def read_config(file: Path) -> Settings:
    """The entries of a configuration, references followed.

    Raises:
        OtprError: PyYAML is not installed, or an entry refers to one that is not there.
        DamagedFile: the file is missing, too large, or no YAML of an object.
    """
    if importlib.util.find_spec("yaml") is None:
        raise OtprError("DPPO's configurations are YAML, which needs an extra: pip install 'otpr[dppo]'")
    yaml = importlib.import_module("yaml")
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > LIMIT:
                raise ValueError(f"it has more than {LIMIT:,} bytes")
            # of plain values only, whatever tags it has
            whole = yaml.safe_load(stream.read(LIMIT).decode())
        if not isinstance(whole, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DamagedFile(file, error) from error
    return Resolved(f"{file}: ", whole, cast(dict[str, Any], whole))


class Resolved(Settings):
    """Settings whose references are followed when they are asked for."""

    def __init__(self, place: str, given: Any, root: Mapping[str, Any]):
        super().__init__(place, given)
        self.root = root

    def get(self, name: str, default: Any = NEEDED) -> Any:
        """See `Settings.get`."""
        return self._resolved(name, super().get(name, default), 0)

    def part(self, name: str) -> Resolved:
        """See `Settings.part`."""
        return Resolved(f"{self.place}{name}.", self.get(name), self.root)

    def _resolved(self, name: str, value: Any, depth: int) -> Any:
        if not isinstance(value, str):
            return value
        if depth > _DEEPEST:
            raise OtprError(f"{self.place}{name} refers to itself, or through too many others.")
        if whole := _REFERENCE.fullmatch(value):
            return self._resolved(name, self._looked_up(name, whole[1]), depth + 1)
        text = _REFERENCE.sub(
            lambda found: str(self._resolved(name, self._looked_up(name, found[1]), depth + 1)), value
        )
        if product := _PRODUCT.fullmatch(text):
            return math.prod(map(int, product[1].split("*")))
        return float(text) if _NUMBER.fullmatch(text) else text

    def _looked_up(self, name: str, path: str) -> Any:
        value: Any = self.root
        for step in path.split("."):
            if not isinstance(value, dict) or step not in value:
                raise OtprError(f"{self.place}{name} refers to {path!r}, which is not there.")
            value = cast(dict[str, Any], value)[step]
        return value
