"""The numbers of a run as TensorBoard shows them: a copy, metrics.jsonl is what counts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary import Writer

from otpr.storage import writing

STEP_KEYS = ("env_steps", "updates")
"""The keys a row of metrics is placed by; the first that it has is its TensorBoard step."""


def step_key(row: Mapping[str, Any]) -> str | None:
    """The first of `STEP_KEYS` that the row has."""
    return next((key for key in STEP_KEYS if row.get(key) is not None), None)


class Scalars:
    """TensorBoard's files in a folder, made where missing; an OtprError says where they cannot be written."""

    def __init__(self, folder: Path):
        self._folder = folder
        with writing(folder):
            self._writer = Writer(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        """Show the numbers in a row."""
        with writing(self._folder):
            for name, value, step in _numbers(row):
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def replace(self, rows: list[dict[str, Any]]) -> None:
        """Show the numbers in these rows and no others, at the times at which they were logged."""
        with writing(self._folder):
            self._writer.close()
            times = self._times()
            shutil.rmtree(self._folder)
            self._writer = Writer(str(self._folder))
            for row in rows:
                for name, value, step in _numbers(row):
                    self._writer.add_scalar(name, value, step, wall_time=times.get((name, step)))
            self._writer.flush()

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        with writing(self._folder):
            self._writer.close()

    def _times(self) -> dict[tuple[str, int], float]:
        # 0: all of them, rather than a sample.
        events = EventAccumulator(str(self._folder), size_guidance={"tensors": 0})
        events.Reload()
        tags: Any = events.Tags()  # lists by kind, although some kinds have a flag instead
        return {
            (tag, event.step): event.wall_time for tag in tags["tensors"] for event in events.Tensors(tag)
        }


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every number in a row."""
    key = step_key(row)
    for name, value in row.items():
        if isinstance(value, int | float) and key is not None and name != key:
            yield name, value, row[key]
