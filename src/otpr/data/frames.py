"""Frames of cameras on disk: read where they are drawn, not all at once.

Episodes hold their frames as arrays that may lie in a file (`np.memmap`): the operating system reads the
pages that are asked for, and drops them again when memory is short.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.reading import dataset
from otpr.envs.image_spaces import Image
from otpr.errors import OtprError
from otpr.spec import Spec, zeros

_AT_ONCE = 64
"""Frames that are decoded at once."""


def stored_frames(group: h5py.Group, name: str, image: Image, where: str) -> NDArray[np.uint8]:
    """The frames of a data set inside a group of an HDF5 file: (steps, height, width, channels), mapped.

    Frames that lie in the file in one piece are mapped as they lie there. Others, among them Minari's JPEGs,
    are unpacked into a temporary file, which goes when the array goes.

    Args:
        group: the group.
        name: of the data set; KeyError where there is none.
        image: what each frame should be.
        where: names it in errors.

    Raises:
        OtprError: its numbers are no bytes, or have other shapes.
    """
    entry = dataset(group, name)
    if h5py.check_vlen_dtype(entry.dtype) == np.uint8 and entry.ndim == 1:
        files = (entry[index] for index in range(len(entry)))
        frames = (decoded(file.tobytes(), image, where)[None] for file in files)
        return image.upright(spooled(frames, (len(entry), *image.shape)))
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


def decoded(file: bytes, image: Image, where: str) -> NDArray[np.uint8]:
    """A JPEG or a PNG.

    Raises:
        OtprError: it is neither, or of another size.
    """
    try:
        with PIL.Image.open(io.BytesIO(file), formats=("JPEG", "PNG")) as picture:
            frame = np.array(picture)
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise OtprError(f"{where}: holds an image that cannot be read ({error}).") from error
    if frame.dtype != np.uint8 or frame.shape != image.shape:
        raise OtprError(f"{where}: holds an image of {frame.dtype} {frame.shape}, expected {image.shape}.")
    return frame


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


class DecisionObservations:
    """What decisions at the steps of some episodes see, gathered on the host when it is asked for.

    Rows are numbered as in an `EpisodeStore` that holds these episodes and no others.

    Args:
        episodes: in the order of the store.
        spec: how many observations a decision sees.
    """

    def __init__(self, episodes: Sequence[Episode], spec: Spec):
        self._episodes, self._spec = episodes, spec
        lengths = [len(episode) + 1 for episode in episodes]
        self._episode = np.repeat(np.arange(len(episodes)), lengths)
        self._step = np.concatenate([np.arange(length) for length in lengths])

    def of(self, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """The observations of n decisions: each entry (n, history, *shape); before the first that repeats."""
        history = self._spec.history
        seen = zeros(self._spec.observation, len(rows), history)
        for i, row in enumerate(rows.tolist()):
            episode = self._episodes[int(self._episode[row])]
            steps = np.maximum(self._step[row] - np.arange(history - 1, -1, -1), 0)
            frames = steps
            if episode.looked is not None:
                frames = np.searchsorted(episode.looked, steps, side="right") - 1
            for name, entry in self._spec.observation.items():
                np.take(
                    episode.observations[name], frames if entry.kind == "image" else steps, 0, seen[name][i]
                )
        return seen
