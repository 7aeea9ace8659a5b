"""Untrusted NumPy archives (.npz), read row by row or whole, with no pickles and bounded memory."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.storage import DamagedFile, check_regular

_MOST_ARRAYS = 1000
"""The most arrays that an archive may have: each open member takes memory for its decompressor."""


class NpyRows:
    """An array inside an archive, decompressed on demand, so that only the rows that are read take memory.

    Reading forwards is cheap. Reading an earlier row starts again from the first.

    Attributes:
        shape: as NumPy's.
        dtype: as NumPy's.

    Raises:
        ValueError: the array has another version of NumPy's format, or its header and the archive disagree on
            the number of bytes.
        OtprError: the array is stored in Fortran (column-major) order.
    """

    def __init__(self, file: IO[bytes], name: str, size: int):
        self._file = file
        # Version 2 allows headers beyond 64 KiB, up to 4 GB. No array of numbers needs one.
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"{name} has version {version} of NumPy's format, expected (1, 0)")
        self.shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(file)
        if fortran and len(self.shape) > 1:
            raise OtprError(f"{name}: is stored column by column; write it with numpy.ascontiguousarray.")
        self._start = file.tell()
        if self.dtype.hasobject:
            return  # pickled; refused when it is read
        claimed = math.prod(self.shape) * self.dtype.itemsize
        if any(n < 0 for n in self.shape) or claimed != size - self._start:
            raise ValueError(f"{name} claims shape {self.shape} of {self.dtype} and has {size} bytes")

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        self._file.seek(self._start + start * row)
        data = self._file.read((stop - start) * row)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def whole(self) -> NDArray[Any]:
        """The whole array, verified against the archive's checksum.

        Raises:
            ValueError: the array holds something other than numbers and booleans, or ends early.
            zipfile.BadZipFile: the checksum differs.
        """
        if self.dtype.kind not in "?biufc":
            raise ValueError(f"it holds {self.dtype}, no plain array of numbers; pickles are not loaded")
        self._file.seek(self._start)
        data = self._file.read(math.prod(self.shape) * self.dtype.itemsize)
        self._file.read(1)  # past the end: there the zip reader compares the checksum
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def open_npz(archive: zipfile.ZipFile, path: Path, stack: contextlib.ExitStack) -> dict[str, NpyRows]:
    """The arrays of an open archive by name. No name is used as a path.

    Args:
        archive: the archive.
        path: its file, which errors name.
        stack: closes the arrays when it exits.

    Raises:
        ValueError, EOFError, zipfile.BadZipFile: the archive is not one that NumPy writes.
        OtprError: an array is stored in Fortran (column-major) order.
    """
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    if len(members) > _MOST_ARRAYS:
        raise ValueError(f"{len(members)} arrays are more than the {_MOST_ARRAYS} it may have")
    arrays: dict[str, NpyRows] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise ValueError(f"two of its arrays have the name {name!r}")
        # Python decompresses only these two incrementally, and NumPy writes no others.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is compressed in a way that NumPy does not write")
        stream = stack.enter_context(archive.open(member))
        arrays[name] = NpyRows(stream, f"{path}: {member.filename}", member.file_size)
    return arrays


def read_npz(file: Path, unpacked: int = 0) -> dict[str, NDArray[Any]]:
    """The arrays that `numpy.savez` wrote, by name. Only numbers and booleans are read.

    Memory use is bounded by the file's size, or by `unpacked`, whatever the headers say.

    Args:
        file: the archive.
        unpacked: bytes that a file of `numpy.savez_compressed` may decompress to; 0: compressed files are
            refused.

    Raises:
        DamagedFile: the file is missing, or anything in it differs from what NumPy writes.
    """
    check_regular(file)
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open(file, "rb"))
            archive = stack.enter_context(zipfile.ZipFile(stream))
            size = os.fstat(stream.fileno()).st_size
            if sum(member.file_size for member in archive.infolist()) > max(size, unpacked):
                raise ValueError("it claims to hold more than its own size")
            packed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
            if packed and not unpacked:
                raise ValueError(f"{packed[0]!r} is compressed")
            return {name: array.whole() for name, array in open_npz(archive, file, stack).items()}
    # everything that the zip reader and NumPy's header reader raise on damaged bytes
    except (
        OSError,
        EOFError,
        TypeError,
        ValueError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DamagedFile(file, error) from error
    except OtprError as error:
        raise DamagedFile(file, str(error)) from error
