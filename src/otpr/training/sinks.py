"""Loggers, which display a run's numbers. Each holds a copy; metrics.jsonl is authoritative.

A further logger is a class with the methods of `Sink` and an entry in `SINKS`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary import Writer

from otpr.errors import OtprError, unknown_name
from otpr.storage import DamagedFile, read_json, write_json, writing

Row = dict[str, Any]

STEP_KEYS = ("env_steps", "updates")
"""The keys that place a row of metrics; loggers plot a row over the first that it has."""

DEFAULT = ("tensorboard",)
"""The loggers of a run that names none."""

NONE = "none"
"""The name that selects no logger."""

PROJECT = "otpr"
"""The project of the runs at Weights & Biases and at Trackio."""


def step_key(row: Mapping[str, Any]) -> str | None:
    """The first of `STEP_KEYS` that the row has."""
    return next((key for key in STEP_KEYS if row.get(key) is not None), None)


class Sink(Protocol):
    """One logger, opened by its class: `SINKS[name](folder, config)`.

    Args:
        folder: the run directory, which exists.
        config: the command and its configuration, JSON-able.

    Every method raises an OtprError where the logger cannot take what it is given.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None: ...

    def add(self, row: Row) -> None:
        """Show the numbers in a row of metrics."""
        ...

    def replace(self, rows: Sequence[Row]) -> None:
        """Replace all rows by those that a resumed run starts from."""
        ...

    def close(self) -> None:
        """Write what is outstanding; a second call does nothing."""
        ...


class TensorBoard:
    """Event files in the run directory's folder `tensorboard`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard"
        with writing(self._folder):
            self._writer = Writer(str(self._folder))

    def add(self, row: Row) -> None:
        """See `Sink.add`."""
        with writing(self._folder):
            self._write(row, {})
            self._writer.flush()

    def replace(self, rows: Sequence[Row]) -> None:
        """See `Sink.replace`; the rows keep the times at which they were logged."""
        with writing(self._folder):
            self._writer.close()
            times = self._times()
            shutil.rmtree(self._folder)
            self._writer = Writer(str(self._folder))
            for row in rows:
                self._write(row, times)
            self._writer.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        with writing(self._folder):
            self._writer.close()

    def _write(self, row: Row, times: Mapping[tuple[str, int], float]) -> None:
        key, numbers = _numbers(row)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, row[key], wall_time=times.get((name, row[key])))

    def _times(self) -> dict[tuple[str, int], float]:
        # 0: all of them, rather than a sample.
        events = EventAccumulator(str(self._folder), size_guidance={"tensors": 0})
        events.Reload()
        tags: Any = events.Tags()  # lists by kind, although some kinds have a flag instead
        return {
            (tag, event.step): event.wall_time for tag in tags["tensors"] for event in events.Tensors(tag)
        }


class WeightsAndBiases:
    """A run at Weights & Biases, in the project `otpr` or the one that WANDB_PROJECT names.

    Its step is the row's place in metrics.jsonl, its x axis the row's step key. A resumed run has the same
    id, and a row that was sent is not sent again: the run repeats the rows after its checkpoint exactly.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = _library("wandb")
        self._error = wandb.Error
        self._row = 0
        self._axis: str | None = None
        with self._told():
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=_identity(folder),
                name=folder.name,
                dir=str(folder),
                config=dict(config),
                resume="allow",
                reinit="create_new",  # the caller's own run, if there is one, stays as it is
                settings=wandb.Settings(console="off"),  # it would wrap the output and break progress bars
            )

    def add(self, row: Row) -> None:
        """See `Sink.add`."""
        key, numbers = _numbers(row)
        with self._told():
            if self._axis is None:
                self._axis = key
                self._run.define_metric("*", step_metric=key)
            if self._row >= self._run.step:
                self._run.log({key: row[key], **numbers}, step=self._row)
        self._row += 1

    def replace(self, rows: Sequence[Row]) -> None:
        """See `Sink.replace`."""
        self._row = 0
        for row in rows:
            self.add(row)

    def close(self) -> None:
        """See `Sink.close`."""
        with self._told():
            self._run.finish()

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except self._error as error:
            raise OtprError(
                f"Weights & Biases failed: {error} Log in with `wandb login`, or set WANDB_MODE=offline. Go "
                "on with --resume; without --log wandb, if need be."
            ) from error


class Trackio:
    """A run in Trackio's local database, in the project `otpr`; a rewound run is written anew."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._trackio = _library("trackio")
        self._name = f"{folder.name}-{_identity(folder)}"
        self._config = dict(config)
        self._run = self._open()

    def _open(self) -> Any:
        return self._trackio.init(project=PROJECT, name=self._name, config=self._config, resume="allow")

    def add(self, row: Row) -> None:
        """See `Sink.add`."""
        key, numbers = _numbers(row)
        self._run.log(numbers, step=row[key])

    def replace(self, rows: Sequence[Row]) -> None:
        """See `Sink.replace`."""
        self._run.finish()
        for run in self._trackio.Api().runs(PROJECT):
            if run.name == self._name:
                run.delete()
        self._run = self._open()
        for row in rows:
            self.add(row)

    def close(self) -> None:
        """See `Sink.close`."""
        self._run.finish()


SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}
"""The loggers by name."""

_LIBRARIES = ("wandb", "trackio")
"""Loggers whose library is an extra of the same name."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that loggers can be opened, before a run starts.

    Args:
        names: keys of `SINKS`, or "none" alone.

    Raises:
        OtprError: a name is unknown (the message has the nearest), "none" is not alone, or a library is not
            installed (the message names the extra that brings it).
    """
    for name in names:
        if name not in (*SINKS, NONE):
            raise unknown_name("logger", name, (*SINKS, NONE))
        if name in _LIBRARIES:
            _library(name)
    if NONE in names and len(names) > 1:
        raise OtprError(f"--log none stands alone, given {' '.join(names)}. Leave none out, or the others.")


def open_sinks(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[Sink]:
    """The named loggers, each once, opened for the run in `folder`."""
    return [SINKS[name](folder, config) for name in dict.fromkeys(names) if name != NONE]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise OtprError(f"--log {name} needs {name}. Install it with: pip install 'otpr[{name}]'") from error


def _identity(folder: Path) -> str:
    """The run's name for loggers outside the directory, made once: a resumed run continues theirs.

    Raises:
        DamagedFile: the file that holds it does not.
    """
    file = folder / "logger_id.json"
    if not file.exists():
        write_json(file, {"id": secrets.token_hex(4)})
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        raise DamagedFile(file, "it has no id")
    return document["id"]


def _numbers(row: Row) -> tuple[str, dict[str, float]]:
    """The key that places the row, and its other numbers by name."""
    key = step_key(row)
    assert key is not None  # `RunDirectory.log` takes no other rows
    return key, {name: value for name, value in row.items() if isinstance(value, int | float) and name != key}
