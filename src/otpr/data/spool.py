"""Memory-mapped frames, whose pages the operating system loads on access.

An open map takes one of a process's file descriptors, whose number is often limited to 1,024. A file is
therefore mapped once for all its episodes, and unpacked frames share a few temporary files.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError

SEGMENT = 2**28
"""Size of a temporary file in bytes, unless the frames of one episode need more."""

_maps: weakref.WeakValueDictionary[tuple[int, ...], mmap.mmap] = weakref.WeakValueDictionary()


def mapped(path: str | os.PathLike[str], shape: tuple[int, ...], offset: int) -> NDArray[np.uint8]:
    """Map contiguous bytes of a file read-only. The file must not change while the array is in use.

    Args:
        path: the file.
        shape: shape of the array.
        offset: position of its first byte in the file.

    Raises:
        OSError: the file cannot be read.
        TypeError: the file is too short.
    """
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        whole = _maps.get(key)
        if whole is None:
            whole = _maps[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, np.uint8, buffer=whole, offset=offset)


class Spool:
    """Storage for unpacked frames in unnamed temporary files.

    The files are in the folder named by the environment variable `TMPDIR`, or in `/var/tmp`, because `/tmp`
    is often in memory. A file is released with its last array, or at the end of the process.
    """

    def __init__(self) -> None:
        self._file = -1  # a descriptor
        self._close = weakref.finalize(self, int)  # nothing to close yet
        self._map: mmap.mmap | None = None
        self._used = 0

    def keep(
        self, blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], where: str
    ) -> NDArray[np.uint8]:
        """Store frames that arrive in blocks as one mapped array.

        Args:
            blocks: of frames, (n, *frame) uint8.
            shape: (frames, *frame) of all frames, as declared by the file.
            where: the frames' name in errors.

        Returns:
            The frames; fewer than declared if they ended early.

        Raises:
            OtprError: there are more frames than declared, or no space for them.
        """
        frame, size = math.prod(shape[1:]), math.prod(shape)
        if not size:
            return np.zeros(shape, np.uint8)
        whole, start = self._room(size, where)
        at = start
        for block in blocks:
            assert block.dtype == np.uint8 and block.shape[1:] == shape[1:], "whoever unpacks checks it"
            data = np.ascontiguousarray(block).data.cast("B")
            if at + len(data) > start + size:
                raise OtprError(
                    f"{where}: has more frames than the {shape[0]} that it claims; mend the file."
                )
            self._write(data, at, where)
            at += len(data)
        self._used = at
        return np.ndarray(((at - start) // frame, *shape[1:]), np.uint8, buffer=whole, offset=start)

    def _room(self, size: int, where: str) -> tuple[mmap.mmap, int]:
        """A map with space for `size` bytes, and their offset."""
        if self._map is not None and self._used + size <= len(self._map):
            return self._map, self._used
        folder = _folder()
        free = shutil.disk_usage(folder).free
        if size > free:
            raise _no_room(where, f"they take {size:,} bytes, and {free:,} are free there")
        try:
            self._close()
            self._file, name = tempfile.mkstemp(prefix="otpr-frames-", dir=folder)
            self._close = weakref.finalize(self, os.close, self._file)
            os.unlink(name)
            os.truncate(self._file, max(size, SEGMENT))  # a sparse file takes no space
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)  # has its own descriptor
        except OSError as error:
            raise _no_room(where, str(error)) from error
        self._used = 0
        return self._map, 0

    def _write(self, data: memoryview, at: int, where: str) -> None:
        # not through the map, because a full disk would then kill the process
        try:
            while data:
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count
        except OSError as error:
            raise _no_room(where, str(error)) from error


def _folder() -> Path:
    given = os.environ.get("TMPDIR")
    usual = Path("/var/tmp")
    known = not given and usual.is_dir() and os.access(usual, os.W_OK)
    return usual if known else Path(tempfile.gettempdir())


def _no_room(where: str, why: str) -> OtprError:
    return OtprError(
        f"{where}: no room to unpack its frames in {_folder()} ({why}). Make room, or name another folder "
        "with the environment variable TMPDIR."
    )
