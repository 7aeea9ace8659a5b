"""Frames in files, mapped into memory: the operating system reads the pages that are asked for.

An open map takes one of a process's file descriptors, of which there are often 1,024. So a file is mapped
once, however many episodes lie in it, and what is unpacked shares a few temporary files.
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
"""Bytes of a temporary file, unless the frames of one episode need more."""

_maps: weakref.WeakValueDictionary[tuple[int, ...], mmap.mmap] = weakref.WeakValueDictionary()


def mapped(path: str | os.PathLike[str], shape: tuple[int, ...], offset: int) -> NDArray[np.uint8]:
    """Bytes that lie in a file in one piece, read-only; the file should not change while the array is used.

    Args:
        path: the file.
        shape: of the array.
        offset: of its first byte in the file.

    Raises:
        OSError: the file cannot be read.
        TypeError: it is too short.
    """
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        whole = _maps.get(key)
        if whole is None:
            whole = _maps[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, np.uint8, buffer=whole, offset=offset)


class Spool:
    """Room for frames that are unpacked, in temporary files without names.

    They lie in the folder that the environment variable `TMPDIR` names, else in `/var/tmp`: `/tmp` is often
    kept in memory. A file goes with the last array in it, and at the latest with the process.
    """

    def __init__(self) -> None:
        self._file = -1  # a descriptor
        self._close = weakref.finalize(self, int)  # there is nothing to close yet
        self._map: mmap.mmap | None = None
        self._used = 0

    def keep(
        self, blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], where: str
    ) -> NDArray[np.uint8]:
        """Frames that come in blocks, as one mapped array.

        Args:
            blocks: of frames, (n, *frame) uint8.
            shape: (frames, *frame) of all of them together, as the file claims it.
            where: names them in errors.

        Returns:
            The frames that came; fewer than `shape` says where they ended early.

        Raises:
            OtprError: more come, or there is no room for them.
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
        """A map with room for so many bytes, and where it begins."""
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
            os.truncate(self._file, max(size, SEGMENT))  # without contents, it takes no room
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)  # which has a descriptor of its own
        except OSError as error:
            raise _no_room(where, str(error)) from error
        self._used = 0
        return self._map, 0

    def _write(self, data: memoryview, at: int, where: str) -> None:
        # not through the map: where the disk is full, that would end the process
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
