"""Reading a run directory for a report; an invalid file raises an error that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.training.intervals import Interval, wilson_interval
from otpr.training.run_directory import read_rows

Document = dict[str, Any]

LIMIT = 1e300  # larger numbers would overflow an axis; below its inverse, numbers count as zero


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The content of a run directory, described in docs/run-directory.md."""

    path: Path
    command: str  # that made it, e.g. "finetune"
    config: Document  # of the command
    starts: list[Document]  # versions of every start
    rows: list[Document]  # metrics, oldest first
    imitation: list[Document]  # of the imitation, if it is a subfolder of this run
    summary: Document | None  # the outcome; None if the run has not ended
    evaluations: list[Document]  # of evaluation.json; empty if it is missing
    videos: list[Path]
    faults: list[Path]  # files saved at failures


def is_run(path: Path) -> bool:
    """Whether there is a run in a directory."""
    return all((path / name).is_file() for name in ("config.json", "metrics.jsonl"))


def read_run(path: Path) -> RunFiles:
    """Read a run directory, whether or not the run is finished.

    Raises:
        OtprError: the directory holds no run, or a file is damaged.
    """
    if not is_run(path):
        raise OtprError(f"{path} is no run directory: it needs config.json and metrics.jsonl.")
    document = _document(path / "config.json")
    command, config = document.get("command"), document.get("config")
    if not isinstance(command, str) or not isinstance(config, dict):
        raise DamagedFile(path / "config.json", "it does not name a command and its configuration")
    pretrain, summary = path / "pretrain", path / "summary.json"
    return RunFiles(
        path,
        command,
        cast(Document, config),
        _documents(path / "versions.json"),
        read_rows(path),
        read_rows(pretrain) if is_run(pretrain) else [],
        _document(summary) if summary.exists() else None,
        _documents(path / "evaluation.json"),
        # [!.]: a hidden one is still being filmed
        sorted(file for file in (path / "videos").glob("[!.]*.mp4") if file.is_file()),
        sorted(file for file in (path / "faults").glob("*") if file.is_file()),
    )


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A number of a row; None if it is missing or too large."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LIMIT:
        return None
    return float(value) if abs(value) > 1 / LIMIT else 0.0


class Rate(NamedTuple):
    """A success rate."""

    value: float  # in [0, 1]
    interval: Interval  # Wilson's of 95%; the rate alone if `episodes` is 0
    episodes: int  # 0 if unknown

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%}" + (f" [{100 * low:.0f}, {100 * high:.0f}]" if self.episodes else "")


def success(row: Mapping[str, Any], name: str, episodes: str = "eval/episodes") -> Rate | None:
    """A success rate of a row; None if it is missing or not valid."""
    value, count = number(row, name), round(number(row, episodes) or 0)
    if value is None or not 0 <= value <= 1:
        return None
    interval = wilson_interval(round(value * count), count) if count >= 1 else Interval(value, value)
    return Rate(value, interval, max(0, count))


def _document(file: Path) -> Document:
    value = read_json(file)
    if not isinstance(value, dict):
        raise DamagedFile(file, "it is no JSON object")
    return cast(Document, value)


def _documents(file: Path) -> list[Document]:
    items = read_json(file) if file.exists() else []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in cast(list[object], items)):
        raise DamagedFile(file, "it is no list of JSON objects")
    return cast(list[Document], items)
