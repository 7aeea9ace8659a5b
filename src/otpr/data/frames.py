"""Frames of cameras on disk: read where they are drawn, not all at once.

Episodes hold their frames as arrays that may lie in a file (`np.memmap`): the operating system reads the
pages that are asked for, and drops them again when memory is short.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.reading import dataset
from otpr.envs.image_spaces import Image
from otpr.errors import OtprError

_AT_ONCE = 64
"""Frames that are decoded at once."""


def stored_frames(group: h5py.Group, name: str, image: Image, where: str) -> NDArray[np.uint8]:
    """The frames of a data set inside a group of an HDF5 file: (steps, height, width, channels), mapped.

    Frames that lie in the file in one piece are mapped as they lie there; else they are unpacked into a
    temporary file, which goes when the array goes.

    Args:
        group: the group.
        name: of the data set; KeyError where there is none.
        image: what each frame should be.
        where: names it in errors.

    Raises:
        OtprError: its numbers are no bytes, or have other shapes.
    """
    entry = dataset(group, name)
    if entry.dtype != np.uint8 or entry.shape[1:] != image.shape:
        raise OtprError(
            f"{where}: is {entry.dtype} of shape {entry.shape}, expected uint8 of (steps, "
            f"{', '.join(map(str, image.shape))})."
        )
    offset = entry.id.get_offset()
    if offset is not None:
        file = entry.file.filename
        frames = np.memmap(file, np.uint8, mode="r", offset=offset, shape=entry.shape)
    else:
        blocks = (entry[start : start + _AT_ONCE] for start in range(0, len(entry), _AT_ONCE))
        frames = spooled(blocks, entry.shape)
    return image.upright(frames)


def spooled(blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Frames that come in blocks, in a temporary file, mapped; it goes when the array goes.

    Args:
        blocks: of frames, (n, *frame).
        shape: (frames, *frame) of all of them together.
    """
    if not shape[0]:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="otpr-frames-") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.uint8).tobytes())
        file.flush()
        return np.memmap(file, np.uint8, mode="r", shape=shape)  # the map outlives the file's name
