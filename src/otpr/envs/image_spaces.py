"""Detection of images among the arrays of a space, and of the order of their axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.spec import Entry

IMAGE = "image"
"""Name of the observation entry of an observation that is a single image."""

Layout = Literal["hwc", "chw", "hw"]
"""Order of an image's axes: height, width and channels."""

_CHANNELS = (1, 3, 4)
"""Grey, colour, and colour with opacity."""


@dataclass(frozen=True)
class Image:
    """The form of an image in an environment or a file.

    Attributes:
        shape: the original shape.
        layout: the order of the axes.
    """

    shape: tuple[int, ...]
    layout: Layout

    @property
    def entry(self) -> Entry:
        """The observation entry that it becomes: (height, width, channels)."""
        return Entry(self.upright(np.zeros(self.shape, np.uint8)).shape, "uint8", "image")

    def upright(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert images (*n, *shape) to (*n, height, width, channels), as a view if possible."""
        if self.layout == "hw":
            return array[..., None]
        return np.moveaxis(array, -3, -1) if self.layout == "chw" else array


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is meant for images: bytes with two axes, or any numbers with more."""
    return isinstance(space, Box) and (
        len(space.shape) > 2 or (len(space.shape) == 2 and space.dtype == np.uint8)
    )


def image_of(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Image:
    """The form of an image with the given shape and type.

    Args:
        shape: of one image.
        dtype: its type.
        where: the image's name in errors, e.g. "the part 'front' of an observation".

    Raises:
        OtprError: the array does not hold bytes, has more than three axes, or its channel axis is ambiguous.
    """
    if dtype != np.uint8:
        raise OtprError(
            f"{where} is an image of {dtype}; images must be uint8, from 0 to 255. Wrap the environment with "
            "gymnasium.wrappers.TransformObservation, whose function makes them so: for numbers from 0 to 1 "
            "(255 * image).round().astype('uint8')."
        )
    if len(shape) == 2:
        return Image(shape, "hw")
    if len(shape) != 3:
        raise OtprError(
            f"{where} has shape {shape}, several images at once; give the present one alone, as an array of "
            "height, width and channels. Policies see past ones with --history."
        )
    last, first = shape[-1] in _CHANNELS, shape[0] in _CHANNELS
    if last == first:
        known = "both ends could be" if last else "no end is 1, 3 or 4, so none can be"
        raise OtprError(
            f"{where} has shape {shape}, and {known} the channels. Images are (height, width, channels) or "
            "(channels, height, width) with 1, 3 or 4 channels: give it such a shape in a wrapper, "
            "gymnasium.wrappers.TransformObservation; of stacked frames the last one: policies see past ones "
            "with --history."
        )
    return Image(shape, "hwc" if last else "chw")
