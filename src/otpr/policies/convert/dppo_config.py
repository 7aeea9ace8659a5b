"""The configuration of a run of DPPO: Hydra's YAML, of which only values are read.

`${name}` and `${group.name}` refer to other entries, and `${eval:'23 * 2'}` is a product. DPPO allows any
Python expression there; this module only computes products of whole numbers and runs no code. References to
environment variables or the time are kept as text, and refused if a value is needed.
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
"""The largest configuration that is read, in bytes; DPPO's have about 2,000."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_PRODUCT = re.compile(r"\$\{eval:\s*'?\s*(\d+(?:\s*\*\s*\d+)*)\s*'?\s*\}")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
"""Numbers such as 1e-4, which are strings in YAML 1.1 and numbers in Hydra."""

_DEEPEST = 8
"""The largest depth of nested references."""


def read_config(file: Path) -> Settings:
    """The entries of a configuration; their references are resolved on access.

    Raises:
        OtprError: PyYAML is not installed, or an entry refers to a missing one.
        DamagedFile: the file is missing, too large, or not a YAML mapping.
    """
    if importlib.util.find_spec("yaml") is None:
        raise OtprError("DPPO's configurations are YAML, which needs an extra: pip install 'otpr[dppo]'")
    yaml = importlib.import_module("yaml")
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > LIMIT:
                raise ValueError(f"it has more than {LIMIT:,} bytes")
            # plain values only, whatever tags the file has
            whole = yaml.safe_load(stream.read(LIMIT).decode())
        if not isinstance(whole, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DamagedFile(file, error) from error
    return Resolved(f"{file}: ", whole, cast(dict[str, Any], whole))


class Resolved(Settings):
    """Settings whose references are resolved on access."""

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
