"""What an export writes: a folder of files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from otpr import storage
from otpr.errors import OtprError


class Exported(NamedTuple):
    """The content of a folder, by the names of its files; and what to know of it, a sentence each."""

    files: dict[str, bytes]
    notes: list[str]


def write_files(exported: Exported, out: Path) -> None:
    """Write them into a new folder, whole or not at all.

    Raises:
        OtprError: there is something at `out`, or it cannot be written.
    """
    if out.exists():
        raise OtprError(f"{out} exists; give the name of a new folder with --out.")
    with storage.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with storage.sealed_folder(out) as new:
        for name, content in exported.files.items():
            (new / name).write_bytes(content)
