"""The location of a benchmark's files, for machines that share a folder or only a storage.

A storage has one archive for each folder, an uncompressed ZIP file that is written atomically under another
name and moved. A run can be continued from it, because the checkpoints are listed first, when all files that
they refer to exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from otpr.errors import OtprError
from otpr.training import checkpoints
from otpr_bench.jobs import plain_name

EVERY = 10.0
"""Seconds between two checks for a new checkpoint to upload."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder of a benchmark, and the storage for downloads and uploads of its subfolders.

    Attributes:
        folder: the folder of bases, runs and logs, with the same path on every machine; shared if there is no
            storage.
        storage: a folder, or a URI that pyarrow opens (`s3://BUCKET/PATH`, `gs://`, `hdfs://`); None: there
            is no storage.
        workers: number of workers that run the episodes of a run.
    """

    folder: Path
    storage: str | None = None
    workers: int = 1

    def base(self, task_id: str) -> Path:
        """The folder of a task's base policy."""
        return self.folder / "bases" / plain_name(task_id)

    @contextlib.contextmanager
    def _opened(self, folder: Path) -> Generator[tuple[Any, str]]:
        """A context with the storage's file system and the path of a folder's archive in it.

        Raises:
            OtprError: pyarrow cannot open the storage, or an operation on it fails.
        """
        from pyarrow import ArrowException, fs

        assert self.storage is not None
        uri = self.storage if "://" in self.storage else str(Path(self.storage).resolve())
        try:
            opened, root = fs.FileSystem.from_uri(uri)
            yield opened, f"{root.rstrip('/')}/{folder.relative_to(self.folder).as_posix()}.zip"
        except (ArrowException, OSError, ValueError) as error:
            # without passwords, which a URI may contain, because results are kept in the repository
            shown = re.sub("//[^/]*@", "//", self.storage).partition("?")[0]
            why = str(error).replace(uri, shown)
            raise OtprError(
                f"--storage {shown} cannot be used: {why}. Give a folder, or a URI such as s3://BUCKET/PATH, "
                "to which this machine may write."
            ) from error

    def fetch(self, folder: Path) -> bool:
        """Replace a folder by the content of its archive; returns whether there is an archive."""
        if self.storage is None:
            return False
        from pyarrow.fs import FileType

        with self._opened(folder) as (there, archived):
            if there.get_file_info(archived).type != FileType.File:
                return False
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
                archive, new = Path(scratch) / "archive", Path(scratch) / "new"
                with there.open_input_stream(archived) as source, open(archive, "wb") as target:
                    shutil.copyfileobj(source, target)
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(new)
                if folder.exists():
                    folder.rename(Path(scratch) / "old")
                new.rename(folder)
        return True

    def keep(self, folder: Path) -> None:
        """Upload a folder to the storage, replacing its archive; does nothing for a missing folder."""
        if self.storage is None or not folder.exists():
            return
        with tempfile.TemporaryFile() as archive:
            _pack(folder, archive)
            archive.seek(0)
            with self._opened(folder) as (there, archived):
                there.create_dir(archived.rpartition("/")[0], recursive=True)
                with there.open_output_stream(f"{archived}.part") as target:
                    shutil.copyfileobj(archive, target)
                there.move(f"{archived}.part", archived)

    @contextlib.contextmanager
    def keeping(self, folder: Path) -> Generator[None]:
        """A context that uploads a run's directory after each of its checkpoints."""
        if self.storage is None:
            yield
            return
        over, kept = threading.Event(), checkpoints.latest(folder / "checkpoints")

        def look(kept: int | None) -> None:
            while not over.wait(EVERY):
                newest = checkpoints.latest(folder / "checkpoints")
                if newest != kept:
                    try:
                        self.keep(folder)
                        kept = newest
                    except FileNotFoundError:
                        pass  # a checkpoint was being replaced; the next check finds the new one
                    except OtprError as error:
                        print(f"otpr: {error} It is tried again.", file=sys.stderr)

        thread = threading.Thread(target=look, args=(kept,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _pack(folder: Path, target: Any) -> None:
    """Write the files of a folder to an archive, except hidden ones and the lock."""
    # checkpoints are listed first: the files that they refer to exist before them
    parts = sorted(folder.iterdir(), key=lambda part: part.name != "checkpoints")
    files = [file for part in parts for file in ([part] if part.is_file() else sorted(part.rglob("*")))]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = file.relative_to(folder)
            if file.is_file() and str(name) != "lock" and not any(p[0] == "." for p in name.parts):
                archive.write(file, name.as_posix())
