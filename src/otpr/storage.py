"""Files on disk: written atomically, verified by SHA-256, and read without executing code.

A sealed folder holds its files and `SHA256SUMS`, written last, in the format of `sha256sum`, so that
`sha256sum -c SHA256SUMS` checks the folder by hand. Arrays are safetensors (`otpr.trees`), documents are
JSON. The checksums detect damage, not tampering. Files from untrusted sources are safe to read, because none
of these formats can carry code and no allocation is larger than the file it comes from.
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
"""The largest JSON document that is read, in bytes; those of otpr have a few thousand."""

_SEAL_LINES = re.compile(rb"(?:[0-9a-f]{64}  \w[\w.-]*\n)+")
"""The content of SHA256SUMS. A name stays in its folder: it has no slash and does not begin with a dot."""


class DamagedFile(OtprError):  # noqa: N818 - it says what the file is
    """A file is missing, truncated, changed or of the wrong kind; the message names it and the reason."""

    def __init__(self, file: Path, reason: Exception | str):
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        super().__init__(f"{file} is damaged ({reason[:300]}).")


# -------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[None]:
    """Turn an `OSError` raised while `path` is written into a message for the user.

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
    """Check before any work that an output can be written.

    Parent folders may be missing. The check leaves nothing behind.

    Args:
        path: the file or folder that will be written.
        option: the option that sets another path, e.g. "--out", for errors.
        folder: whether a folder will be written rather than a file.

    Raises:
        OtprError: a folder is in the place of a file or the reverse, a parent is not a folder, or the user
            lacks permission to write.
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
    """Give a new folder to write files into; at the end of the block it is sealed and replaces `path`.

    If the block raises, `path` is left unchanged.

    Args:
        path: the folder's final path; its parent must exist.
        aside: where the former content of `path` is moved during the exchange; by default the scratch folder.
            A process killed at that moment leaves it there.
        unsealed: names of files without a checksum, which people may edit.

    Raises:
        OtprError: the folder cannot be written.
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
    """Write a file atomically.

    Raises:
        OtprError: the file cannot be written; an existing file is left unchanged.
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
    """Write a text in UTF-8 atomically; errors as in `write_bytes`."""
    write_bytes(file, text.encode())


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON atomically; errors as in `write_bytes`."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------- reading


def check_seal(folder: Path) -> set[str]:
    """Verify the files of a sealed folder against their checksums, and return their names.

    Raises:
        DamagedFile: a file differs from what was written; the message names the first one.
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
        DamagedFile: the file is missing, larger than `JSON_LIMIT`, nested beyond Python's limit, or not valid
            JSON. NaN and infinities are not valid JSON.
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
    """The bytes of a file. A missing file, or one with more than `limit` bytes, is refused unread."""
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            if (size := os.fstat(stream.fileno()).st_size) > limit:
                raise ValueError(f"{size:,} bytes are more than the {limit:,} it may have")
            return stream.read(size)
    except (OSError, ValueError) as error:
        raise DamagedFile(file, error) from error


def check_regular(file: Path) -> None:
    """Refuse pipes and devices, where reading would block or never end."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise DamagedFile(file, error) from error
    if not stat.S_ISREG(mode):
        raise DamagedFile(file, "it is no regular file")
