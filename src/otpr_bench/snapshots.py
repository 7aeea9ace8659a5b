"""Folders on a storage, for machines that share no file system: one archive a folder, whole or not at all.

An archive is a ZIP file without compression, written under another name and moved. A run may be continued
from what is in it: the checkpoints are listed first, and all that they count was there by then.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from otpr.errors import OtprError
from otpr.training import checkpoints

EVERY = 10.0
"""Seconds between two looks for a new checkpoint to bring to the storage."""

_LEFT_OUT = ("lock",)
"""Files of a run that mean nothing on another machine."""


class Snapshots:
    """Archives of the folders below a folder, by their paths in it.

    Args:
        uri: where: a folder, or a URI that pyarrow opens (`file://`, `s3://BUCKET/PATH`, `gs://`, `hdfs://`).
        folder: the local folder.

    Raises:
        OtprError: pyarrow cannot open it.
    """

    def __init__(self, uri: str, folder: Path):
        from pyarrow import ArrowException, fs

        self._folder = folder
        try:
            self._fs, self._root = fs.FileSystem.from_uri(uri if "://" in uri else str(Path(uri).resolve()))
        except (ArrowException, OSError, ValueError) as error:
            raise OtprError(
                f"--storage {uri} cannot be opened: {error}. Give a folder, or a URI such as s3://BUCKET/PATH."
            ) from error

    def _place(self, folder: Path) -> str:
        return f"{self._root.rstrip('/')}/{folder.relative_to(self._folder).as_posix()}.zip"

    def has(self, folder: Path) -> bool:
        """Whether there is an archive of a folder."""
        from pyarrow import fs

        return self._fs.get_file_info(self._place(folder)).type == fs.FileType.File

    def fetch(self, folder: Path) -> None:
        """Make a folder as its archive has it, in the place of what is here; nothing where there is none."""
        if not self.has(folder):
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            archive = Path(scratch) / "archive"
            with self._fs.open_input_stream(self._place(folder)) as source, open(archive, "wb") as target:
                shutil.copyfileobj(source, target)
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(Path(scratch) / "new")
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            (Path(scratch) / "new").rename(folder)

    def keep(self, folder: Path) -> None:
        """Bring a folder to the storage, in the place of what was there; nothing where it does not exist."""
        if not folder.exists():
            return
        place = self._place(folder)
        self._fs.create_dir(place.rpartition("/")[0], recursive=True)
        with tempfile.TemporaryFile() as archive:
            _pack(folder, archive)
            archive.seek(0)
            with self._fs.open_output_stream(f"{place}.part") as target:
                shutil.copyfileobj(archive, target)
        self._fs.move(f"{place}.part", place)

    @contextlib.contextmanager
    def keeping(self, folder: Path) -> Generator[None]:
        """While entered, bring a run's directory to the storage after each of its checkpoints."""
        over = threading.Event()
        # looked up before the run begins: its thread may start after the first checkpoint
        there = checkpoints.latest(folder / "checkpoints")

        def look() -> None:
            kept = there
            while not over.wait(EVERY):
                newest = checkpoints.latest(folder / "checkpoints")
                if newest != kept:
                    # a checkpoint that is just being replaced: the next look finds what takes its place
                    with contextlib.suppress(FileNotFoundError):
                        self.keep(folder)
                        kept = newest

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _pack(folder: Path, target: Any) -> None:
    """Write the files of a folder to an archive, but for hidden ones."""
    # its checkpoints are listed first: what they count was there before them
    parts = sorted(folder.iterdir(), key=lambda part: part.name != "checkpoints")
    files = [file for part in parts for file in ([part] if part.is_file() else sorted(part.rglob("*")))]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = file.relative_to(folder)
            if file.is_file() and str(name) not in _LEFT_OUT and not any(p[0] == "." for p in name.parts):
                archive.write(file, name.as_posix())
