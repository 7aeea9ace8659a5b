"""The files of an export, written as a folder atomically."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from otpr import storage
from otpr.errors import OtprError


class Exported(NamedTuple):
    """The content of each file of a folder by name, and notes for the user, one sentence each."""

    files: dict[str, bytes]
    notes: list[str]


def write_files(exported: Exported, out: Path) -> None:
    """Write the files into a new folder atomically.

    Raises:
        OtprError: `out` exists already, or cannot be written.
    """
    if out.exists():
        raise OtprError(f"{out} exists; give the name of a new folder with --out.")
    with storage.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with storage.sealed_folder(out) as new:
        for name, content in exported.files.items():
            (new / name).write_bytes(content)
