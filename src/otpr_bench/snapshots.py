"""Where a benchmark's files are, for machines that share a folder and for machines that share a storage only.

A storage has one archive a folder, whole or not at all: a ZIP file without compression, written under another
name and moved. A run may be continued from what is in it: the checkpoints are listed first, and all that they
count was there by then.
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
"""Seconds between two looks for a new checkpoint to bring to the storage."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder of a benchmark, and the storage that folders below it are fetched from and brought to.

    Attributes:
        folder: that of bases, runs and logs, the same on every machine; shared by all where there is no
            storage.
        storage: a folder, or a URI that pyarrow opens (`s3://BUCKET/PATH`, `gs://`, `hdfs://`); None: there
            is nothing to fetch from and to bring to.
        workers: that run the episodes of a run.
    """

    folder: Path
    storage: str | None = None
    workers: int = 1

    def base(self, task_id: str) -> Path:
        """Where the base policy of a task lies."""
        return self.folder / "bases" / plain_name(task_id)

    @contextlib.contextmanager
    def _opened(self, folder: Path) -> Generator[tuple[Any, str]]:
        """While entered, the storage's file system, and where in it the archive of a folder is.

        Raises:
            OtprError: pyarrow cannot open it, or something goes wrong with it meanwhile.
        """
        from pyarrow import ArrowException, fs

        assert self.storage is not None
        uri = self.storage if "://" in self.storage else str(Path(self.storage).resolve())
        try:
            opened, root = fs.FileSystem.from_uri(uri)
            yield opened, f"{root.rstrip('/')}/{folder.relative_to(self.folder).as_posix()}.zip"
        except (ArrowException, OSError, ValueError) as error:
            # without passwords, which a URI may have in it: results are kept in the repository
            shown = re.sub("//[^/]*@", "//", self.storage).partition("?")[0]
            why = str(error).replace(uri, shown)
            raise OtprError(
                f"--storage {shown} cannot be used: {why}. Give a folder, or a URI such as s3://BUCKET/PATH, "
                "to which this machine may write."
            ) from error

    def fetch(self, folder: Path) -> bool:
        """Make a folder as its archive has it, in the place of what is here; whether there is an archive."""
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
        """Bring a folder to the storage, in the place of what was there; nothing where it does not exist."""
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
        """While entered, bring a run's directory to the storage after each of its checkpoints."""
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
                        pass  # a checkpoint was just being replaced: the next look finds what took its place
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
    """Write the files of a folder to an archive, but for hidden ones and the lock."""
    # its checkpoints are listed first: what they count was there before them
    parts = sorted(folder.iterdir(), key=lambda part: part.name != "checkpoints")
    files = [file for part in parts for file in ([part] if part.is_file() else sorted(part.rglob("*")))]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = file.relative_to(folder)
            if file.is_file() and str(name) != "lock" and not any(p[0] == "." for p in name.parts):
                archive.write(file, name.as_posix())
