"""What lies on disk: written whole or not at all, checked by SHA-256, and read without running any of it.

A sealed folder holds its files and `SHA256SUMS`, written last, in the format of `sha256sum`: who wants to
check a folder by hand says `sha256sum -c SHA256SUMS` in it. Arrays are safetensors (`otpr.trees`), documents
are JSON. The checksums find damage, not malice; against malice stands that nothing here can run code, and
that nothing is allocated that is larger than the file it comes from.
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
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Any

from otpr.errors import OtprError

SEAL = "SHA256SUMS"

JSON_LIMIT = 64 * 2**20
"""Bytes of the largest JSON document that is read; those of otpr have a few thousand."""

_SEAL_LINES = re.compile(rb"(?:[0-9a-f]{64}  \w[\w.-]*\n)+")
"""What SHA256SUMS holds. A name leads nowhere else: it has no slash and does not begin with a dot."""


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


def check_writable(path: str | Path, option: str, *, folder: bool = False) -> None:
    """Refuse a place for output, before any work, that could not be written to when the work is done.

    Folders above it may be missing. Nothing is made that stays.

    Args:
        path: the file or folder that will be written.
        option: by which the user may give another place, e.g. "--out".
        folder: a folder will be written, not a file.

    Raises:
        OtprError: it is the other of the two, something above it is no folder, or the operating system does
            not let this user write there.
    """
    path = Path(path).absolute()
    advice = f"Give another place with {option}."
    try:
        if path.exists() and path.is_dir() != folder:
            kinds = ("file", "folder") if folder else ("folder", "file")
            raise OtprError(f"{path} is a {kinds[0]}, and a {kinds[1]} is to be written. {advice}")
        above = next(parent for parent in path.parents if parent.exists())
        if not above.is_dir():
            raise OtprError(f"{path} cannot be written: {above} is a file, not a folder. {advice}")
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OtprError(f"{path} cannot be written ({error.strerror or error}). {advice}") from error


@contextlib.contextmanager
def sealed_folder(path: Path, aside: Path | None = None, unsealed: Collection[str] = ()) -> Generator[Path]:
    """A new folder to write files into; when the block ends, it is sealed and takes the place of `path`.

    If the block raises, what was at `path` stays.

    Args:
        path: where the folder goes; its parent exists.
        aside: where what was at `path` is moved in the instant between; by default into the scratch folder.
            A process killed in that instant leaves it there.
        unsealed: names of files that get no checksum, for people, who may change them.

    Raises:
        OtprError: it cannot be written.
    """
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        yield new
        _seal(new, unsealed)
        if path.exists():
            path.rename(aside or Path(scratch) / "old")
        new.rename(path)
        sync(path.parent)


def _seal(folder: Path, unsealed: Collection[str]) -> None:
    lines: list[str] = []
    for file in sorted(folder.iterdir()):
        sync(file)
        if file.name not in unsealed:
            lines.append(f"{_digest(file)}  {file.name}\n")
    write_text(folder / SEAL, "".join(lines))
    sync(folder)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OtprError: it cannot be written; what was there stays.
    """
    part = file.with_name(f".{file.name}.part")
    with writing(file):
        with open(part, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
        sync(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; errors as in `write_bytes`."""
    write_bytes(file, text.encode())


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; errors as in `write_bytes`."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync(path: Path) -> None:
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
        check_regular(folder / name)
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


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(file: Path, limit: int) -> bytes:
    """The bytes of a file; one that is missing or has more than `limit` of them is refused unread."""
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            if (size := os.fstat(stream.fileno()).st_size) > limit:
                raise ValueError(f"{size:,} bytes are more than the {limit:,} it may have")
            return stream.read(size)
    except (OSError, ValueError) as error:
        raise DamagedFile(file, error) from error


def check_regular(file: Path) -> None:
    """Refuse pipes and devices, which would block or never end."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise DamagedFile(file, error) from error
    if not stat.S_ISREG(mode):
        raise DamagedFile(file, "it is no regular file")
