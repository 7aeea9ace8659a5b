"""`otpr info`: what is installed here, and what there is to do."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any

import tyro

from otpr.data.agreement import of_task
from otpr.data.meaning import listed
from otpr.envs import Setup, TaskSpec, cameras_of, list_tasks
from otpr.envs.registry import known_task
from otpr.envs.shifts import SHIFTS
from otpr.envs.user_env import is_user_task
from otpr.spec import json_ready
from otpr.training.versions import software_versions


@dataclasses.dataclass(frozen=True)
class Info:
    """Versions, devices and every task; or what is known of one task."""

    # task id; left out, everything is told
    task: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = None
    # as JSON, for programs
    json: bool = False

    def run(self) -> None:
        """Print it."""
        if self.task is not None:
            task = known_task(self.task)
            cameras = cameras_of(task.id) if task.installed else ()
            if self.json:
                print(json.dumps({**_as_json(task), "cameras": cameras}, indent=2))
            else:
                print(_described(task, cameras))
            return
        versions = software_versions()
        tasks = list_tasks()
        if self.json:
            known = {"versions": versions, "shifts": _shifts(), "tasks": [_as_json(task) for task in tasks]}
            print(json.dumps(known, indent=2))
            return
        for name, value in versions.items():
            missing = "not in a git checkout" if name == "git_commit" else "not installed"
            shown = ", ".join(value) if isinstance(value, list) else value or missing
            print(f"{name:18} {shown}")
        # plain text, and no table that is cut where the terminal is narrow: it is there to be searched
        row = "{:40} {:>11} {:>6} {:>11} {:>6}  {}"
        print("\n" + row.format("task", "observation", "action", "steps limit", "expert", "simulator"))
        for task in tasks:
            numbers = sum(math.prod(entry.shape) for entry in task.spec.observation.values())
            expert = "yes" if task.expert else "no"
            print(
                row.format(
                    task.id, numbers, task.spec.action_dim, task.episode_limit, expert, _simulator(task)
                )
            )
        print(f"\nshifts: {', '.join(SHIFTS)} (docs/shifts.md)\n")
        print("and gym/ID (any Gymnasium environment) and module:factory (yours): docs/bring-your-own.md")


def _shifts() -> dict[str, Any]:
    return {name: dataclasses.asdict(definition) for name, definition in SHIFTS.items()}


def _as_json(task: TaskSpec) -> dict[str, Any]:
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    known = {name: value for name, value in fields.items() if name not in ("setup", "columns")}
    geometry = None if task.geometry is None else dataclasses.asdict(task.geometry)
    return json_ready({"id": task.id, **known, "spec": task.spec.to_json(), "geometry": geometry})


def _described(task: TaskSpec, cameras: tuple[str, ...]) -> str:
    limit = task.episode_limit
    seen = [f"cameras       {', '.join(cameras)}"] if cameras else []
    if not is_user_task(task.id):
        own = known_task(Setup(task.id, observe="proprioception"))
        parts = own.parts or (("state", own.spec.observation["state"].shape[0]),)
        seen.append(f"proprioception {listed(parts)}")
    return "\n".join(
        [
            task.id,
            *task.spec.lines(),
            *of_task(task).meaning.lines(),
            f"episode limit {'none declared: give --episode-limit' if limit is None else f'{limit} steps'}",
            f"expert        {'scripted' if task.expert else 'none'}",
            *seen,
            f"simulator     {_simulator(task)}",
        ]
    )


def _simulator(task: TaskSpec) -> str:
    return "installed" if task.installed else f"not installed: {task.install}"
