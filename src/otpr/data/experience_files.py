"""The episodes that a run collects, as a data set on disk that grows by one file per round.

dataset.json                   format, task, spec and what wrote it
SHA256SUMS                     the checksum of dataset.json
episodes-000000.safetensors    the episodes of a round; the number is that of the first of them
episodes-000010.safetensors    ...

A file is written atomically and never changed afterwards. Its metadata hold the SHA-256 of its arrays and the
digest of all earlier files, so that damaged, missing, foreign or misplaced files are detected and named. The
digest after the last file identifies the whole set.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otpr import __version__
from otpr.data.episode_arrays import digest, pack, unpack
from otpr.data.episodes import Episode
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.spec import Spec
from otpr.storage import (
    SEAL,
    DamagedFile,
    check_seal,
    read_json,
    sealed_folder,
    sync,
    write_bytes,
    write_json,
    writing,
)
from otpr.trees import read_arrays, read_metadata, to_bytes

FORMAT = 2
"""Version of the files; it rises whenever older code cannot read new files. 1 has no images."""

DOCUMENT = "dataset.json"

_NAME = re.compile(r"episodes-(\d{6,18})\.safetensors")


@dataclass(frozen=True)
class _Tip:
    """The end of a data set: the number of episodes, and the digest of all files."""

    episodes: int
    digest: str


class ExperienceWriter:
    """Adds the episodes of a run to its data set, one file for each round.

    The folder is created if it does not exist. Otherwise the writer appends to it; when resuming from a
    checkpoint, call `back_to` first.

    Args:
        folder: the data set; its parent exists.
        setup: the task and its view.
        spec: the task's spec.

    Raises:
        OtprError: the folder holds something else, or a data set of another task or spec, or cannot be
            written.
    """

    def __init__(self, folder: Path, setup: Setup, spec: Spec):
        task = setup.task
        self._folder, self._spec = folder, spec
        if not folder.exists():
            about = {
                "format": FORMAT,
                "task": task,
                "view": setup.view(),
                "spec": spec.to_json(),
                "written_by": f"otpr {__version__}",
            }
            with sealed_folder(folder) as new:
                write_json(new / DOCUMENT, about)
        about = read_about(folder)
        if about.task != task:
            raise OtprError(
                f"{folder} holds episodes of the task {about.task!r}, not of {task!r}. Use another folder."
            )
        about.spec.check(spec, f"The episodes in {folder}", f"the task {task}", "Use another folder.")
        self._place = _identity(folder)
        self._names = _names(folder)
        self._tip: _Tip | None = None

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self._names)

    @property
    def digest(self) -> str:
        """The digest of all files, as 64 hexadecimal digits; without files, that of dataset.json.

        The digest after a file is the SHA-256 of the previous digest and the file's own, both as digits.
        """
        return self._last().digest

    def add(self, episodes: Sequence[Episode]) -> None:
        """Write the episodes of a round to one file atomically. Without episodes, nothing is written.

        Raises:
            ValueError: an episode does not fit the spec.
            OtprError: the file cannot be written, or the folder was replaced since it was opened.
        """
        if not episodes:
            return
        self._check_in_place()
        before, arrays = self._last(), pack(episodes, self._spec)
        own = digest(arrays)
        name = _name(before.episodes)
        metadata = {"episodes": len(episodes), "before": before.digest, "sha256": own}
        write_bytes(self._folder / name, to_bytes(arrays, metadata))
        self._names.append(name)
        self._tip = _Tip(before.episodes + len(episodes), _chained(before.digest, own))

    def back_to(self, count: int, digest: str) -> Iterator[Episode]:
        """Go back to a checkpoint: keep the first `count` files and delete the others.

        Args:
            count: number of files to keep, `count` at the time of the checkpoint.
            digest: `digest` at that time; not compared if no file is kept.

        Returns:
            The episodes of the kept files, as from `read_experience`.

        Raises:
            OtprError: there are fewer files, their digest differs, or the rest cannot be deleted. In the
                first two cases nothing is deleted.
        """
        if count > len(self._names):
            raise OtprError(
                f"{self._folder} holds {len(self._names)} files of episodes, and the checkpoint counts "
                f"{count}. Bring the last back from a copy, or start the run anew."
            )
        kept = self._names[:count]
        tip = _walk(self._folder, kept)
        if kept and tip.digest != digest:
            raise OtprError(
                f"{self._folder / kept[-1]} is not the one that the checkpoint counts: it is of another run, "
                "or was written again. Bring the run's own files back from a copy, or start the run anew."
            )
        with writing(self._folder):
            # from the last file on, so that a process killed midway leaves no gap
            for name in reversed(self._names[count:]):
                (self._folder / name).unlink()
            for left_over in self._folder.glob(".episodes-*"):  # from a process killed while writing
                left_over.unlink()
            sync(self._folder)
        self._names, self._tip = kept, tip
        return read_experience(self._folder)

    def _last(self) -> _Tip:
        if self._tip is None:
            self._tip = _walk(self._folder, self._names)
        return self._tip

    def _check_in_place(self) -> None:
        """Check that the folder was neither removed nor replaced by that of another run."""
        if self._place is not None and _identity(self._folder) == self._place:
            return
        raise OtprError(
            f"{self._folder} was removed, moved or replaced while its run was going on. Bring it back and go "
            "on with --resume, or start anew."
        )


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """The identity of a folder's dataset.json, which differs for any replacement; None if it is gone."""
    try:
        found = (folder / DOCUMENT).stat()
    except OSError:
        return None
    # inode numbers of deleted files are reused, so the time is compared too
    return found.st_dev, found.st_ino, found.st_mtime_ns


