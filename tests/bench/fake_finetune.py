"""Stands for `otpr` in tests of the queue: it leaves what a run leaves, in no time.

Each call is appended to a file, a JSON list a line. The behaviour is, by seed, what a run does instead of
going well, and "base": the success rate of base policies.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otpr.training.stopping import StopRequest

ROUND = 100  # environment steps


def carry_out(calls: str, behaviour: dict[str, Any], arguments: Sequence[str]) -> int:
    with open(calls, "a") as file:
        file.write(json.dumps(list(arguments)) + "\n")
    if arguments[0] == "base":
        return base(*arguments[1:], behaviour.get("base", 0.3))
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    return finetune(options, behaviour.get(options["--seed"], "well"), "--resume" in arguments)


def base(folder: str, task: str, recipe: str, success: float | str) -> int:
    if success == "fail":
        print("otpr: the expert is hopeless", file=sys.stderr)
        return 2
    # only here: a run that imports nothing starts at once
    from otpr_bench.bases import finish_base
    from otpr_bench.suites import Recipe

    for name in ("demonstrations/data/main.hdf5", "pretrain/policy/weights.safetensors"):
        file = Path(folder, name)
        file.parent.mkdir(parents=True)
        file.write_bytes(f"{task} {recipe}".encode())
    success = float(success)
    finish_base(
        Path(folder), task, Recipe(**json.loads(recipe)), success=success, mean_return=2 * success, execute=4
    )
    return 0


def finetune(options: dict[str, str], behaviour: str, resume: bool) -> int:
    run = Path(options["--run-dir"])
    if behaviour == "fail":
        print("Traceback of\n\x1b[31mValueError\x1b[0m: no luck", file=sys.stderr)
        return 1
    config = {"policy": options["--policy"], "data": [options["--data"]]}
    if resume:
        for name in ("config.json", "versions.json", "metrics.jsonl"):
            for text in (run / name).read_text().splitlines():
                try:
                    document = json.loads(text)
                except ValueError:
                    print(f"otpr: {name} is damaged", file=sys.stderr)
                    return 2
                if name == "config.json" and document["config"] != config:
                    print("otpr: the run was configured otherwise", file=sys.stderr)
                    return 2
    else:
        run.mkdir()  # an error where there is one
        (run / "config.json").write_text(json.dumps({"command": "finetune", "config": config}))
        started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        (run / "versions.json").write_text(json.dumps([{"started": started}]))
        (run / "metrics.jsonl").touch()
    with open(run / "lock", "a") as lock, StopRequest() as stop:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return steps(run, options, behaviour, stop)


def checkpoint(run: Path, number: int) -> None:
    """One that appears whole."""
    new = run / "checkpoints" / f".{number}"
    new.mkdir(parents=True)
    (new / "arrays").write_text(str(number))
    new.rename(run / "checkpoints" / str(number))


def steps(run: Path, options: dict[str, str], behaviour: str, stop: StopRequest) -> int:
    total, every = int(options["--env-steps"]), int(options["--eval-every"])
    done = len((run / "metrics.jsonl").read_text().splitlines()) * ROUND
    while behaviour == "meet" and len(list(run.parent.glob("seed*/metrics.jsonl"))) < 2:
        time.sleep(0.02)
    while done < total:
        time.sleep({"endless": 0.1, "deaf": 0.1, "slow": 0.5}.get(behaviour, 0.005))
        if stop.requested and behaviour != "deaf":
            return 0
        if behaviour == "raise" and done >= total // 2:
            raise RuntimeError("out of the blue")
        if behaviour == "quit" and done >= total // 2:
            return 0
        dies = behaviour == "die" or (behaviour == "die once" and not (run / "died").exists())
        if dies and done >= total // 2:
            (run / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour in ("endless", "deaf") and done >= total // 2:
            continue
        done += ROUND
        row = {"env_steps": done, "row": done // ROUND, "seconds": done / 100}
        if done % every == 0:
            row |= {"eval/success_rate": done / total, "eval/episodes": 10, "eval/seconds": 0.5}
            row |= {"eval/execute": 2, "eval/return": 2 * done / total}
            row["eval/success_rate_single"] = 0.25 if done == total else None
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if behaviour == "slow":
            checkpoint(run, done)
    if behaviour == "no-end":
        rows = (run / "metrics.jsonl").read_text().splitlines()[:-1]
        (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (run / "checkpoints").mkdir(exist_ok=True)
    summary = {"task": options["--task"], "seed": int(options["--seed"]), "env_steps": done}
    (run / "summary.json").write_text(json.dumps(summary))
    return 0
