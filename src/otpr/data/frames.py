"""Camera frames on disk, read on access.

Episodes hold their frames as arrays that may be memory-mapped (`otpr.data.spool`): the operating system loads
pages on access and drops them when memory is short.
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import h5py
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.reading import check_size, dataset
from otpr.data.spool import Spool, mapped
from otpr.envs.image_spaces import Image, image_of
from otpr.errors import OtprError
from otpr.spec import Spec, zeros

_AT_ONCE = 2**24
"""Size of a block of frames that is read at once, in bytes; a block has at least one frame."""

BLACK = 5
"""A frame counts as black up to this brightest value, because videos do not preserve 0."""


class Rows(Protocol):
    """An array on disk whose rows are read in order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy's."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Those rows."""
        ...


def image_in_file(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Image:
    """The kind of image of an array in a file.

    Args:
        shape: of one image.
        dtype: its type.
        where: names it in errors.

    Raises:
        OtprError: it is not of bytes, nothing tells which axis is the channels, or it is too large.
    """
    if dtype != np.uint8:
        raise OtprError(
            f"{where}: holds images of {dtype}, expected uint8, from 0 to 255: write them so, e.g. numbers "
            "from 0 to 1 as (255 * image).round().astype('uint8'); or leave them out with --keys."
        )
    check_size(shape, dtype, f"{where} (a frame)")
    return image_of(shape, dtype, where)


def stored_frames(
    group: h5py.Group, name: str, image: Image, where: str, spool: Spool, last: str | None = None
) -> NDArray[np.uint8]:
    """The frames of a data set in a group of an HDF5 file: (steps, height, width, channels), mapped.

    Contiguous frames are mapped from the file itself. Others, such as Minari's JPEGs, are unpacked.

    Args:
        group: the group.
        name: the name of the data set; KeyError if it is missing.
        image: the expected form of each frame.
        where: names it in errors.
        spool: takes frames that are unpacked.
        last: another data set, whose last frame is appended.

    Raises:
        OtprError: the data set does not hold bytes, or has another shape.
    """
    entry = dataset(group, name)
    of_one_length = entry.dtype == np.uint8 and entry.ndim == 2
    if (h5py.check_vlen_dtype(entry.dtype) == np.uint8 and entry.ndim == 1) or of_one_length:
        files = (entry[index] for index in range(len(entry)))
        frames = (decoded(file.tobytes(), image, where)[None] for file in files)
        return image.upright(spool.keep(frames, (len(entry), *image.shape), where))
    _check(entry, image, where)
    # a data set that was never written has no offset
    written = entry.id.get_storage_size() == entry.nbytes > 0
    if last is None and written and (offset := entry.id.get_offset()) is not None:
        return image.upright(mapped(entry.file.filename, entry.shape, offset))
    chunk = entry.chunks or (1,)
    after: list[NDArray[np.uint8]] = []
    if last is not None and len(entry):
        others = dataset(group, last)
        _check(others, image, f"{where}, after the last step ({last})")
        after = [others[len(others) - 1 :]]
    blocks = itertools.chain(in_blocks(entry, 0, len(entry), chunk[0]), after)
    return image.upright(spool.keep(blocks, (len(entry) + len(after), *image.shape), where))


def _check(entry: h5py.Dataset, image: Image, where: str) -> None:
    if entry.dtype != np.uint8 or entry.shape[1:] != image.shape:
        raise OtprError(
            f"{where}: is {entry.dtype} of shape {entry.shape}, expected uint8 of (steps, "
            f"{', '.join(map(str, image.shape))}); mend or leave out that episode."
        )
    check_size(image.shape, entry.dtype, f"{where} (a frame)")
    if entry.chunks is not None:
        check_size(entry.chunks, entry.dtype, f"{where} (a chunk)")


def in_blocks(rows: Rows, start: int, stop: int, multiple: int = 1) -> Iterator[NDArray[Any]]:
    """Some rows of an array on disk, in blocks of a few megabytes.

    Args:
        rows: the array.
        start: the first row.
        stop: the one after the last.
        multiple: number of rows that are compressed together; blocks are multiples of it, so that each is
            unpacked once.
    """
    size = max(1, math.prod(rows.shape[1:]) * rows.dtype.itemsize)
    if multiple * size > 4 * _AT_ONCE:
        multiple = 1
    count = max(1, _AT_ONCE // size // multiple) * multiple
    for first in range(start, stop, count):
        yield np.asarray(rows[first : min(first + count, stop)])


def decoded(file: bytes, image: Image, where: str) -> NDArray[np.uint8]:
    """Decode a JPEG or a PNG.

    Raises:
        OtprError: the file is neither, or has another size.
    """
    try:
        with (
            warnings.catch_warnings(action="error", category=PIL.Image.DecompressionBombWarning),
            PIL.Image.open(io.BytesIO(file), formats=("JPEG", "PNG")) as picture,
        ):
            given, wanted = (picture.height, picture.width), image.entry.shape[:2]
            if given != wanted:  # before it is unpacked
                raise OtprError(
                    f"{where}: holds an image of {given[0]} x {given[1]} pixels (height x width), expected "
                    f"{wanted[0]} x {wanted[1]}; mend or leave out that episode."
                )
            frame = np.array(picture.convert("RGB") if picture.mode == "P" else picture)
    except (OSError, ValueError, SyntaxError, Warning, PIL.Image.DecompressionBombError) as error:
        raise OtprError(f"{where}: holds an image that cannot be read ({error}).") from error
    if (*frame.shape, 1) == image.shape:
        frame = frame[..., None]
    if frame.dtype != np.uint8 or frame.shape != image.shape:
        raise OtprError(
            f"{where}: holds an image of {frame.dtype} {frame.shape}, expected uint8 {image.shape}; mend or "
            "leave out that episode."
        )
    return frame


def spooled(episode: Episode, spool: Spool) -> Episode:
    """The episode with its images in a file instead of memory.

    Raises:
        OtprError: there is no space for them.
    """
    images = {name: array for name, array in episode.observations.items() if array.ndim == 4}
    where = f"The episode of seed {episode.seed}"
    kept = {name: spool.keep([array], array.shape, where) for name, array in images.items()}
    return dataclasses.replace(episode, observations={**episode.observations, **kept})


def check_seen(images: Iterable[tuple[str, NDArray[np.uint8]]], where: str) -> None:
    """Refuse an episode if all frames of a camera are black.

    Args:
        images: frames by entry name.
        where: the episode's name in errors.
    """
    for name, frames in images:
        # usually the first frame is not black
        if len(frames) and all(int(block.max()) <= BLACK for block in in_blocks(frames, 0, len(frames))):
            raise OtprError(
                f"{where}: every frame of {name} is black; leave out that episode, or the camera by --keys."
            )


class DecisionObservations:
    """The observations of decisions at steps of episodes, gathered on the host on request.

    Rows are numbered as in an `EpisodeStore` that holds these episodes and no others.

    Args:
        episodes: in the order of the store.
        spec: gives the number of observations of a decision.
    """

    def __init__(self, episodes: Iterable[Episode], spec: Spec):
        self._spec = spec
        self._episodes: list[Episode] = []
        self._ends: list[int] = []  # the row after the last row of each episode
        for episode in episodes:
            self.add(episode)

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes, in order."""
        return self._episodes

    def add(self, episode: Episode) -> None:
        """Add an episode that was added to the store."""
        self._episodes.append(episode)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(episode) + 1)

    def of(self, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """Observations of n decisions, each entry (n, history, *shape), with an episode's first repeated."""
        before = np.arange(self._spec.history - 1, -1, -1)
        seen = zeros(self._spec.observation, len(rows), self._spec.history)
        for i, row in enumerate(rows.tolist()):
            number = bisect.bisect_right(self._ends, row)
            episode = self._episodes[number]
            steps = np.maximum(row - (self._ends[number] - len(episode) - 1) - before, 0)
            frames = episode.frames(steps)
            for name, entry in self._spec.observation.items():
                np.take(
                    episode.observations[name], frames if entry.kind == "image" else steps, 0, seen[name][i]
                )
        return seen
