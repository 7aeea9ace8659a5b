"""Reading files that may be damaged, hostile, locked or too large; errors name the file and the mend."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import zipfile
import zlib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]: compiled, and there
from numpy.typing import NDArray

from otpr.errors import OtprError

# What h5py, zipfile and NumPy raise on a file that is not whole.
CORRUPT = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AssertionError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,  # what it claims to hold is more than there is room for
)


READ_LIMIT = 256 * 2**20
"""Bytes of the largest array that is read at once: a million steps of 64 numbers. A file of a few bytes can
claim, or be unpacked to, any size; whoever reads it all must not run out of memory."""


# Names shown where one is missing: a file may hold thousands.
_SHOWN = 30


@contextlib.contextmanager
def reading(path: Path, mend: str = "copy or download it again") -> Generator[None]:
    """Turn what the libraries raise on a file into an error that names the file and the mend.

    Raises:
        OtprError: this user may not read the file, another process has it open for writing, it was not closed
            by the program that wrote it, or it is not whole.
    """
    try:
        yield
    except CORRUPT as error:
        if isinstance(error, PermissionError):
            raise OtprError(
                f"{path} may not be read by this user ({reason(error)}). Ask its owner for the right to read "
                "it and to enter the folders above it, or for a copy."
            ) from error
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            raise OtprError(
                f"{path} is locked: another process is writing it ({reason(error)}). Wait until that has "
                "closed it, then start again. Where no process has it open, its file system has no locks: "
                "set HDF5_USE_FILE_LOCKING=FALSE."
            ) from error
        if "already open for write" in str(error):
            raise OtprError(
                f"{path} was not closed by the program that wrote it, and its end may be missing "
                f"({reason(error)}). If no process writes it, `h5clear --status` of HDF5's tools opens it."
            ) from error
        raise OtprError(f"{path}: truncated or corrupt ({reason(error)}); {mend}.") from error


def check_readable(path: Path) -> None:
    """Refuse a file or folder that is there and that this user may not open; libraries take it for another.

    Raises:
        OtprError: it may not be read.
    """
    with reading(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            os.listdir(path)
            os.stat(f"{path}/.")  # which needs the right to enter it
        else:
            open(path, "rb").close()


def reason(error: BaseException) -> str:
    """The error's kind and words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; whoever calls closes it.

    Raises:
        OtprError: it is no HDF5 file, not whole, or has links to other files.
    """
    check_readable(path)
    with reading(path):
        if path.stat().st_size == 0:
            raise OtprError(f"{path} is empty; copy or download it again.")
        if not h5py.is_hdf5(path):
            raise OtprError(f"{path} is not an HDF5 file, whatever its name; give the data file itself.")
        file = h5py.File(path, "r")
        try:
            check_links(path, file)
        except BaseException:
            file.close()
            raise
        return file


def check_links(path: Path, file: h5py.File) -> None:
    """Refuse a file with links out of it, before one is followed: HDF5 opens whatever file they name."""

    def visit(name: bytes, info: Any) -> bytes | None:
        return None if info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT) else name

    # anything but None ends the visit; an error may not pass through HDF5
    if (name := file.id.links.visit(visit, info=True)) is not None:
        raise OtprError(
            f"{path}: {name.decode(errors='replace')} is a link out of the file, and is not followed; "
            "copy the data into the file."
        )


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """A group inside a group; KeyError where there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Group):
        raise KeyError(f"no group {name!r}")
    return entry


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set inside a group; KeyError where there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Dataset):
        raise KeyError(f"no data set {name!r}")
    check_own(entry)
    return entry


def stored(group: h5py.Group, name: str) -> NDArray[Any]:
    """All the numbers of a data set inside a group; KeyError where there is none of that name."""
    entry = dataset(group, name)
    where = f"{group.file.filename}: {entry.name}"
    check_numbers(entry.dtype, where)
    check_size(entry.shape, entry.dtype, where)
    return np.asarray(entry[()])


def check_own(entry: h5py.Dataset) -> None:
    """Refuse a data set whose numbers lie in other files, or in pieces too large to unpack.

    To be called before anything else is asked of it: HDF5 may open the other files to tell the shape.
    """
    where = f"{entry.file.filename}: {entry.name}"
    layout = entry.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise OtprError(
            f"{where}: its numbers lie in other files, which are not read; copy them into the file."
        )
    if layout.get_layout() == h5py.h5d.CHUNKED and entry.ndim <= 2:  # pictures are not read
        check_size(layout.get_chunk(), entry.dtype, f"{where} (a chunk)")
    _check_filters(layout, where)


def _check_filters(layout: Any, where: str) -> None:
    """Refuse numbers that were compressed in a way that HDF5 knows by no plugin here."""
    for index in range(layout.get_nfilters()):
        number, _, _, name = layout.get_filter(index)
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # which registers the filters it brings
        if not h5py.h5z.filter_avail(number):
            called = name.decode(errors="replace") or "without a name"
            raise OtprError(
                f"{where}: is compressed with HDF5's filter {number} ({called}), which is not installed. "
                "`pip install hdf5plugin` brings the usual ones, and otpr finds it; or write "
                "the file again with compression='gzip'."
            )


def check_size(shape: tuple[int, ...] | None, dtype: np.dtype[Any], where: str) -> None:
    """Refuse an array of more than `READ_LIMIT` bytes, before memory is taken for it."""
    size = math.prod(shape or ()) * dtype.itemsize
    if size > READ_LIMIT:
        raise OtprError(
            f"{where}: claims shape {shape} of {dtype}, {size:,} bytes, where at most {READ_LIMIT:,} are "
            "read at once; cut it into shorter episodes or files."
        )


def check_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot become float32."""
    if dtype.kind not in "fiub":
        kind = "Python objects (a pickle)" if dtype.hasobject else f"dtype {dtype}"
        raise OtprError(f"{where}: holds {kind}, expected real numbers; write it as float32.")


def missing(where: str, kind: str, name: str, known: Iterable[str]) -> OtprError:
    """An error for a field that is not in a file: it says what is."""
    names = sorted(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return OtprError(
        f"{where}: has no {kind} {name!r}; it has: {', '.join(names[:_SHOWN]) or 'nothing'}{more}."
    )
