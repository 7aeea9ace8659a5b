"""Policies' eyes: cameras by name, rendered fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError


@dataclass(frozen=True)
class Camera:
    """A camera by the simulator's own name, and the size of its frames."""

    name: str
    height: int = 64
    width: int = 64

    @classmethod
    def parse(cls, text: str) -> Camera:
        """ "corner2" or "corner2:64x64"."""
        match = re.fullmatch(r"([^:]+)(?::(\d+)x(\d+))?", text)
        if match is None:
            raise OtprError(f"bad camera {text!r}")
        if match[2] is None:
            return cls(match[1])
        return cls(match[1], int(match[2]), int(match[3]))

    def __str__(self) -> str:
        """E.g. "corner2:64x64"."""
        return f"{self.name}:{self.height}x{self.width}"


@dataclass(frozen=True)
class Scene:
    """What a simulator offers to be rendered."""

    model: Any
    data: Any
    hidden_groups: tuple[int, ...] = ()
    upside_down: frozenset[str] = frozenset()
    prepare: Callable[[], None] | None = None


def camera_names(scene: Scene) -> tuple[str, ...]:
    """Of the model."""
    raise NotImplementedError


class Eyes:
    """Renders cameras of one simulator."""

    def __init__(self, scene: Callable[[], Scene], cameras: Sequence[Camera]):
        raise NotImplementedError

    def look(self) -> dict[str, NDArray[np.uint8]]:
        """Frames by camera name."""
        raise NotImplementedError

    def close(self) -> None:
        """Free it."""
