"""What lies on disk: written whole or not at all, checked by SHA-256, and read without running any of it.

A sealed folder holds its files and `SHA256SUMS`, written last, in the format of `sha256sum`: who wants to
check a folder by hand says `sha256sum -c SHA256SUMS` in it. Arrays are NumPy archives (.npz), documents are
JSON. The checksums find damage, not malice; against malice stands that nothing here can run code, and that
nothing is allocated that is larger than the file it comes from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from otpr.errors import OtprError

SEAL = "SHA256SUMS"

JSON_LIMIT = 64 * 2**20
"""Bytes of the largest JSON document that is read; those of otpr have a few thousand."""

_SEAL_LINES = re.compile(rb"(?:[0-9a-f]{64}  \w[\w.-]*\n)+")
"""What SHA256SUMS holds. A name leads nowhere else: it has no slash and does not begin with a dot."""

_HEADER = re.compile(
    rb"\{'descr': '([<>|][?biufc]\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
"""A .npy header as NumPy writes it. NumPy's own reader evaluates it as Python literals; this one need not."""


class DamagedFile(OtprError):  # noqa: N818 - it says what the file is
    """A file is missing, cut, changed, or not what it should be; the message names it and the reason."""

    def __init__(self, file: Path, reason: Exception | str):
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        super().__init__(f"{file} is damaged ({reason[:300]}).")


# -------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[None]:
    """Tell in words what the operating system refused while `path` was written.

    Raises:
        OtprError: the block raised an `OSError`: the disk is full, read-only, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        raise OtprError(
            f"{path} cannot be written ({error.strerror or error}). What was saved before is as it was. Look "
            "whether the disk is full or read-only, and whether the folder is still there; then start again."
        ) from error


@contextlib.contextmanager
def sealed_folder(path: Path, aside: Path | None = None) -> Generator[Path]:
    """A new folder to write files into; when the block ends, it is sealed and takes the place of `path`.

    If the block raises, what was at `path` stays.

    Args:
        path: where the folder goes; its parent exists.
        aside: where what was at `path` is moved in the instant between; by default into the scratch folder.
            A process killed in that instant leaves it there.

    Raises:
        OtprError: it cannot be written.
    """
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        yield new
        _seal(new)
        if path.exists():
            path.rename(aside or Path(scratch) / "old")
        new.rename(path)
        _sync(path.parent)


def _seal(folder: Path) -> None:
    lines: list[str] = []
    for file in sorted(folder.iterdir()):
        _sync(file)
        lines.append(f"{_digest(file)}  {file.name}\n")
    write_text(folder / SEAL, "".join(lines))
    _sync(folder)


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OtprError: it cannot be written; what was there stays.
    """
    part = file.with_name(f".{file.name}.part")
    with writing(file):
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
        _sync(file.parent)


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; errors as in `write_text`."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------- reading


def check_seal(folder: Path) -> set[str]:
    """Compare the files of a sealed folder with their checksums; the names of the files.

    Raises:
        DamagedFile: names the first file that is not as it was written.
    """
    seal = _read(folder / SEAL, 2**16)
    if not _SEAL_LINES.fullmatch(seal):
        raise DamagedFile(folder / SEAL, "it is no list of SHA-256 sums and names")
    sums = {line[66:]: line[:64] for line in seal.decode().splitlines()}
    for name, digest in sums.items():
        _check_regular(folder / name)
        try:
            found = _digest(folder / name)
        except OSError as error:
            raise DamagedFile(folder / name, error) from error
        if found != digest:
            raise DamagedFile(folder / name, f"its SHA-256 is not the one in {SEAL}")
    return set(sums)


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DamagedFile: it is missing, larger than `JSON_LIMIT`, nested beyond Python's limit, or no JSON; NaN
            and infinities, which are no JSON either, are refused too.
    """
    text = _read(file, JSON_LIMIT)
    try:
        return json.loads(text.decode(), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(file, error) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays that `numpy.savez` wrote, by name: numbers and booleans only, none of them pickled.

    No more memory is taken than the file has bytes, whatever its headers say. Names are names: none is used
    as a path.

    Raises:
        DamagedFile: the file is missing or anything in it is not as `numpy.savez` writes it.
    """
    _check_regular(file)
    try:
        with open(file, "rb") as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            size = os.fstat(stream.fileno()).st_size
            if sum(member.file_size for member in members) > size:
                raise ValueError("it claims to hold more than its own size")
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise ValueError("two of its arrays have one name")
            return {name: _read_array(archive, member) for name, member in zip(names, members, strict=True)}
    # all that the zip reader raises on damaged bytes
    except (OSError, EOFError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DamagedFile(file, error) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name!r} is compressed")
    with archive.open(member) as stream:
        start = stream.read(10)
        if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
            raise ValueError(f"{name!r} is no NumPy array of format 1.0")
        length = int.from_bytes(start[8:], "little")
        if not (match := _HEADER.fullmatch(stream.read(length))):
            raise ValueError(f"{name!r} is no plain array of numbers; pickled objects are not loaded")
        dtype = np.dtype(match[1].decode())
        shape = tuple(int(n) for n in match[3].split(b",") if n.strip())
        if (claimed := math.prod(shape) * dtype.itemsize) != member.file_size - 10 - length:
            raise ValueError(f"{name!r} claims {claimed} bytes and has {member.file_size - 10 - length}")
        fortran = match[2] == b"True"
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        into, done = array.reshape(-1).view(np.uint8), 0
        while done < claimed:
            if not (piece := stream.read(2**24)):
                raise EOFError(f"{name!r} ends early")
            into[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        stream.read(1)  # past the end: there the zip reader compares its own checksum
        return array.T if fortran else array


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(file: Path, limit: int) -> bytes:
    """The bytes of a file; one that is missing or has more than `limit` of them is refused unread."""
    _check_regular(file)
    try:
        with open(file, "rb") as stream:
            if (size := os.fstat(stream.fileno()).st_size) > limit:
                raise ValueError(f"{size:,} bytes are more than the {limit:,} it may have")
            return stream.read(limit)
    except (OSError, ValueError) as error:
        raise DamagedFile(file, error) from error


def _check_regular(file: Path) -> None:
    """Refuse pipes and devices, which would block or never end."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise DamagedFile(file, error) from error
    if not stat.S_ISREG(mode):
        raise DamagedFile(file, "it is no regular file")
