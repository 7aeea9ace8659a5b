"""A run directory: a run's configuration, software versions and measurements.

config.json      the command and its whole configuration
versions.json    the software and devices of every start of the run: the first, then each resume
metrics.jsonl    one JSON object a line, only appended to
lock             who is running in it; see `otpr.training.lock`
summary.json     the outcome, written at the end
tensorboard/     the numbers of metrics.jsonl as TensorBoard scalars, unless other loggers were named
logger_id.json   the run's id at W&B and Trackio, where it has one; see `otpr.training.sinks`
checkpoints/     see `otpr.training.checkpoints`
videos/
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json, write_json, write_text, writing
from otpr.training.lock import RunLock
from otpr.training.sinks import DEFAULT, STEP_KEYS, Row, Sink, check_loggers, open_sinks, step_key
from otpr.training.versions import software_versions


class RunDirectory:
    """An open run directory; `RunDirectory.open` makes one. Also a context manager, which closes it.

    Attributes:
        path: the directory.
        command: the command that runs in it, e.g. "finetune".
        config: its configuration, as JSON returns it (tuples as lists).
    """

    def __init__(
        self, path: Path, command: str, config: dict[str, Any], lock: RunLock, log: Sequence[str]
    ) -> None:
        self.path = path
        self.command = command
        self.config = config
        self._lock = lock
        self._metrics = self._open_metrics()
        self._sinks: list[Sink] = open_sinks(log, path, {"command": command, **config})

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        command: str,
        config: dict[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        log: Sequence[str] = DEFAULT,
    ) -> Self:
        """Start a run in a directory, or resume the one in it.

        If this raises, nothing on disk has changed, except if a logger cannot be reached: the run then
        exists, and `resume` continues it.

        Args:
            path: the directory; made, with its parents, for a new run. It may exist if it is empty.
            command: name of the command that runs, e.g. "finetune".
            config: everything the run depends on, JSON-able.
            resume: whether to continue the run in the directory, which must have the same command and
                configuration.
            overwrite: whether to delete the directory's run with everything in it and start a new one.
            log: names of the loggers that show the rows beside metrics.jsonl, or "none"; see
                `otpr.training.sinks`. A resumed run may have others than before.

        Raises:
            OtprError: the directory holds something and neither `resume` nor `overwrite` is given, or both
                are; `overwrite` of something that is not a run of this command; `resume` of a missing run or
                of one that was configured otherwise; another process runs in it; it cannot be written; a
                logger is unknown, not installed, or cannot be reached.
        """
        check_loggers(log)
        path = Path(path).resolve()
        config = json.loads(json.dumps(config, allow_nan=False))
        if resume and overwrite:
            raise OtprError("--resume and --overwrite exclude each other: one keeps the run, one deletes it.")
        starts = None
        if resume:
            _check_same_run(path, {"command": command, "config": config})
            starts = read_json(path / "versions.json")
            if not isinstance(starts, list):
                raise DamagedFile(path / "versions.json", "it is no list")
            lock = RunLock.take(path)
        else:
            _check_free(path, command, overwrite)
            lock = _create(path, {"command": command, "config": config})
        try:
            if starts is not None:
                with writing(path / "metrics.jsonl"):
                    _drop_torn_line(path / "metrics.jsonl")
                write_json(path / "versions.json", [*starts, software_versions()])
            return cls(path, command, config, lock, log)
        except BaseException:
            lock.release()
            raise

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; it exists once there is one."""
        return self.path / "checkpoints"

    @property
    def videos(self) -> Path:
        """Folder of the videos; it exists once there is one."""
        return self.path / "videos"

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl, and show its numbers in the loggers.

        Args:
            row: numbers (NumPy and JAX scalars too), strings, booleans or None by name. NaN and infinities
                are written as null. It must have `env_steps` or `updates`.

        Raises:
            ValueError: the row has neither.
            TypeError: a value is none of these.
            OtprError: it cannot be written, or the directory is no longer where it was.
        """
        if step_key(row) is None:
            raise ValueError(f"A row of metrics needs one of {STEP_KEYS}; got {sorted(row)}.")
        plain = {name: _scalar(name, value) for name, value in row.items()}
        self._check_in_place()
        with writing(self.path / "metrics.jsonl"):
            _write_all(self._metrics, _line(plain).encode())
            # flushed to disk: a checkpoint that survives a power cut must not lack earlier rows
            os.fsync(self._metrics)
        for sink in self._sinks:
            sink.add(plain)

    def rows(self) -> list[Row]:
        """Every row logged so far, oldest first; see `read_rows`."""
        return read_rows(self.path)

    def rewind(self, key: str, value: int) -> None:
        """Drop the rows logged after the checkpoint that a run resumes from, so that none appears twice.

        Args:
            key: what the rows are compared by, e.g. "env_steps". Rows without it stay.
            value: rows with more than this are dropped.
        """
        kept = [row for row in self.rows() if row.get(key) is None or row[key] <= value]
        os.close(self._metrics)
        write_text(self.path / "metrics.jsonl", "".join(_line(row) for row in kept))
        self._metrics = self._open_metrics()
        placed = [row for row in kept if step_key(row) is not None]  # a row mended by hand may lack it
        for sink in self._sinks:
            sink.replace(placed)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, whole or not at all. Values as in `log`, or dictionaries and lists of JSON."""
        plain = {
            name: value if isinstance(value, dict | list) else _scalar(name, value)
            for name, value in summary.items()
        }
        write_json(self.path / "summary.json", plain)

    def close(self) -> None:
        """Close the files and give up the lock. Nothing can be logged afterwards; a second call does nothing.

        Raises:
            OtprError: what a logger had yet to write cannot be written.
        """
        try:
            if self._metrics >= 0:
                os.close(self._metrics)
                self._metrics = -1
                for sink in self._sinks:
                    sink.close()
        finally:
            self._lock.release()

    def _open_metrics(self) -> int:
        with writing(self.path / "metrics.jsonl"):
            return os.open(self.path / "metrics.jsonl", os.O_WRONLY | os.O_APPEND)

    def _check_in_place(self) -> None:
        """Check that the directory was not removed or moved, because rows would be lost in the open file."""
        file = self.path / "metrics.jsonl"
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(file), os.fstat(self._metrics)):
                return
        raise OtprError(
            f"{file} was removed, moved or replaced while its run was going on. Bring {self.path} back and "
            "go on with --resume, or start anew."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # an error of the run takes precedence
        with contextlib.suppress(OtprError) if kind else contextlib.nullcontext():
            self.close()


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a run's metrics.jsonl, oldest first, without opening the run.

    A last line that was cut while being written is left out.

    Args:
        path: the run directory.

    Raises:
        OtprError: there is no metrics.jsonl, or a line other than a cut last one is not a JSON object.
    """
    file = Path(path) / "metrics.jsonl"
    if not file.is_file():
        raise OtprError(f"{path} is not a run directory: it has no metrics.jsonl.")
    # Only "\n" ends a row: str.splitlines would also cut at the separators a string in a row may hold.
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OtprError(
                f"{file}, line {number} is not JSON ({error}). Mend or delete that line."
            ) from error
        if not isinstance(row, dict):
            raise OtprError(f"{file}, line {number} is not a JSON object. Mend or delete that line.")
        rows.append(row)
    return rows


def _is_run(path: Path) -> bool:
    return all((path / name).is_file() for name in ("config.json", "versions.json", "metrics.jsonl"))


def _check_free(path: Path, command: str, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise OtprError(f"{path} is a file; a run needs a directory.")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise OtprError(
            f"The run directory {path} already exists. Use --resume to go on with its run, --overwrite to "
            "delete it and start anew, or another directory."
        )
    # A mistyped directory must not delete other files, or the policy that this run starts from.
    if not _is_run(path):
        raise OtprError(f"{path} holds no run, so --overwrite will not delete it. Use another directory.")
    stored = _read_config(path)["command"]
    if stored != command:
        raise OtprError(
            f"{path} holds a run of `{stored}`, so --overwrite of a `{command}` run will not delete it. "
            "Use another directory."
        )


def _create(path: Path, document: dict[str, Any]) -> RunLock:
    """Create the locked directory under another name and rename it, so that it is never incomplete."""
    with writing(path), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (path / "config.json").exists():  # it is to be overwritten: not while somebody runs in it
            stack.callback(RunLock.take(path).release)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."))
        new = Path(scratch) / "new"
        new.mkdir()
        write_json(new / "config.json", document)
        write_json(new / "versions.json", [software_versions()])
        (new / "metrics.jsonl").touch()
        lock = RunLock.take(new)
        try:
            if path.exists():
                path.rename(Path(scratch) / "old")
            new.rename(path)
        except BaseException:
            lock.release()
            raise
    return lock


def _check_same_run(path: Path, given: dict[str, Any]) -> None:
    if not _is_run(path):
        raise OtprError(f"There is no run to resume in {path}. Leave out --resume to start one.")
    stored = _read_config(path)
    differing = list(_differences(given, stored))
    if differing:
        raise OtprError(
            f"The run in {path} was configured otherwise, so --resume would not continue it:\n"
            + "\n".join(f"  {line}" for line in differing)
            + "\nGive the stored values, or start a new run in another directory."
        )


def _differences(given: Any, stored: Any, name: str = "") -> Iterator[str]:
    """One line on every field that differs, fields of fields named like `config.critic.width`."""
    if isinstance(given, dict) and isinstance(stored, dict):
        for key in sorted({*given, *stored}):
            field = f"{name}.{key}" if name else key
            yield from _differences(given.get(key, _ABSENT), stored.get(key, _ABSENT), field)
    elif _shown(given) != _shown(stored):
        yield f"{name}: given {_shown(given)}, stored {_shown(stored)}"


_ABSENT = object()


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value)


def _scalar(name: str, value: Any) -> str | bool | int | float | None:
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{name} must be a number, a string, a boolean or None; got {type(value).__name__}.")


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _drop_torn_line(file: Path) -> None:
    """Cut off a last line without its end, or the next row would be appended to it."""
    content = file.read_bytes() if file.exists() else b""
    os.truncate(file, content.rfind(b"\n") + 1)


def _write_all(descriptor: int, content: bytes) -> None:
    """Append all bytes; a full disk writes a part first and only reports an error at the next write."""
    while content:
        content = content[os.write(descriptor, content) :]


def _read_config(path: Path) -> dict[str, Any]:
    document = read_json(path / "config.json")
    if not isinstance(document, dict) or not isinstance(document.get("command"), str):
        raise DamagedFile(path / "config.json", "it does not say of which command it is")
    return document
