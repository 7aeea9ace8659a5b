"""Reading files that may be damaged, malicious, locked or too large; errors name the file and a remedy."""

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

# The exceptions of h5py, zipfile and NumPy for incomplete files.
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
    MemoryError,  # it claims to hold more than fits into memory
)


READ_LIMIT = 256 * 2**20
"""The largest array that is read at once, in bytes: a million steps of 64 numbers. A small file can declare,
or be unpacked to, any size, which must not exhaust memory."""


# Number of names shown in an error for a missing one, because a file may hold thousands.
_SHOWN = 30


@contextlib.contextmanager
def reading(path: Path, mend: str = "copy or download it again") -> Generator[None]:
    """Turn exceptions of libraries into an error that names the file and a remedy.

    Raises:
        OtprError: the user may not read the file, another process has it open for writing, its writer did not
            close it, or it is incomplete.
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
    """Check that the user may open an existing file or folder; libraries report this as other errors.

    Raises:
        OtprError: the user may not read it.
    """
    with reading(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            os.listdir(path)
            os.stat(f"{path}/.")  # requires permission to enter the folder
        else:
            open(path, "rb").close()


def reason(error: BaseException) -> str:
    """The error's type and message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. The caller closes it.

    Raises:
        OtprError: the file is not an HDF5 file, is incomplete, or has links to other files.
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
    """Refuse a file with external links before any is followed, because HDF5 opens the files they name."""

    def visit(name: bytes, info: Any) -> bytes | None:
        return None if info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT) else name

    # a value other than None ends the visit; exceptions must not pass through HDF5
    if (name := file.id.links.visit(visit, info=True)) is not None:
        raise OtprError(
            f"{path}: {name.decode(errors='replace')} is a link out of the file, and is not followed; "
            "copy the data into the file."
        )


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """A group inside a group; KeyError if there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Group):
        raise KeyError(f"no group {name!r}")
    return entry


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set inside a group; KeyError if there is none of that name."""
    entry = group.get(name)
    if not isinstance(entry, h5py.Dataset):
        raise KeyError(f"no data set {name!r}")
    check_own(entry)
    return entry


def stored(group: h5py.Group, name: str) -> NDArray[Any]:
    """All numbers of a data set inside a group; KeyError if there is none of that name."""
    entry = dataset(group, name)
    where = f"{group.file.filename}: {entry.name}"
    check_numbers(entry.dtype, where)
    check_size(entry.shape, entry.dtype, where)
    return np.asarray(entry[()])


def check_own(entry: h5py.Dataset) -> None:
    """Refuse a data set whose numbers are in other files, or in chunks too large to unpack.

    Call this before any other access, because HDF5 may open the other files to determine the shape.
    """
    where = f"{entry.file.filename}: {entry.name}"
    layout = entry.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise OtprError(
            f"{where}: its numbers lie in other files, which are not read; copy them into the file."
        )
    if layout.get_layout() == h5py.h5d.CHUNKED and entry.ndim <= 2:  # images are not read here
        check_size(layout.get_chunk(), entry.dtype, f"{where} (a chunk)")
    _check_filters(layout, where)


def _check_filters(layout: Any, where: str) -> None:
    """Refuse numbers whose compression HDF5 does not support with the installed plugins."""
    for index in range(layout.get_nfilters()):
        number, _, _, name = layout.get_filter(index)
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(number):
            called = name.decode(errors="replace") or "without a name"
            raise OtprError(
                f"{where}: is compressed with HDF5's filter {number} ({called}), which is not installed. "
                "`pip install hdf5plugin` brings the usual ones, and otpr finds it; or write "
                "the file again with compression='gzip'."
            )


def check_size(shape: tuple[int, ...] | None, dtype: np.dtype[Any], where: str) -> None:
    """Refuse an array of more than `READ_LIMIT` bytes before memory is allocated for it."""
    size = math.prod(shape or ()) * dtype.itemsize
    if size > READ_LIMIT:
        raise OtprError(
            f"{where}: claims shape {shape} of {dtype}, {size:,} bytes, where at most {READ_LIMIT:,} are "
            "read at once; cut it into shorter episodes or files."
        )


def check_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Refuse types that cannot become float32."""
    if dtype.kind not in "fiub":
        kind = "Python objects (a pickle)" if dtype.hasobject else f"dtype {dtype}"
        raise OtprError(f"{where}: holds {kind}, expected real numbers; write it as float32.")


def missing(where: str, kind: str, name: str, known: Iterable[str]) -> OtprError:
    """An error for a field that is missing in a file; it lists the existing ones."""
    names = sorted(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return OtprError(
        f"{where}: has no {kind} {name!r}; it has: {', '.join(names[:_SHOWN]) or 'nothing'}{more}."
    )
