"""The rows of results from a run's directory."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.training.run_directory import read_rows
from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.result_versions import package_versions
from otpr_bench.results import Row


def is_finished(run_dir: Path) -> bool:
    """Whether the run in the directory was completed: a run writes its summary last."""
    return (run_dir / "summary.json").is_file()


def done_rows(job: Job, base: Base, run_dir: Path) -> list[Row]:
    """The rows of a completed run, one for each evaluation.

    The first row holds the success of the base policy, which such a run does not measure again.

    Raises:
        OtprError: the directory is not that of a completed run.
    """
    summary = read_json(run_dir / "summary.json")
    try:
        steps_in_all = int(summary["env_steps"])
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedFile(run_dir / "summary.json", error) from error
    row_of = _row_of(job, base, run_dir, status="done", error="", machine=machine())
    before = row_of(
        env_steps=0,
        eval_at=0,
        wall_seconds=0.0,
        success=base.success,
        success_single=base.success,
        episodes=base.episodes,
        execute=base.execute,
        mean_return=base.mean_return,
        mean_return_single=base.mean_return,
    )
    rows = {0: before}
    end = job.task.budget.env_steps
    for metrics in read_rows(run_dir):
        if "eval/success_rate" not in metrics:
            continue
        try:
            steps = int(metrics["env_steps"])
            execute = metrics.get("eval/execute")
            row = row_of(
                env_steps=steps,
                # the last evaluation belongs to the end, however far the last round went beyond it
                eval_at=min(_nominal(job, steps), end) if steps < end else end,
                # the metrics hold the time before the evaluation
                wall_seconds=round(float(metrics["seconds"]) + float(metrics["eval/seconds"]), 1),
                success=float(metrics["eval/success_rate"]),
                success_single=_number(metrics, "eval/success_rate_single"),
                episodes=int(metrics["eval/episodes"]),
                execute=None if execute is None else int(execute),
                mean_return=_number(metrics, "eval/return"),
                mean_return_single=_number(metrics, "eval/return_single"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(run_dir / "metrics.jsonl", error) from error
        # if rounds are longer than the steps between evaluations, the later one is nearer to the next step
        rows[row.eval_at] = row
    if steps_in_all and end not in rows:
        raise DamagedFile(run_dir / "metrics.jsonl", "the last evaluation is missing")
    return [rows[at] for at in sorted(rows)]


UNKNOWN = "unknown"
"""Stands for the machine of a run whose process died without reporting it."""


def failed_row(job: Job, base: Base, run_dir: Path, error: str, on: str | None = None) -> Row:
    """The only row of a run that failed with `error`, on this machine if `on` names no other."""
    steps, seconds = progress(run_dir)
    row_of = _row_of(job, base, run_dir, status="failed", error=error, machine=on or machine())
    unknown = ("success", "success_single", "execute", "mean_return", "mean_return_single")
    nothing = dict.fromkeys(unknown) | {"episodes": 0}
    return row_of(env_steps=steps, eval_at=_nominal(job, steps), wall_seconds=round(seconds, 1), **nothing)


def progress(run_dir: Path) -> tuple[int, float]:
    """Environment steps and seconds that a run has logged; zeros if they are unknown."""
    try:
        last = read_rows(run_dir)[-1]
        return int(last["env_steps"]), float(last["seconds"])
    except (OtprError, LookupError, TypeError, ValueError, OSError):
        return 0, 0.0


def started(run_dir: Path) -> str | None:
    """When the run was first started; None if it did not record it."""
    try:
        first: Any = read_json(run_dir / "versions.json")[0]["started"]
        return datetime.datetime.fromisoformat(first).isoformat(timespec="seconds")
    except (OtprError, LookupError, TypeError, ValueError):
        return None


def last_words(file: Path, status: int) -> str:
    """Why a process failed: its exit status and the end of its standard error, at most five lines.

    Colours are removed, and folders of this machine as well, because results are kept in the repository.
    """
    text = file.read_bytes()[-16_384:].decode(errors="replace") if file.is_file() else ""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    for folder in (sys.prefix, os.getcwd(), str(Path(__file__).resolve().parents[2]), str(Path.home())):
        text = text.replace(folder.rstrip("/") + "/", "")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-5:]
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{ended}: " + "\n".join(lines)[-1000:] if lines else ended


def machine() -> str:
    """CPU model and number of cores of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        model = names[0].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return None if value is None else float(value)


def _nominal(job: Job, steps: int) -> int:
    every = job.task.budget.steps_between_evaluations
    return steps // every * every


def _row_of(job: Job, base: Base, run_dir: Path, **fields: Any) -> functools.partial[Row]:
    """A row of the run that lacks what was measured."""
    return functools.partial(
        Row,
        suite=job.suite,
        task=job.task.id,
        algorithm=job.variant.algorithm,
        preset=job.variant.settings,
        seed=job.seed,
        base=base.hash,
        settings=job.settings,
        result_version=job.result_version,
        started=started(run_dir) or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        packages=package_versions(job.task.id),
        **fields,
    )
