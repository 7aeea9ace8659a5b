from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otpr.envs import ChunkedVectorEnv
from otpr.training.finetune import FineTuning
from otpr.training.progress import Progress
from tests.faults.small import CHUNK, TASK, fine_tune, rows

ROUNDS = 1000
WARM = 200  # rounds after which memory is taken to have settled: everything has been compiled and run
LOOP = {
    "num_envs": 2,
    "env_steps": ROUNDS * 12,
    "warmup_steps": 240,
    "warmup_updates": 250,
    "update_ratio": 0.1,
    "eval_every": 1200,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every": 1200,
}

# Reads the metrics again and again, until the file named STOP is there: each time all of them, and no fewer.
# A last line without its end is being written just then (a file system may show one that crosses a page so).
READER = """
import json, pathlib, sys
folder, stop = map(pathlib.Path, sys.argv[1:])
reads = most = 0
while not stop.exists():
    try:
        text = (folder / "metrics.jsonl").read_text()
    except FileNotFoundError:
        continue
    whole = text[: text.rfind("\\n") + 1]
    numbers = [json.loads(line)["row"] for line in whole.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    assert len(numbers) >= most, (len(numbers), most)
    reads, most = reads + 1, len(numbers)
print(reads, most)
"""


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return sorted(child for task in tasks for child in (task / "children").read_text().split())


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_thousand_rounds_hold_memory_files_and_processes_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, int, list[str]]] = []
    collect = FineTuning._collect

    def measure(job: FineTuning, progress: Progress) -> Any:
        collect(job, progress)
        measured.append((resident(), len(os.listdir("/proc/self/fd")), children()))

    monkeypatch.setattr(FineTuning, "_collect", measure)
    path, stop = tmp_path / "run", tmp_path / "stop"
    with (
        subprocess.Popen(
            [sys.executable, "-c", READER, str(path), str(stop)], stdout=subprocess.PIPE, text=True
        ) as reader,
        ChunkedVectorEnv(TASK, LOOP["num_envs"], CHUNK, processes=True) as env,
    ):
        try:
            job = fine_tune(path, env, **LOOP)
        finally:
            stop.touch()
        printed, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    reads, most = map(int, printed.split())
    assert reads > 100
    assert most == len(rows(path)) > 1.9 * ROUNDS
    assert len(measured) == ROUNDS
    assert job.at.updates > 1000
    memory, files, processes = zip(*measured, strict=True)
    # the mean of a hundred rounds: what is taken and given back in between is no growth
    settled, last = sum(memory[WARM : WARM + 100]) / 100, sum(memory[-100:]) / 100
    print(f"memory {settled / 2**20:.1f} MiB, at the end {last / 2**20:.1f} MiB; files {files[-1]}")
    assert last < 1.05 * settled
    assert max(files[WARM:]) == min(files[WARM:])
    assert processes[WARM] == processes[-1]
