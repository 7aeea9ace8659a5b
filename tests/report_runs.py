"""Run directories as runs leave them, with numbers that nobody measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

CONFIG = {
    "task": "metaworld/peg-insert-side-v3",
    "seed": 3,
    "preset": "default",
    "agent": {"gamma": 0.99, "keypoint_strategy": "all", "column_relaxation": 0.0},
    "loop": {"env_steps": 2000},
}
VERSIONS = [{"started": "2026-11-22T10:00:00+00:00", "otpr": "0.1.0", "devices": ["cpu:0"], "mujoco": None}]
SUMMARY = {
    "task": "metaworld/peg-insert-side-v3",
    "algorithm": "otpr",
    "preset": "default",
    "seed": 3,
    "env_steps": 2013,
    "base_success": 0.37,
    "final_success": 0.81,
    "final_success_single": 0.74,
    "eval_episodes": 100,
    "wall_seconds": 105.7,
    "otpr/marginal_error": 0.084853,
    "code_version": "0.1.0 (b37f3ea8940c)",
}


def evaluation(step: int, rate: float, single: float | None, episodes: int = 100) -> dict[str, Any]:
    """A row of metrics of an evaluation."""
    return {
        "env_steps": step,
        "seconds": step / 20,
        "eval/success_rate": rate,
        "eval/success_rate_single": single,
        "eval/episodes": episodes,
        "eval/length": 183.06,
        "otpr/zero_compatibility/eval": 0.03,
        "eval/seconds": 13.88,
    }


def metrics(updates: int = 8) -> list[dict[str, Any]]:
    """The rows of a whole run with three evaluations."""
    rows = [evaluation(0, 0.37, 0.37), {"env_steps": 900, "rollout/success_rate_recent": 0.375}]
    for number in range(1, updates + 1):
        update = {
            "env_steps": 900,
            "updates": 250 * number,
            "critic/loss": 0.02 / number**3,
            "critic/q": 0.28,
            "critic/q_max": 1.03,
            "policy/loss": 0.29 - 0.01 * number / updates,
        }
        rows.append(update)
    errors = {"otpr/marginal_error": 0.085, "otpr/row_error": 0.1, "otpr/column_error": 0.07}
    rows.append({"env_steps": 900, "otpr/round": 1, **errors})
    rows += [evaluation(1000, 0.625, 0.58, 40), {"env_steps": 1500, "mine/further": 7.25}]
    return [*rows, evaluation(2013, 0.81, 0.74)]


def make_run(
    path: Path,
    *,
    command: str = "finetune",
    config: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    versions: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = SUMMARY,
) -> Path:
    """Write a run directory; `summary` of None is of a run that has not ended."""
    path.mkdir(parents=True)
    document = {"command": command, "config": CONFIG if config is None else config}
    (path / "config.json").write_text(json.dumps(document))
    (path / "versions.json").write_text(json.dumps(VERSIONS if versions is None else versions))
    lines = [json.dumps(row) + "\n" for row in (metrics() if rows is None else rows)]
    (path / "metrics.jsonl").write_text("".join(lines))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def film(path: Path) -> None:
    """A second of a test picture as MP4."""
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    source = ["-f", "lavfi", "-i", "testsrc=duration=1:size=64x64:rate=10", "-pix_fmt", "yuv420p"]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-loglevel", "error", *source, str(path)], check=True)
