"""From the directory of a run to its rows in the results."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json
from otpr.training.run_directory import read_rows
from otpr_bench.bases import Base
from otpr_bench.jobs import Job
from otpr_bench.results import Row

ERROR_LINES = 5
"""Of a failed run's standard error, so many last lines are kept, at most `ERROR_LENGTH` characters."""

ERROR_LENGTH = 1000


def is_finished(run_dir: Path) -> bool:
    """Whether the run in the directory came to its end: the summary is the last thing it writes."""
    return (run_dir / "summary.json").is_file()


def done_rows(job: Job, base: Base, run_dir: Path) -> list[Row]:
    """The rows of a finished run: one for each evaluation.

    A run that starts from the base policy does not evaluate it again; its first row has the success that the
    recipe measured.

    Raises:
        OtprError: the directory is not as a run leaves it.
    """
    summary = read_json(run_dir / "summary.json")
    try:
        which, steps_in_all = (summary["task"], summary["seed"]), summary["env_steps"]
    except (LookupError, TypeError) as error:
        raise DamagedFile(run_dir / "summary.json", error) from error
    if which != (job.task.id, job.seed):
        raise DamagedFile(run_dir / "summary.json", "it is of another run")
    budget = job.task.budget
    rows: dict[int, Row] = {}
    for metrics in read_rows(run_dir):
        if "eval/success_rate" not in metrics:
            continue
        try:
            steps = int(metrics["env_steps"])
            row = _row(
                job,
                base,
                run_dir,
                env_steps=steps,
                # the last evaluation is the end's, however far the last round went beyond it
                eval_at=min(steps // budget.eval_every * budget.eval_every, budget.env_steps)
                if steps < budget.env_steps
                else budget.env_steps,
                # the row says when its step began
                wall_seconds=float(metrics["seconds"]) + float(metrics["eval/seconds"]),
                success=float(metrics["eval/success_rate"]),
                success_single=_number(metrics.get("eval/success_rate_single")),
                episodes=int(metrics["eval/episodes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(run_dir / "metrics.jsonl", error) from error
        # where rounds are longer than the steps between evaluations, the later one is nearer to the next step
        rows[row.eval_at] = row
    rows.setdefault(
        0,
        _row(
            job,
            base,
            run_dir,
            env_steps=0,
            eval_at=0,
            wall_seconds=0.0,
            success=base.success,
            success_single=base.success,
            episodes=base.episodes,
        ),
    )
    if steps_in_all and budget.env_steps not in rows:
        raise DamagedFile(run_dir / "metrics.jsonl", "the last evaluation is missing")
    return [rows[at] for at in sorted(rows)]


def failed_row(job: Job, base: Base, run_dir: Path, error: str) -> Row:
    """The one row of a run that failed; `error` says why."""
    steps, seconds = progress(run_dir)
    return _row(
        job,
        base,
        run_dir,
        env_steps=steps,
        eval_at=steps // job.task.budget.eval_every * job.task.budget.eval_every,
        wall_seconds=seconds,
        success=None,
        success_single=None,
        episodes=0,
        error=error or "it said nothing",
    )


def progress(run_dir: Path) -> tuple[int, float]:
    """Environment steps and seconds that a run has logged; zeros where that cannot be told."""
    try:
        last = read_rows(run_dir)[-1]
        return int(last["env_steps"]), float(last["seconds"])
    except (OtprError, IndexError, KeyError, TypeError, ValueError, OSError):
        return 0, 0.0


def last_words(file: Path, status: int) -> str:
    """Why a process failed, from the end of its standard error.

    Without colours, and without folders of this machine, since results are kept in the repository.
    """
    text = file.read_bytes()[-16_384:].decode(errors="replace") if file.is_file() else ""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    for folder in (sys.prefix, os.getcwd(), str(Path(__file__).resolve().parents[2]), str(Path.home())):
        text = text.replace(folder.rstrip("/") + "/", "")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-ERROR_LINES:]
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{ended}: " + "\n".join(lines)[-ERROR_LENGTH:] if lines else ended


def machine() -> str:
    """CPU model and number of cores of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        model = names[0].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


def _row(
    job: Job,
    base: Base,
    run_dir: Path,
    *,
    env_steps: int,
    eval_at: int,
    wall_seconds: float,
    success: float | None,
    success_single: float | None,
    episodes: int,
    error: str = "",
) -> Row:
    return Row(
        suite=job.suite,
        task=job.task.id,
        algorithm=job.method.algorithm,
        preset=job.method.settings,
        seed=job.seed,
        env_steps=env_steps,
        eval_at=eval_at,
        wall_seconds=round(wall_seconds, 1),
        success=success,
        success_single=success_single,
        episodes=episodes,
        base=base.hash,
        settings=job.settings,
        code_version=job.code_version,
        machine=machine(),
        status="failed" if error else "done",
        error=error,
        started=started(run_dir),
    )


def started(run_dir: Path) -> str:
    """When the run started first; now where it did not come so far."""
    try:
        first: Any = read_json(run_dir / "versions.json")[0]["started"]
        return datetime.datetime.fromisoformat(first).isoformat(timespec="seconds")
    except (OtprError, LookupError, TypeError, ValueError):
        return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