# -------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class About:
    """The content of dataset.json.

    Attributes:
        task: the task's name.
        view: the view of the task, from `Setup.view`; None in format 1.
        spec: the task's spec.
        written_by: the version of otpr that created the set.
    """

    task: str
    view: dict[str, Any] | None
    spec: Spec
    written_by: str


def is_experience(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like such a data set."""
    return (Path(folder) / DOCUMENT).is_file()


def read_about(folder: Path) -> About:
    """Read dataset.json.

    Raises:
        OtprError: the file is missing, damaged, or of a later format.
    """
    file = folder / DOCUMENT
    if not file.is_file():
        raise OtprError(f"{folder} is no data set of episodes: it has no {DOCUMENT}. Give another folder.")
    if check_seal(folder) != {DOCUMENT}:
        raise DamagedFile(folder / SEAL, f"expected the sum of {DOCUMENT}")
    document = read_json(file)
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise DamagedFile(file, "it does not say of which format it is")
    if document["format"] > FORMAT:
        raise OtprError(
            f"{file} is of format {document['format']}; this otpr reads up to {FORMAT}. Upgrade otpr."
        )
    try:
        task, written_by = document["task"], document["written_by"]
        if not isinstance(task, str) or not isinstance(written_by, str):
            raise ValueError("task and written_by should be texts")
        view = document["view"] if document["format"] > 1 else None
        return About(task, view, Spec.from_json(document["spec"]), written_by)
    except (KeyError, ValueError) as error:
        raise DamagedFile(file, error) from error


def read_experience(folder: Path) -> Iterator[Episode]:
    """Yield the episodes of a data set in the order of collection, with one file at a time in memory.

    Raises:
        OtprError: a file is missing, damaged, from other episodes or does not fit the spec; the message names
            it. The episodes of earlier files have been yielded by then. A missing last file is not detected
            here but in `ExperienceWriter.back_to`.
    """
    spec, names = read_about(folder).spec, _names(folder)
    _walk(folder, names)
    for name in names:
        yield from _read_file(folder / name, spec)


def read_ends(folder: Path) -> tuple[list[Episode], list[Episode]]:
    """The episodes of the first and of the last file, which may be the same; empty if there is no file.

    Raises:
        OtprError: as in `read_experience`, for these two files.
    """
    spec, names = read_about(folder).spec, _names(folder)
    if not names:
        return [], []
    return _read_file(folder / names[0], spec), _read_file(folder / names[-1], spec)


def _names(folder: Path) -> list[str]:
    """The files of a data set in order."""
    try:
        found = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError as error:
        raise DamagedFile(folder, error) from error
    return sorted(found, key=_first)


def _name(first: int) -> str:
    """The name of the file whose first episode has this number."""
    return f"episodes-{first:06d}.safetensors"


def _first(name: str) -> int:
    """The number of a file's first episode, by its name."""
    return int(name.removeprefix("episodes-").removesuffix(".safetensors"))


def _walk(folder: Path, names: Sequence[str]) -> _Tip:
    """Verify the chain of files from the first to the last by their metadata.

    Raises:
        DamagedFile: a file is missing or does not continue the previous one; the message names the first.
    """
    try:
        tip = _Tip(0, hashlib.sha256((folder / DOCUMENT).read_bytes()).hexdigest())
    except OSError as error:
        raise DamagedFile(folder / DOCUMENT, error) from error
    for name in names:
        expected = _name(tip.episodes)
        if _first(name) > tip.episodes:
            raise DamagedFile(folder / expected, f"it is missing: the next one is {name}")
        if name != expected:
            raise DamagedFile(folder / name, f"in its place {expected} was expected")
        metadata = read_metadata(folder / name)
        episodes, own = metadata.get("episodes"), metadata.get("sha256")
        if type(episodes) is not int or episodes < 1 or not isinstance(own, str):
            raise DamagedFile(folder / name, "its metadata do not say what it holds")
        if metadata.get("before") != tip.digest:
            raise DamagedFile(folder / name, "it was not written after the files that are before it")
        tip = _Tip(tip.episodes + episodes, _chained(tip.digest, own))
    return tip


def _read_file(file: Path, spec: Spec) -> list[Episode]:
    arrays, metadata = read_arrays(file), read_metadata(file)
    if digest(arrays) != metadata["sha256"]:
        raise DamagedFile(file, "the SHA-256 of its arrays is not the one in its metadata")
    try:
        episodes = unpack(arrays, spec)
    except ValueError as error:
        raise DamagedFile(file, str(error)) from error
    if len(episodes) != metadata["episodes"]:
        raise DamagedFile(file, f"it holds {len(episodes)} episodes, and says {metadata['episodes']}")
    return episodes


def _chained(before: str, own: str) -> str:
    return hashlib.sha256((before + own).encode()).hexdigest()
