"""Frames of cameras on disk: read where they are drawn, not all at once.

Episodes hold their frames as arrays that may lie in a file (`otpr.data.spool`): the operating system reads
the pages that are asked for, and drops them again when memory is short.
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
"""Bytes of frames that are read at once, where they are more than one."""

BLACK = 5
"""A frame is black whose brightest number is at most this: videos do not keep 0."""


class Rows(Protocol):
    """An array on disk, of which rows are read in order."""

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
    """What image an array of that shape and type in a file is.

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
    """The frames of a data set inside a group of an HDF5 file: (steps, height, width, channels), mapped.

    Frames that lie in the file in one piece are mapped as they lie there. Others, among them Minari's JPEGs,
    are unpacked.

    Args:
        group: the group.
        name: of the data set; KeyError where there is none.
        image: what each frame should be.
        where: names it in errors.
        spool: has room for frames that are unpacked.
        last: another data set, whose last frame comes after those of this one.

    Raises:
        OtprError: its numbers are no bytes, or have other shapes.
    """
    entry = dataset(group, name)
    of_one_length = entry.dtype == np.uint8 and entry.ndim == 2
    if (h5py.check_vlen_dtype(entry.dtype) == np.uint8 and entry.ndim == 1) or of_one_length:
        files = (entry[index] for index in range(len(entry)))
        frames = (decoded(file.tobytes(), image, where)[None] for file in files)
        return image.upright(spool.keep(frames, (len(entry), *image.shape), where))
    _check(entry, image, where)
    # one that was never written has no place in the file
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
    """Some rows of an array on disk, as many at once as fit into a few megabytes.

    Args:
        rows: the array.
        start: the first row.
        stop: the one after the last.
        multiple: rows that are compressed together: they are unpacked once if they are read at once.
    """
    size = max(1, math.prod(rows.shape[1:]) * rows.dtype.itemsize)
    if multiple * size > 4 * _AT_ONCE:
        multiple = 1
    count = max(1, _AT_ONCE // size // multiple) * multiple
    for first in range(start, stop, count):
        yield np.asarray(rows[first : min(first + count, stop)])


def decoded(file: bytes, image: Image, where: str) -> NDArray[np.uint8]:
    """A JPEG or a PNG.

    Raises:
        OtprError: it is neither, or of another size.
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
    """The episode, its images in a file and not in memory.

    Raises:
        OtprError: there is no room for them.
    """
    images = {name: array for name, array in episode.observations.items() if array.ndim == 4}
    where = f"The episode of seed {episode.seed}"
    kept = {name: spool.keep([array], array.shape, where) for name, array in images.items()}
    return dataclasses.replace(episode, observations={**episode.observations, **kept})


def check_seen(images: Iterable[tuple[str, NDArray[np.uint8]]], where: str) -> None:
    """Refuse an episode with a camera that saw nothing: every frame of it is black.

    Args:
        images: frames by entry name.
        where: names the episode in errors.
    """
    for name, frames in images:
        # mostly, the first one has light
        if len(frames) and all(int(block.max()) <= BLACK for block in in_blocks(frames, 0, len(frames))):
            raise OtprError(
                f"{where}: every frame of {name} is black; leave out that episode, or the camera by --keys."
            )


class DecisionObservations:
    """What decisions at the steps of some episodes see, gathered on the host when it is asked for.

    Rows are numbered as in an `EpisodeStore` that holds these episodes and no others.

    Args:
        episodes: in the order of the store.
        spec: how many observations a decision sees.
    """

    def __init__(self, episodes: Iterable[Episode], spec: Spec):
        self._spec = spec
        self._episodes: list[Episode] = []
        self._ends: list[int] = []  # the row after each episode's last
        for episode in episodes:
            self.add(episode)

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes, in order."""
        return self._episodes

    def add(self, episode: Episode) -> None:
        """Take in an episode that was added to the store."""
        self._episodes.append(episode)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(episode) + 1)

    def of(self, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """The observations of n decisions: each entry (n, history, *shape); before the first that repeats."""
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
