"""`make tasks`: every task's expert measured, its picture taken, and both shown in docs/tasks.md.

The measurements are kept in results/tasks.jsonl, a line a task, written as they come: a task that is there is
not measured again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otpr.data.seeds import evaluation_seed
from otpr.envs import TaskSpec, list_tasks, make_env, make_expert
from otpr.envs.task_env import TaskEnv
from otpr.training.versions import code_version

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "tasks.jsonl"
PAGE = ROOT / "docs" / "tasks.md"
PICTURES = ROOT / "docs" / "tasks"

EPISODES = 50
RANDOM_STEPS = 200
"""Steps of random actions over which the speed of a task without an expert is taken."""
PICTURE_AT = 25
"""The step at which the picture is taken: the arm is under way."""
PICTURE_SIZE = 128


def main() -> None:
    """Measure what is not measured yet, take the missing pictures, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="tasks whose id begins with this, e.g. fetch/")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="how many for each expert")
    arguments = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported
    measured = {row["task"]: row for row in read_results()}
    for task in list_tasks():
        if not task.installed or not task.id.startswith(arguments.only):
            continue
        if task.id not in measured:
            measured[task.id] = measure(task, arguments.episodes)
            print(json.dumps(measured[task.id]), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(measured[task.id]) + "\n")
        if not picture_path(task).exists():
            take_picture(task)
    PAGE.write_text(page(list_tasks(), measured))


def read_results() -> list[dict[str, Any]]:
    """The measurements so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measure(task: TaskSpec, episodes: int = EPISODES) -> dict[str, Any]:
    """Success of the expert from the first held-out initial conditions, without noise; and the speed.

    Without an expert, the speed alone, under random actions. The time of the expert itself is kept apart.
    """
    env = make_env(task.id)
    row: dict[str, Any] = {"task": task.id, "code_version": code_version()}
    steps, seconds, thinking = 0, 0.0, 0.0
    lengths: list[int] = []
    try:
        if not task.expert:
            steps, seconds = _random_steps(env)
        else:
            expert = make_expert(task.id, env)
            for i in range(episodes):
                success, length, spent, thought = _episode(env, expert, evaluation_seed(i))
                steps, seconds, thinking = steps + length, seconds + spent, thinking + thought
                lengths += [length] if success else []
            row |= {
                "episodes": episodes,
                "successes": len(lengths),
                "median_steps": statistics.median(lengths) if lengths else None,
                "expert_ms_per_step": round(1e3 * thinking / steps, 2),
            }
    finally:
        env.close()
    return {**row, "steps_per_second": round(steps / seconds)}


def _episode(env: TaskEnv, expert: Any, seed: int) -> tuple[bool, int, float, float]:
    """Success, steps, and the seconds that the simulator and the expert took."""
    observation, info = env.reset(seed=seed)
    expert.reset()
    steps, seconds, thinking, success, over = 0, 0.0, 0.0, False, False
    while not over:
        started = time.perf_counter()
        action = expert.act(observation)
        acted = time.perf_counter()
        observation, _, terminated, truncated, info = env.step(action)
        seconds, thinking = seconds + time.perf_counter() - acted, thinking + acted - started
        steps, success, over = steps + 1, success or info["success"], terminated or truncated
    return success, steps, seconds, thinking


def _random_steps(env: TaskEnv) -> tuple[int, float]:
    generator = np.random.default_rng(0)
    env.reset(seed=evaluation_seed(0))
    seconds = 0.0
    for _ in range(RANDOM_STEPS):
        action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        started = time.perf_counter()
        *_, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - started
        if terminated or truncated:
            env.reset(seed=evaluation_seed(1))
    return RANDOM_STEPS, seconds


def take_picture(task: TaskSpec) -> None:
    """A small picture of the task under way: by the expert, or by random actions where there is none."""
    env = make_env(task.id, "rgb_array")
    generator = np.random.default_rng(0)
    try:
        observation, _ = env.reset(seed=evaluation_seed(0))
        expert = make_expert(task.id, env) if task.expert else None
        if expert is not None:
            expert.reset()
        for _ in range(PICTURE_AT):
            random = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            action = random if expert is None else expert.act(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        picture = Image.fromarray(env.render()).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    finally:
        env.close()
    picture_path(task).parent.mkdir(parents=True, exist_ok=True)
    picture.save(picture_path(task), quality=85)


def picture_path(task: TaskSpec) -> Path:
    """Where the picture of a task goes."""
    return PICTURES / f"{task.id}.jpg"


def page(tasks: list[TaskSpec], measured: dict[str, dict[str, Any]]) -> str:
    """docs/tasks.md."""
    lines = [
        "# All tasks",
        "",
        "Written by `make tasks` from [results/tasks.jsonl](../results/tasks.jsonl); do not edit.",
        "",
        "Expert: successes of the scripted expert in held-out episodes without action noise. Steps: their",
        "median length. Steps/s: one simulator on one core of a shared machine, without the expert (random",
        "actions if there is none); compare tasks, not absolute speeds.",
        "",
        "Your own environments: `gym/ID` or `module:factory` ([bring-your-own.md](bring-your-own.md)).",
        "",
        "`make setup` installs all simulators except LIBERO. The commands below install one elsewhere; from",
        "a checkout, write `-e '.[metaworld]'` instead of `'otpr[metaworld]'`.",
    ]
    suite = ""
    for task in tasks:
        if (name := task.id.split("/")[0]) != suite:
            suite = name
            lines += ["", f"## {suite}", "", f"`{task.install}`" + _more(suite), ""]
            if not task.extra:  # it needs a separate environment, where only some tasks were measured
                count = sum(other.id.startswith(f"{suite}/") for other in tasks)
                lines += [f"{count} tasks in a separate environment, of which these were measured:", ""]
            lines += [
                "| | task | observation | action | limit | expert | steps | steps/s |",
                "|" + "---|" * 8,
            ]
        if not task.extra and task.id not in measured:
            continue
        row = measured.get(task.id, {})
        picture = f"![{task.id}](tasks/{task.id}.jpg)" if picture_path(task).exists() else ""
        observation = sum(math.prod(entry.shape) for entry in task.spec.observation.values())
        cells = [picture, f"`{task.id}`", observation, task.spec.action_dim, task.episode_limit]
        if "successes" in row:
            cells += [f"{row['successes']} of {row['episodes']}", f"{row['median_steps'] or 0:g}"]
        else:
            cells += ["" if task.expert else "none", ""]
        cells.append(row.get("steps_per_second", ""))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _more(suite: str) -> str:
    text = PICTURES / f"{suite}.md"
    return f" · [what the tasks are](tasks/{suite}.md)" if text.exists() else ""


if __name__ == "__main__":
    main()
